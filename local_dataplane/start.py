"""Puts a node agent together from real parts; takes rules away; tells what is there."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lbprov.model import IPFamily, LbprovError, UserError
from local_dataplane import garbage
from local_dataplane.agent import Agent
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.iptables import names
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.read_back import forwarded, has_guard
from local_dataplane.iptables.restore import detachments, parse_save, removals
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel.backends import AUTO, every_iptables, open_iptables
from local_dataplane.kernel.conntrack import KernelConntrack
from local_dataplane.kernel.foreign_chains import dropping_chains, has_chain, iptables_drops
from local_dataplane.kernel.grace import packets_have_left
from local_dataplane.kernel.iptables_command import IptablesCommand
from local_dataplane.kernel.nft_seam import Nftables
from local_dataplane.kernel.nft_socket import KernelNftables
from local_dataplane.kernel.nft_watch import NftWatch
from local_dataplane.kernel.seam import Backend, Iptables, Refused
from local_dataplane.kernel.sysctl import BE_LIBERAL, KernelSysctls, route_localhost
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.mode import Forwarded, Program
from local_dataplane.nftables.objects import DeleteTable
from local_dataplane.nftables.probe import lacking
from local_dataplane.nftables.program import NftablesProgram
from local_dataplane.nftables.read_back import forwarded as nftables_forwarded
from local_dataplane.nftables.read_back import guards_localhost
from local_dataplane.nftables.ruleset import Ruleset as NftablesRuleset
from local_dataplane.program import FamilyProgram
from local_dataplane.selection import Machine, Mode, warnings_of_drops
from local_dataplane.selection import choose as choose_mode
from local_dataplane.source import Source

log = logging.getLogger("local_dataplane")


def open_agent(
    source: Source, node_name: str, config: NodeConfig, backend: str = AUTO, mode: Mode = Mode.IPTABLES
) -> Agent:
    """Reads what the kernel has; writes nothing yet. Raises UserError, with the remedy, where it cannot
    work on this machine. `backend`: which iptables."""
    sysctls = KernelSysctls()
    config = dataclasses.replace(config, drop_invalid=sysctls.read(BE_LIBERAL) in (None, "0"))
    flows = FlowKeeper(KernelConntrack(), config)
    machine = _machine(mode, config)
    chosen, reason = choose_mode(mode, machine)
    if mode is Mode.AUTO:
        log.info("mode chosen", extra={"mode": str(chosen), "reason": reason})
    node = NodeFacts(node_name)
    programs: Mapping[IPFamily, Program]
    if chosen is Mode.NFTABLES:
        for warning in warnings_of_drops(machine.drops_forwarded, dropping_chains()):
            log.warning(warning)
        programs, others = _nftables_programs(config, node), list(filter(_may_hold_ours, every_iptables()))
    else:
        programs, others = _iptables_programs(config, node, backend)
    for program in programs.values():
        flows.remember(program)
    for family, found in _forwarded_elsewhere(others, chosen):
        if family in programs:
            flows.remember_elsewhere(family, found)
    if not config.localhost_nodeports and any(program.guards_localhost for program in programs.values()):
        _say(route_localhost(sysctls, on=False))  # while the guard still stands

    def after_first_write() -> None:
        _remove_iptables(others)
        if chosen is not Mode.NFTABLES:
            _remove_nftables()
        if config.localhost_nodeports:
            _say(route_localhost(sysctls, on=True))
        garbage.settle()

    return Agent(source, node_name, programs, flows, sysctls, take_over=after_first_write, mode=str(chosen))


def _say(complaint: str) -> None:
    if complaint:
        log.warning(complaint)


def _machine(mode: Mode, config: NodeConfig) -> Machine:
    if mode is Mode.IPTABLES:
        return Machine()
    lacks, found = lacking(KernelNftables(IPFamily.IPV4), config), every_iptables()
    return Machine(lacks, iptables_drops() or any(map(_legacy_drops_forwarded, found)), bool(found))


def _legacy_drops_forwarded(iptables: Iptables) -> bool:
    if iptables.backend is not Backend.LEGACY:
        return False
    try:
        return ":FORWARD DROP" in iptables.save(Table.FILTER)
    except LbprovError:  # it does not work here, and does nothing
        return False


def _may_hold_ours(iptables: Iptables) -> bool:
    """Whether an earlier run in iptables mode may have left something there. The filter table's chains are
    written first and removed last."""
    if iptables.backend is Backend.LEGACY:
        return True
    leading = (Table.FILTER, names.FILTER), (Table.NAT, names.SERVICES)
    return any(has_chain(iptables.family, table, chain) for table, chain in leading)


def _nftables_programs(config: NodeConfig, node: NodeFacts) -> dict[IPFamily, Program]:
    programs: dict[IPFamily, Program] = {}
    for family in IPFamily:
        if family is IPFamily.IPV6:
            if not Path("/proc/self/net/if_inet6").exists():
                continue
            missing = lacking(KernelNftables(family), config)
            if missing:
                log.warning("IPv6 is left out: the kernel lacks something", extra={"reason": missing})
                continue
        programs[family] = NftablesProgram(
            KernelNftables(family), NftablesRuleset(family, config, node), NftWatch()
        )
    return programs


def _iptables_programs(
    config: NodeConfig, node: NodeFacts, backend: str
) -> tuple[dict[IPFamily, Program], list[IptablesCommand]]:
    """And the other backends, which may hold rules of an earlier run."""
    iptables, watch = open_iptables(backend), RuleWatch()
    programs: dict[IPFamily, Program] = {}
    for family, backends in iptables.items():
        first = next(iter(backends.values()))
        try:
            programs[family] = FamilyProgram(first, Ruleset(family, config, node), watch)
        except Refused as refused:
            if family is IPFamily.IPV4:
                raise UserError(f"iptables does not work on this machine: {refused}") from refused
            log.warning("IPv6 is left out: ip6tables does not work here", extra={"reason": str(refused)})
    return programs, [it for backends in iptables.values() for it in list(backends.values())[1:]]


def _forwarded_elsewhere(
    others: Iterable[IptablesCommand], chosen: Mode
) -> Iterator[tuple[IPFamily, list[Forwarded]]]:
    """By the rules of an earlier run in another mode or backend, which go after the first write."""
    for iptables in others:
        with contextlib.suppress(LbprovError):
            yield iptables.family, forwarded(parse_save(iptables.save(*Table)).chains)
    for family in IPFamily if chosen is not Mode.NFTABLES else ():
        with contextlib.suppress(LbprovError):
            if (contents := KernelNftables(family).read()) is not None:
                yield family, nftables_forwarded(contents)


def _remove_nftables() -> None:
    for family in IPFamily:
        try:
            if remove_table(KernelNftables(family)):
                log.info("removed the table of an earlier run", extra={"family": str(family)})
        except LbprovError as error:
            log.warning("cannot remove the table of an earlier run", extra={"reason": str(error)})


def remove_table(kernel: Nftables) -> int:
    """Take our table away; how many chains there were."""
    found = kernel.read()
    if found is None:
        return 0
    if guards_localhost(found):
        _say(route_localhost(KernelSysctls(), on=False))
    kernel.commit([[DeleteTable()]])
    return len(found.chains)


def _remove_iptables(others: Iterable[IptablesCommand]) -> None:
    for iptables in others:
        where = {"backend": str(iptables.backend), "family": str(iptables.family)}
        try:
            if remove_rules(iptables):
                log.info("removed the rules of an earlier run", extra=where)
        except LbprovError as error:
            log.warning("cannot remove the rules of an earlier run", extra={**where, "reason": str(error)})


def remove_rules(iptables: Iptables) -> int:
    """Take away every rule and chain of ours; how many chains there were."""
    saved = parse_save(iptables.save(*Table))
    if has_guard(saved.chains):
        _say(route_localhost(KernelSysctls(), on=False))
    leading = detachments(saved)
    for restore in leading:
        iptables.restore(restore.text())
    if leading:
        # A packet that was in our chains is not to find the rest of its way empty: it would be refused.
        packets_have_left()
    for restore in removals({}, saved.chains, chunked=iptables.backend is Backend.NFT):
        iptables.restore(restore.text())
    return len(saved.chains)


def status() -> Mapping[tuple[IPFamily, str], list[Forwarded]]:
    """What is forwarded, by the rules in the kernel; only where there are any of ours. The text says by what:
    `nft` and `legacy` are iptables' backends."""
    found: dict[tuple[IPFamily, str], list[Forwarded]] = {}
    for family in IPFamily:
        contents = KernelNftables(family).read()
        if contents is not None:
            found[family, str(Mode.NFTABLES)] = nftables_forwarded(contents)
    for iptables in every_iptables():
        saved = parse_save(iptables.save(*Table))
        if not saved.is_empty:
            found[iptables.family, str(iptables.backend)] = forwarded(saved.chains)
    return found
