"""What is taken away of a kube-proxy that has ended, and what is not."""

from __future__ import annotations

import pytest

from local_dataplane.iptables.kube_proxy import PIECE_LINES, leftovers
from local_dataplane.kernel.kube_proxy import is_complete

SVC, SEP = "KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-SEP-IT2ZTR26TO4XFPTO"
SAVED = f"""\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SERVICES - [0:0]
:{SVC} - [0:0]
:{SEP} - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-USERS-OWN - [0:0]
:LBP-SERVICES - [0:0]
-A PREROUTING -j LBP-SERVICES
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A CNI-HOSTPORT-DNAT -s 10.244.1.0/24 -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j {SVC}
-A {SVC} -j {SEP}
-A {SEP} -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-FIREWALL
COMMIT
"""


def test_only_what_is_kube_proxys_goes() -> None:
    """Not the kubelet's, not what a CNI plugin uses, not what merely looks alike, nothing of ours."""
    assert leftovers(SAVED) == [
        '*nat\n-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\nCOMMIT\n',
        "*filter\n-D INPUT -j KUBE-PROXY-FIREWALL\nCOMMIT\n",
        f"*nat\n:{SEP} - [0:0]\n:KUBE-SERVICES - [0:0]\n:{SVC} - [0:0]\nCOMMIT\n",
        "*filter\n:KUBE-PROXY-FIREWALL - [0:0]\nCOMMIT\n",
        f"*nat\n-X {SEP}\n-X KUBE-SERVICES\n-X {SVC}\nCOMMIT\n",
        "*filter\n-X KUBE-PROXY-FIREWALL\nCOMMIT\n",
    ]


def test_what_a_strangers_chain_leads_to_stays_whole() -> None:
    stranger = SAVED.replace("-s 10.244.1.0/24 -j KUBE-MARK-MASQ", f"-j {SVC}")
    texts = "".join(leftovers(stranger))
    assert f"-X {SVC}" not in texts
    assert f"-X {SEP}" not in texts
    assert "-X KUBE-SERVICES" in texts
    assert "-X KUBE-MARK-MASQ" in texts


def test_nothing_is_nothing() -> None:
    assert leftovers("*nat\n:PREROUTING ACCEPT [0:0]\n:LBP-SERVICES - [0:0]\nCOMMIT\n") == []


def test_large_tables_go_in_pieces() -> None:
    chains = [f":KUBE-SVC-{number:016d} - [0:0]" for number in range(PIECE_LINES + 1)]
    texts = leftovers("\n".join(["*nat", *chains, "COMMIT", ""]))
    assert [text.count("\n") - 2 for text in texts] == [PIECE_LINES, 1, PIECE_LINES, 1]


@pytest.mark.parametrize(
    ("queued", "written", "complete"),
    [
        pytest.param((), (), False, id="nobody answers"),
        pytest.param(("IPv4",), (), False, id="begun"),
        pytest.param(("IPv4", "IPv6"), ("IPv4",), False, id="one family is missing"),
        pytest.param(("IPv4", "IPv6"), ("IPv4", "IPv6"), True, id="both"),
        pytest.param(("IPv4",), ("IPv4",), True, id="a node with one family"),
    ],
)
def test_whether_kube_proxy_is_complete(
    queued: tuple[str, ...], written: tuple[str, ...], complete: bool
) -> None:
    name = "kubeproxy_sync_proxy_rules_last"
    lines = [f'{name}_queued_timestamp_seconds{{ip_family="{f}"}} 1.7e+09' for f in queued]
    lines += [f'{name}_timestamp_seconds{{ip_family="{f}"}} 1.7e+09' for f in written]
    assert is_complete("\n".join(["# HELP", *lines, "go_info 1"])) is complete
