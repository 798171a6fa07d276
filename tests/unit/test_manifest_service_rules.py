"""What a Service's manifest may say: each rule of the API server, one bad (or just good) manifest each."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbprov.cluster.manifests import ManifestCluster
from lbprov.model import IPFamily, Service, TrafficPolicy

PORTS = "ports: [{port: 80}]"


def _read(folder: Path, spec: str, name: str = "web", metadata: str = "") -> tuple[list[str], list[Service]]:
    """(problems as `field: message`, Services accepted)"""
    lines = "".join(f"  {line}\n" for line in spec.strip().splitlines())
    (folder / "a.yaml").write_text(
        f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n{metadata}spec:\n{lines}"
    )
    snapshot = ManifestCluster.open(folder).snapshot()
    assert all(p.where.startswith(f"{folder}/a.yaml:") for p in snapshot.problems)
    return [f"{p.field}: {p.message}" for p in snapshot.problems], list(snapshot.services)


LB, NP = f"type: LoadBalancer\n{PORTS}", f"type: NodePort\n{PORTS}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("selector: {a: b}", "spec.ports: required", id="no-ports"),
        pytest.param("ports: []", "spec.ports: required", id="empty-ports"),
        pytest.param("ports: [{targetPort: 80}]", "spec.ports[0].port: required", id="no-port"),
        pytest.param("ports: [{port: 0}]", "spec.ports[0].port: 0 is outside 1-65535", id="port-0"),
        pytest.param(
            "ports: [{port: 65536}]", "spec.ports[0].port: 65536 is outside 1-65535", id="port-65536"
        ),
        pytest.param("ports: [{port: -1}]", "spec.ports[0].port: -1 is outside", id="port-negative"),
        pytest.param(
            'ports: [{port: "80"}]',
            'spec.ports[0].port: "80" is a string; an integer is allowed',
            id="port-text",
        ),
        pytest.param(
            "ports: [{port: 80.5}]", "spec.ports[0].port: 80.5 is a number; an integer", id="port-float"
        ),
        pytest.param("ports: [{port: true}]", "spec.ports[0].port: true is a boolean", id="port-boolean"),
        pytest.param(
            "ports: [{port: 99999999999999999999}]",
            "spec.ports[0].port: 99999999999999999999 does not fit in 32 bits",
            id="port-huge",
        ),
        pytest.param(
            f"ports: [{{port: {'9' * 5000}}}]", "spec.ports[0].port: inf is a number", id="port-vast"
        ),
        pytest.param("ports: [{port: .nan}]", "spec.ports[0].port: nan is a number", id="port-nan"),
        pytest.param(
            "ports: {port: 80}", "spec.ports: a mapping is a mapping; a list is allowed", id="ports-map"
        ),
        pytest.param(
            "ports: [80]", "spec.ports[0]: 80 is an integer; a mapping is allowed", id="ports-of-ints"
        ),
        pytest.param("ports: [null]", "spec.ports[0]: null is null; a mapping is allowed", id="ports-null"),
        pytest.param(
            "ports: [{port: 80, protocol: tcp}]",
            'spec.ports[0].protocol: "tcp" is not one of TCP, UDP, SCTP',
            id="protocol",
        ),
        pytest.param(
            "ports: [{port: 80}, {port: 81, name: b}]",
            "spec.ports[0].name: required: with several",
            id="no-name",
        ),
        pytest.param(
            "ports: [{port: 80, name: a}, {port: 81, name: a}]",
            'spec.ports[1].name: "a" is the name of spec.ports[0] too',
            id="same-name",
        ),
        pytest.param(
            "ports: [{port: 80, name: A}]", 'spec.ports[0].name: "A" is not allowed', id="name-upper"
        ),
        pytest.param(
            "ports: [{port: 80, name: a}, {port: 80, name: b}]",
            "spec.ports[1].port: 80/TCP is spec.ports[0]'s too",
            id="same-port",
        ),
        pytest.param(
            "ports: [{port: 80, targetPort: 70000}]",
            "spec.ports[0].targetPort: 70000 is outside",
            id="target-range",
        ),
        pytest.param(
            "ports: [{port: 80, targetPort: a-name-that-is-too-long}]",
            'spec.ports[0].targetPort: "a-name-that-is-too-long" is not allowed as a port\'s name',
            id="target-name-long",
        ),
        pytest.param(
            'ports: [{port: 80, targetPort: "80"}]',
            'spec.ports[0].targetPort: "80" is not allowed',
            id="target-digits",
        ),
        pytest.param(
            "ports: [{port: 80, nodePort: 30080}]",
            "spec.ports[0].nodePort: 30080 is given, but only",
            id="np-type",
        ),
        pytest.param(
            "type: NodePort\nports: [{port: 80, nodePort: 40000}]",
            "spec.ports[0].nodePort: 40000 is outside 30000-32767",
            id="np-range",
        ),
        pytest.param(
            "type: NodePort\n"
            "ports: [{port: 80, nodePort: 30080, name: a}, {port: 81, nodePort: 30080, name: b}]",
            "spec.ports[1].nodePort: 30080/TCP is spec.ports[0]'s too",
            id="np-twice",
        ),
        pytest.param(
            "type: NodePort\n"
            "ports: [{port: 53, name: a, nodePort: 30053}, "
            "{port: 54, name: b, nodePort: 30053, protocol: UDP}]",
            "spec.ports[1].nodePort: 30053 is port 53's",
            id="np-of-two-ports",
        ),
        pytest.param(
            'ports: [{port: 80, appProtocol: ""}]', 'spec.ports[0].appProtocol: "" is not', id="app-protocol"
        ),
        pytest.param(f"type: Balancer\n{PORTS}", 'spec.type: "Balancer" is not one of ClusterIP', id="type"),
        pytest.param(f"type: 5\n{PORTS}", "spec.type: 5 is an integer; a string is allowed", id="type-int"),
        pytest.param(
            f"{PORTS}\nselector: {{'-a': b}}", 'spec.selector[-a]: "-a" is not allowed', id="selector-key"
        ),
        pytest.param(
            f"{PORTS}\nselector: {{a: 'b c'}}", 'spec.selector.a: "b c" is not allowed', id="selector-value"
        ),
        pytest.param(
            f"{PORTS}\nselector: {{a: 1}}", "spec.selector.a: 1 is an integer; a string", id="selector-int"
        ),
        pytest.param(
            f"{PORTS}\nclusterIP: 10.200.0.1", "spec.clusterIP: 10.200.0.1 is outside", id="ip-range"
        ),
        pytest.param(
            f"{PORTS}\nclusterIP: 10.96.0.0", "spec.clusterIP: 10.96.0.0 is outside", id="ip-network"
        ),
        pytest.param(
            f"{PORTS}\nclusterIP: 10.96.0.300", 'spec.clusterIP: "10.96.0.300" is not an IP', id="ip-bad"
        ),
        pytest.param(
            f"{PORTS}\nclusterIP: 10.96.00.1", 'spec.clusterIP: "10.96.00.1" is not an IP', id="ip-zeros"
        ),
        pytest.param(
            f"{NP}\nclusterIP: None", "spec.clusterIP: None is not allowed with type", id="headless-np"
        ),
        pytest.param(
            f"{LB}\nclusterIP: None", "spec.clusterIP: None is not allowed with type", id="headless-lb"
        ),
        pytest.param(
            f"{PORTS}\nclusterIPs: [10.96.3.3]", "spec.clusterIPs: only allowed together with", id="ips-alone"
        ),
        pytest.param(
            f"{PORTS}\nclusterIP: 10.96.3.3\nclusterIPs: [10.96.3.4]", "spec.clusterIPs[0]: ", id="ips-differ"
        ),
        pytest.param(
            f"{PORTS}\nclusterIP: None\nclusterIPs: [None, 10.96.3.4]",
            "spec.clusterIPs[0]: None must be",
            id="ips-none",
        ),
        pytest.param(
            f"{PORTS}\nipFamilyPolicy: RequireDualStack\nclusterIP: 10.96.3.3\n"
            "clusterIPs: [10.96.3.3, 10.96.3.4]",
            "spec.clusterIPs: both are of one family",
            id="ips-one-family",
        ),
        pytest.param(f"{PORTS}\nipFamilies: [IPv5]", 'spec.ipFamilies[0]: "IPv5" is not one of', id="family"),
        pytest.param(
            f"{PORTS}\nipFamilies: [IPv4, IPv4]", "spec.ipFamilies[1]: IPv4 is given twice", id="family-2"
        ),
        pytest.param(
            f"{PORTS}\nipFamilyPolicy: SingleStack\nipFamilies: [IPv4, IPv6]",
            "spec.ipFamilyPolicy: Single",
            id="single",
        ),
        pytest.param(
            f"{PORTS}\nipFamilies: [IPv4, IPv6]",
            "spec.ipFamilyPolicy: required with two families",
            id="no-policy",
        ),
        pytest.param(
            f"{PORTS}\nipFamilies: [IPv6]\nclusterIP: 10.96.3.3",
            "spec.clusterIP: 10.96.3.3 is not IPv6, which spec.ipFamilies[0] says",
            id="family-ip",
        ),
        pytest.param(
            f"{PORTS}\nexternalIPs: [127.0.0.1]", "spec.externalIPs[0]: 127.0.0.1 is not", id="ext-loop"
        ),
        pytest.param(f"{PORTS}\nexternalIPs: [169.254.1.1]", "it is link-local", id="ext-link-local"),
        pytest.param(f"{PORTS}\nexternalIPs: [0.0.0.0]", "it is unspecified", id="ext-unspecified"),
        pytest.param(f"{PORTS}\nexternalIPs: [224.0.0.9]", "link-local multicast", id="ext-multicast"),
        pytest.param(f"{PORTS}\nexternalIPs: ['ff12::9']", "link-local multicast", id="ext-multicast-6"),
        pytest.param(f"{PORTS}\nexternalIPs: ['::ffff:1.2.3.4']", "not mapped from IPv4", id="ext-mapped"),
        pytest.param(f"{PORTS}\nexternalIPs: [host.example]", "is not an IP address", id="ext-name"),
        pytest.param(
            f"{PORTS}\nloadBalancerSourceRanges: [10.0.0.0/8]",
            "spec.loadBalancerSourceRanges: only allowed with type LoadBalancer",
            id="ranges-type",
        ),
        pytest.param(
            f"{LB}\nloadBalancerSourceRanges: [10.0.0.1/8]", "write 10.0.0.0/8", id="ranges-host-bits"
        ),
        pytest.param(
            f"{LB}\nloadBalancerSourceRanges: [10.0.0.1]", "is not a CIDR: write", id="ranges-no-prefix"
        ),
        pytest.param(f"{LB}\nloadBalancerSourceRanges: [10.0.0.0/33]", "is not a CIDR", id="ranges-prefix"),
        pytest.param(
            f"{PORTS}\nloadBalancerClass: a/b", "spec.loadBalancerClass: only allowed", id="class-type"
        ),
        pytest.param(f"{LB}\nloadBalancerClass: a/b/c", "spec.loadBalancerClass: ", id="class-syntax"),
        pytest.param(
            f"{NP}\nallocateLoadBalancerNodePorts: true",
            "spec.allocateLoadBalancerNodePorts: only",
            id="allocate-type",
        ),
        pytest.param(
            f"{PORTS}\nexternalTrafficPolicy: Local",
            "spec.externalTrafficPolicy: only allowed where",
            id="etp-type",
        ),
        pytest.param(
            f"{NP}\nexternalTrafficPolicy: Near", 'spec.externalTrafficPolicy: "Near" is not', id="etp-value"
        ),
        pytest.param(f"{PORTS}\ninternalTrafficPolicy: Near", "spec.internalTrafficPolicy: ", id="itp-value"),
        pytest.param(f"{PORTS}\ntrafficDistribution: Near", "spec.trafficDistribution: ", id="distribution"),
        pytest.param(
            f"{LB}\nhealthCheckNodePort: 30500", "spec.healthCheckNodePort: only allowed", id="hcnp-cluster"
        ),
        pytest.param(
            f"{LB}\nexternalTrafficPolicy: Local\nhealthCheckNodePort: 80",
            "spec.healthCheckNodePort: 80 is outside 30000-32767",
            id="hcnp-range",
        ),
        pytest.param(
            f"{LB}\nexternalTrafficPolicy: Local\nhealthCheckNodePort: 70000",
            "spec.healthCheckNodePort: 70000 is outside 1-65535",
            id="hcnp-port",
        ),
        pytest.param(
            "type: LoadBalancer\nports: [{port: 80, nodePort: 30500}]\nexternalTrafficPolicy: Local\n"
            "healthCheckNodePort: 30500",
            "spec.healthCheckNodePort: 30500 is the nodePort of one of spec.ports",
            id="hcnp-is-a-node-port",
        ),
        pytest.param(
            f"{PORTS}\nsessionAffinity: Cookie", 'spec.sessionAffinity: "Cookie" is not', id="affinity"
        ),
        pytest.param(
            f"{PORTS}\nsessionAffinity: ClientIP\n"
            "sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is outside 1-86400",
            id="affinity-timeout",
        ),
        pytest.param("type: ExternalName", "spec.externalName: required", id="external-name-missing"),
        pytest.param(
            "type: ExternalName\nexternalName: a_b", 'spec.externalName: "a_b" is not', id="external-name"
        ),
        pytest.param(
            "type: ExternalName\nexternalName: a.b\nclusterIP: 10.96.3.3",
            "spec.clusterIP: not allowed",
            id="external-ip",
        ),
        pytest.param(
            f"{LB}\nloadBalancerSourceRange: []",
            "spec.loadBalancerSourceRange: unknown field (did you mean loadBalancerSourceRanges?)",
            id="unknown-field",
        ),
        pytest.param(
            "ports: [{port: 80, nodeport: 1}]",
            "spec.ports[0].nodeport: unknown field (did you mean nodePort?)",
            id="case",
        ),
    ],
)
def test_refused(tmp_path: Path, spec: str, expected: str) -> None:
    problems, services = _read(tmp_path, spec)
    assert services == []
    assert any(expected in p for p in problems), problems


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        pytest.param("Web", "", "metadata.name: ", id="upper"),
        pytest.param("-web", "", "metadata.name: ", id="dash-first"),
        pytest.param("a.b", "", "metadata.name: ", id="dot"),
        pytest.param("a" * 64, "", "metadata.name: ", id="long"),
        pytest.param("80", "", "metadata.name: 80 is an integer; a string is allowed", id="integer"),
        pytest.param('"web\\n"', "", 'metadata.name: "web\\x0a" is not allowed', id="newline"),
        pytest.param("web", "  namespace: a.b\n", "metadata.namespace: ", id="namespace"),
        pytest.param("web", "  labels: {a: b c}\n", "metadata.labels.a: ", id="label"),
        pytest.param(
            "web", "  annotations: {a: 1}\n", "metadata.annotations.a: 1 is an integer", id="annotation-int"
        ),
        pytest.param(
            "web", "  annotations: {'a b': x}\n", "metadata.annotations[a b]: ", id="annotation-key"
        ),
        pytest.param(
            "web", "  label: {a: b}\n", "metadata.label: unknown field (did you mean labels?)", id="unknown"
        ),
        pytest.param(
            "web",
            "  annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8}\n",
            "only allowed with type LoadBalancer",
            id="ranges-annotation",
        ),
        pytest.param(
            "web",
            "  annotations: {service.kubernetes.io/topology-mode: Auto, "
            "service.kubernetes.io/topology-aware-hints: disabled}\n",
            'metadata.annotations[service.kubernetes.io/topology-mode]: "Auto" is not "disabled"',
            id="topology-annotations",
        ),
    ],
)
def test_metadata_refused(tmp_path: Path, name: str, metadata: str, expected: str) -> None:
    problems, services = _read(tmp_path, PORTS, name, metadata)
    assert services == []
    assert any(p.startswith(expected) or expected in p for p in problems), problems


def _accepted(folder: Path, spec: str) -> Service:
    problems, services = _read(folder, spec)
    assert problems == []
    (service,) = services
    return service


def test_defaults(tmp_path: Path) -> None:
    service = _accepted(tmp_path, f"{LB}\nsessionAffinity: ClientIP\nloadBalancerIP: anything goes")
    (port,) = service.ports
    assert (port.protocol, port.target_port, port.name) == ("TCP", 80, "")
    assert service.session_affinity_timeout_s == 10800
    assert service.external_traffic_policy is service.internal_traffic_policy is TrafficPolicy.CLUSTER
    assert service.allocate_node_ports
    assert service.health_check_node_port == 0
    assert service.ip_families == (IPFamily.IPV4,)
    assert service.load_balancer_ip == "anything goes"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("ports: [{port: 80.0, targetPort: 8e1}]", id="whole-numbers"),
        pytest.param("type: LoadBalancer\nports: [{port: 10250}]", id="kubelet-port"),
        pytest.param(f"{PORTS}\nselector: {{a: null}}", id="null-in-a-map"),
        pytest.param(f"{PORTS}\nselector: {{1: a, y: b}}", id="keys-that-are-no-strings"),
        pytest.param(f"{PORTS}\nexternalIPs: [239.1.2.3, 'ff0e::1', 'ff01::1']", id="multicast"),
        pytest.param(
            f"{PORTS}\nsessionAffinityConfig: {{clientIP: {{timeoutSeconds: 5}}}}",
            id="affinity-config-of-none",
        ),
        pytest.param(
            "type: ExternalName\nexternalName: a.b\nports: [{port: 80, nodePort: 1}]\n"
            "internalTrafficPolicy: Local",
            id="external-name-with-fields-that-it-does-not-use",
        ),
        pytest.param(f"{LB}\nhealthCheckNodePort: 0", id="health-check-port-zero"),
        pytest.param(
            "type: NodePort\nports: [{port: 53, name: a, nodePort: 30053}, "
            "{port: 53, name: b, nodePort: 30053, protocol: UDP}]",
            id="node-port-of-two-protocols",
        ),
    ],
)
def test_accepted(tmp_path: Path, spec: str) -> None:
    _accepted(tmp_path, spec)


def test_a_name_may_begin_with_a_digit(tmp_path: Path) -> None:
    assert _read(tmp_path, PORTS, "1web")[0] == []


def test_a_null_in_a_map_is_the_empty_value(tmp_path: Path) -> None:
    assert _accepted(tmp_path, f"{PORTS}\nselector: {{a: null}}").selector == {"a": ""}


def test_nulls_count_as_absent(tmp_path: Path) -> None:
    service = _accepted(tmp_path, f"{PORTS}\nclusterIP: null\ntype: null\nselector: null")
    assert service.selector is None
    assert service.cluster_ips


def test_headless(tmp_path: Path) -> None:
    service = _accepted(tmp_path, "clusterIP: None\nselector: {a: b}")
    assert (service.headless, service.cluster_ips, service.ports) == (True, (), ())


def test_headless_without_a_selector_is_of_both_families(tmp_path: Path) -> None:
    assert _accepted(tmp_path, "clusterIP: None").ip_families == (IPFamily.IPV4, IPFamily.IPV6)


def test_external_name(tmp_path: Path) -> None:
    service = _accepted(tmp_path, "type: ExternalName\nexternalName: db.example.com.")
    assert service.cluster_ips == ()


def test_dual_stack(tmp_path: Path) -> None:
    service = _accepted(tmp_path, f"{PORTS}\nipFamilyPolicy: PreferDualStack\nipFamilies: [IPv6]")
    assert service.ip_families == (IPFamily.IPV6, IPFamily.IPV4)
    assert [":" in ip for ip in service.cluster_ips] == [True, False]


def test_addresses_are_brought_to_one_spelling(tmp_path: Path) -> None:
    service = _accepted(tmp_path, f"{PORTS}\nexternalIPs: ['2001:DB8:0:0::1']\nclusterIP: FD00:10:96::00ff")
    assert service.external_ips == ("2001:db8::1",)
    assert service.cluster_ips == ("fd00:10:96::ff",)


def test_local_policy_gets_a_health_check_port(tmp_path: Path) -> None:
    service = _accepted(tmp_path, f"{LB}\nexternalTrafficPolicy: Local")
    assert 30000 <= service.health_check_node_port <= 32767
    assert service.health_check_node_port != service.ports[0].node_port


def test_node_ports_can_be_declined(tmp_path: Path) -> None:
    service = _accepted(
        tmp_path,
        "type: LoadBalancer\nallocateLoadBalancerNodePorts: false\n"
        "ports: [{port: 80, name: a}, {port: 81, name: b, nodePort: 30081}]",
    )
    assert [p.node_port for p in service.ports] == [0, 30081]


def test_one_port_number_of_two_protocols_shares_a_node_port(tmp_path: Path) -> None:
    service = _accepted(
        tmp_path,
        "type: NodePort\n"
        "ports: [{port: 53, name: t}, {port: 53, name: u, protocol: UDP}, {port: 54, name: x}]",
    )
    tcp, udp, other = (p.node_port for p in service.ports)
    assert tcp == udp != other


def test_a_status_in_the_manifest_counts_until_a_provider_records_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Service\n"
        "metadata: {name: web, uid: x, resourceVersion: '5', finalizers: [a/b]}\n"
        "spec: {type: LoadBalancer, ports: [{port: 80}]}\n"
        "status: {loadBalancer: {ingress: [{ip: 198.51.100.7, ipMode: VIP}]}}\n"
    )
    cluster = ManifestCluster.open(tmp_path)
    (service,) = cluster.snapshot().services
    assert [str(i) for i in service.ingress] == ["198.51.100.7"]
    assert service.finalizers == ()
    cluster.record_status(service.key, [], [])
    (service,) = cluster.snapshot().services
    assert service.ingress == ()


def test_a_bad_status_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {type: LoadBalancer, ports: [{port: 80}]}\n"
        "status: {loadBalancer: {ingress: [{hostname: a.b, ipMode: VIP}]}}\n"
    )
    (problem,) = ManifestCluster.open(tmp_path).snapshot().problems
    assert problem.field == "status.loadBalancer.ingress[0].ipMode"
