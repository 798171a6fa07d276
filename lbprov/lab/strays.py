"""Does a client get to see a packet of its connection that connection tracking cannot place?

It is not translated back then, so it comes from the endpoint's own address, with which the client has no
connection, and the reset that this is answered with may end the connection that it was meant for
(kubernetes/kubernetes#74839).
"""

from __future__ import annotations

import itertools

from lbprov.lab.host import Host
from lbprov.lab.probes import Probe, Reply

_PORTS = itertools.count(45000)


def stray_arrives(client: Host, endpoint: Host, ip: str, port: int, *, endpoint_port: int = 80) -> bool:
    """`client` is connected to `endpoint` by way of `ip` and `port`, where nobody else answers; a stray
    segment comes from there. Afterwards the connection is asked once more, whose answer comes after it."""
    own_port = next(_PORTS)
    probe = Probe(ip, port, timeout_s=10, source_port=own_port, held=own_port)
    (answer,) = client.ask([probe])[0]
    if not isinstance(answer, Reply) or answer.hostname != endpoint.name:
        raise AssertionError(f"{client.name} is not connected to {endpoint.name}: {answer}")
    before = client.resets_sent()
    v6 = ":" in ip
    source, destination = (host.ipv6 if v6 else host.ipv4 for host in (endpoint, client))
    endpoint.send_stray(source, endpoint_port, destination, own_port)
    client.ask([probe])
    arrived = client.resets_sent() > before
    client.ask([Probe(ip, port, held=own_port, times=0)])
    return arrived
