"""Questions about what lasts longer than a request: a connection, a client's affinity to an endpoint."""

from __future__ import annotations

import itertools
import time

from lbprov.lab.host import Host
from lbprov.lab.probes import Probe, Reply

_PORTS = itertools.count(45000)
_PATIENCE_S = 90.0


def stray_arrives(client: Host, endpoint: Host, ip: str, port: int, *, endpoint_port: int = 80) -> bool:
    """Does a client get to see a packet of its connection that connection tracking cannot place? It is not
    translated back, so it comes from the endpoint's own address, with which the client has no connection, and
    the reset that this is answered with may end the one that it was meant for (kubernetes/kubernetes#74839).

    `client` is connected to `endpoint` by way of `ip` and `port`, where nobody else answers. In the end the
    connection is asked once more, whose answer comes after the stray."""
    own_port = next(_PORTS)
    probe = Probe(ip, port, timeout_s=10, source_port=own_port, held=own_port)
    _answerer(client, probe, endpoint.name)
    before = client.resets_sent()
    v6 = ":" in ip
    source, destination = (host.ipv6 if v6 else host.ipv4 for host in (endpoint, client))
    endpoint.send_stray(source, endpoint_port, destination, own_port)
    client.ask([probe])
    arrived = client.resets_sent() > before
    client.ask([Probe(ip, port, held=own_port, times=0)])
    return arrived


def sticks_while_used(client: Host, ip: str, port: int, timeout_s: float) -> bool:
    """Whether a client that comes again and again within the affinity's time-out is answered by the same
    endpoint for longer than that. Only a machine that lets it come in time can say."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        names: set[str] = set()
        begun_s = last_s = time.monotonic()
        while (asked_s := time.monotonic()) < begun_s + 2.5 * timeout_s:
            names.add(_answerer(client, Probe(ip, port, timeout_s=10)))
            if time.monotonic() - last_s > timeout_s:
                break  # it may have been forgotten: once more
            last_s = asked_s
            time.sleep(timeout_s / 5)
        else:
            return len(names) == 1
    raise AssertionError(f"{client.name} cannot come every {timeout_s} s on this machine")


def is_forgotten(client: Host, ip: str, port: int, timeout_s: float) -> bool:
    """Whether a client that comes later than the affinity's time-out gets to another endpoint in the end. It
    takes two at least; the new choice is a throw of dice."""
    deadline_s = time.monotonic() + _PATIENCE_S
    first = _answerer(client, Probe(ip, port, timeout_s=10))
    while time.monotonic() < deadline_s:
        time.sleep(1.1 * timeout_s)
        if _answerer(client, Probe(ip, port, timeout_s=10)) != first:
            return True
    return False


def _answerer(client: Host, probe: Probe, wanted: str = "") -> str:
    (answer,) = client.ask([probe])[0]
    if not isinstance(answer, Reply) or (wanted and answer.hostname != wanted):
        raise AssertionError(f"{client.name} to {probe.ip}:{probe.port}: {answer}")
    return answer.hostname
