"""Takes all traces of the agent away: rules of every mode, then the UDP flows that they began."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from lbprov.model import IPFamily, L4Protocol, UserError
from local_dataplane.flows import FlowJudge, Served
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.read_back import forwarded
from local_dataplane.iptables.restore import parse_save
from local_dataplane.kernel.backends import every_iptables
from local_dataplane.kernel.conntrack import Conntrack, KernelConntrack, is_local
from local_dataplane.kernel.nft_socket import KernelNftables
from local_dataplane.kernel.seam import Refused
from local_dataplane.mode import Forwarded
from local_dataplane.nftables.read_back import forwarded as nftables_forwarded
from local_dataplane.start import remove_rules, remove_table

log = logging.getLogger("local_dataplane")


@dataclass(slots=True)
class Removed:
    """`chains`: `IPv4 nft` -> how many there were. `flows`: that were ended."""

    chains: dict[str, int] = field(default_factory=dict)
    flows: dict[IPFamily, int] = field(default_factory=dict)


def cleanup(*, end_flows: bool) -> Removed:
    """Both families, every mode and backend. Doing it twice is harmless.

    `end_flows`: nobody else forwards the same Services. A UDP client that goes on sending would be sent to
    its old endpoint for ever; another proxy goes on with the flow, and looks after it (kube-proxy's own
    `--cleanup` leaves flows alone)."""
    served: dict[IPFamily, Served] = {family: {} for family in IPFamily}
    removed = Removed()
    for iptables in every_iptables():
        served[iptables.family] |= _by_udp(forwarded(parse_save(iptables.save(*Table)).chains))
        try:
            removed.chains[f"{iptables.family} {iptables.backend}"] = remove_rules(iptables)
        except Refused as refused:
            raise UserError(
                f"cannot remove the {iptables.family} rules ({iptables.backend}): {refused}; a rule of "
                "somebody else may lead to one of our chains"
            ) from refused
    for family in IPFamily:
        kernel = KernelNftables(family)
        if (contents := kernel.read()) is not None:
            served[family] |= _by_udp(nftables_forwarded(contents))
        removed.chains[f"{family} nftables"] = remove_table(kernel)
    if end_flows:
        removed.flows = {family: _end(KernelConntrack(), family, served[family]) for family in IPFamily}
    return removed


def _by_udp(found: list[Forwarded]) -> Served:
    return {f.frontend: frozenset(f.backends) for f in found if f.frontend.protocol is L4Protocol.UDP}


def _end(conntrack: Conntrack, family: IPFamily, served: Served) -> int:
    """Flows from our frontends to our endpoints, and no others."""
    if not any(served.values()):
        return 0
    judge = FlowJudge(served={}, has_nodeports=is_local, formerly=served)
    try:
        return conntrack.delete(judge.stale(conntrack.udp_flows(family)))
    except OSError as error:
        log.warning(
            "UDP flows cannot be ended: connection tracking cannot be read; load the module "
            "nf_conntrack_netlink",
            extra={"reason": str(error)},
        )
        return 0
