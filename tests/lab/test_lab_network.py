"""The lab's map carries packets, and what is asked in it is told truly."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from lbprov.lab import Broken, Host, Lab, NodeHost, PodHost, Probe, Refused, Reply, TimedOut, Unreachable


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open() as lab:
        nodes = [lab.add_node(f"node-{n}") for n in (1, 2, 3)]
        lab.add_pod("pod-a", nodes[0]).serve(http=80, udp=53)
        lab.add_pod("pod-b", nodes[0]).serve(http=80, udp=53)
        lab.add_pod("pod-c", nodes[1]).serve(http=80, udp=53)
        lab.add_client("client")
        yield lab


def _pod(lab: Lab, name: str) -> PodHost:
    host = lab.hosts[name]
    assert isinstance(host, PodHost)
    return host


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["http", "udp"])
@pytest.mark.parametrize(
    ("asking", "answering"),
    [
        pytest.param("pod-a", "pod-b", id="same-node"),
        pytest.param("pod-a", "pod-c", id="other-node"),
        pytest.param("pod-a", "pod-a", id="itself"),
    ],
)
def test_pods_reach_pods_with_their_own_address(
    lab: Lab, asking: str, answering: str, protocol: str, family: int
) -> None:
    client, server = _pod(lab, asking), _pod(lab, answering)
    ip, own = (server.ipv4, client.ipv4) if family == 4 else (server.ipv6, client.ipv6)
    [[answer]] = client.ask([Probe(ip, 80 if protocol == "http" else 53, protocol)])
    assert isinstance(answer, Reply)
    assert (answer.status, answer.hostname, answer.server_ip, answer.client) == (200, answering, ip, own)


def test_a_node_reaches_its_pods_from_the_gateway_and_others_from_the_lan(lab: Lab) -> None:
    pod = _pod(lab, "pod-c")
    seen = [node.http_get(pod.ipv4, 80) for node in lab.nodes]
    assert [a.client for a in seen if isinstance(a, Reply)] == ["192.0.2.11", "10.244.2.1", "192.0.2.13"]


def test_a_client_reaches_nodes_but_no_pods_until_it_has_a_route(lab: Lab) -> None:
    client = lab.add_client("late-client")
    node, pod = lab.nodes[0], _pod(lab, "pod-a")
    assert isinstance(client.http_get(node.ipv4, 80), Refused)
    assert isinstance(client.http_get(node.ipv6, 80), Refused)
    assert isinstance(client.udp_ask(node.ipv4, 53), Refused)
    assert isinstance(client.http_get(pod.ipv4, 80, timeout_s=0.2), TimedOut)
    for cidr in node.pod_cidrs:
        client.route(cidr, via=node)
    for ip in pod.ips:
        answer = client.http_get(ip, 80)
        assert isinstance(answer, Reply)
        assert answer.client in client.ips


def test_a_second_address_is_reached_by_route(lab: Lab) -> None:
    server, client = lab.add_client("two-addresses"), lab.hosts["client"]
    for vip in ("203.0.113.10", "2001:db8:2::10"):
        server.add_address(vip)
        server.add_address(vip)
        client.route(vip, via=server)
    server.serve(http=80, udp=53)
    for vip in ("203.0.113.10", "2001:db8:2::10"):
        answer = client.http_get(vip, 80)
        assert isinstance(answer, Reply)
        assert answer.server_ip == vip


def test_no_way_is_told_apart_from_no_answer(lab: Lab) -> None:
    pod = _pod(lab, "pod-a")
    pod.run(["ip", "route", "add", "unreachable", "198.51.100.0/24"])
    assert isinstance(pod.http_get("198.51.100.1", 80), Unreachable)


def test_a_connection_that_is_cut_is_broken_not_refused(lab: Lab) -> None:
    cutter = (
        "import socket; s = socket.create_server(('', 81)); print('ready', flush=True)\n"
        "while True: s.accept()[0].close()"
    )
    pod = _pod(lab, "pod-b")
    process = pod.popen(["python3", "-c", cutter], stdout=subprocess.PIPE)
    pod.await_ready(process)
    assert isinstance(_pod(lab, "pod-a").http_get(pod.ipv4, 81), Broken)


def test_many_probes_wait_for_their_timeouts_together_and_keep_their_order(lab: Lab) -> None:
    pods = [_pod(lab, "pod-a"), _pod(lab, "pod-b")]
    silent = [Probe("192.0.2.250", 80, timeout_s=0.5)] * 8
    answers = lab.nodes[0].ask([*silent, *(Probe(p.ipv4, 80, times=3) for p in pods)])
    assert all(not isinstance(a, Reply) for per_probe in answers[:8] for a in per_probe)
    names = [[a.hostname for a in per_probe if isinstance(a, Reply)] for per_probe in answers[8:]]
    assert names == [["pod-a"] * 3, ["pod-b"] * 3]


def test_the_source_of_a_request_can_be_chosen(lab: Lab) -> None:
    client, node = lab.hosts["client"], lab.nodes[1]
    client.add_address("192.0.2.200")
    client.route(node.pod_cidrs[0], via=node)
    [[answer]] = client.ask([Probe(_pod(lab, "pod-c").ipv4, 80, source_ip="192.0.2.200")])
    assert isinstance(answer, Reply)
    assert answer.client == "192.0.2.200"


def test_a_server_told_to_end_refuses_new_requests_and_a_loop_notices(lab: Lab) -> None:
    pod = lab.add_pod("short-lived", lab.nodes[2])
    server = pod.serve(http=80)
    asking = lab.nodes[0].keep_asking([Probe(pod.ipv4, 80)])
    while not isinstance(lab.nodes[1].http_get(pod.ipv4, 80), Reply):
        pass
    server.terminate()
    assert server.wait(timeout=60) == 0
    assert isinstance(lab.nodes[1].http_get(pod.ipv4, 80), Refused)
    counted = asking.stop()
    assert counted.by_hostname.get("short-lived", 0) + len(counted.failures) == counted.made
    assert all(f.startswith(f"{pod.ipv4}:80 refused ") for f in counted.failures)


def test_a_removed_pod_is_gone_and_its_name_is_free(lab: Lab) -> None:
    node = lab.nodes[2]
    pod = lab.add_pod("removed", node)
    server = pod.serve(http=80)
    lab.remove(pod)
    assert server.poll() is not None
    with pytest.raises(RuntimeError, match="no longer"):
        pod.run(["true"])
    assert not isinstance(lab.nodes[0].http_get(pod.ipv4, 80, timeout_s=0.2), Reply)
    again = lab.add_pod("removed", node, ipv4=pod.ipv4, ipv6="")
    again.serve(http=80)
    assert again.ips == (pod.ipv4,)
    assert isinstance(lab.nodes[0].http_get(pod.ipv4, 80), Reply)
    lab.remove(again)


def test_names_are_unique(lab: Lab) -> None:
    with pytest.raises(ValueError, match="pod-a already"):
        lab.add_client("pod-a")


def test_a_program_runs_as_elsewhere(lab: Lab) -> None:
    host: Host = lab.hosts["client"]
    assert host.run(["hostname"]).stdout == "client\n"
    assert host.run(["cat"], input="to and fro").stdout == "to and fro"
    assert host.run(["sh", "-c", "exit 3"], check=False).returncode == 3
    with pytest.raises(subprocess.CalledProcessError) as raised:
        host.script("echo first\nfalse\necho never")
    assert raised.value.stdout == "first\n"
    process = host.popen(["sleep", "1000"])
    process.kill()
    assert process.wait() == -9


def test_a_signal_reaches_the_program_and_not_what_stands_before_it(lab: Lab) -> None:
    process = lab.hosts["client"].popen(
        ["sh", "-c", "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.01; done"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.stdout.readline() == "told\n"
    assert process.wait(timeout=60) == 7


def test_every_host_has_a_lock_file_folder_of_its_own(lab: Lab) -> None:
    lab.nodes[0].run(["touch", "/run/xtables.lock"])
    assert lab.nodes[1].run(["ls", "/run"]).stdout == ""


def test_iptables_works_in_a_node_and_stays_there(lab: Lab) -> None:
    node: NodeHost = lab.nodes[0]
    rule = ["OUTPUT", "-d", "192.0.2.77", "-j", "REJECT"]
    node.run(["iptables", "-w", "-A", *rule])
    assert isinstance(node.http_get("192.0.2.77", 80), Refused)
    assert "192.0.2.77" not in lab.nodes[1].run(["iptables", "-S"]).stdout
    node.run(["iptables", "-w", "-D", *rule])
