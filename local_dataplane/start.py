"""Puts a node agent together from real parts; takes its traces away; tells what is there."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping

from lbprov.model import IPFamily, LbprovError, UserError
from local_dataplane.agent import Agent
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.iptables import names
from local_dataplane.iptables.fixed import LOCALHOST_GUARD, Table
from local_dataplane.iptables.read_back import Forwarded, forwarded
from local_dataplane.iptables.restore import cleanup as cleanup_plan
from local_dataplane.iptables.restore import parse_save
from local_dataplane.iptables.ruleset import ChainKey, Ruleset
from local_dataplane.iptables.tree import Rules
from local_dataplane.kernel.backends import AUTO, every_iptables, open_iptables
from local_dataplane.kernel.conntrack import KernelConntrack
from local_dataplane.kernel.iptables_command import IptablesCommand
from local_dataplane.kernel.seam import Backend, Iptables, Refused
from local_dataplane.kernel.sysctl import BE_LIBERAL, KernelSysctls, route_localhost
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.program import FamilyProgram
from local_dataplane.source import Source

log = logging.getLogger("local_dataplane")


def open_agent(source: Source, node_name: str, config: NodeConfig, backend: str = AUTO) -> Agent:
    """Reads what the kernel has; writes nothing yet. Raises UserError, with the remedy, where it cannot
    work on this machine."""
    sysctls = KernelSysctls()
    config = dataclasses.replace(config, drop_invalid=sysctls.read(BE_LIBERAL) in (None, "0"))
    iptables = open_iptables(backend)
    flows, watch = FlowKeeper(KernelConntrack(), config), RuleWatch()
    programs: dict[IPFamily, FamilyProgram] = {}
    for family, backends in iptables.items():
        first = next(iter(backends.values()))
        try:
            programs[family] = FamilyProgram(first, Ruleset(family, config, NodeFacts(node_name)), watch)
        except Refused as refused:
            if family is IPFamily.IPV4:
                raise UserError(f"iptables does not work on this machine: {refused}") from refused
            log.warning("IPv6 is left out: ip6tables does not work here", extra={"reason": str(refused)})
            continue
        flows.remember(programs[family])
    others = [it for backends in iptables.values() for it in list(backends.values())[1:]]
    if not config.localhost_nodeports and any(_has_guard(p.chains) for p in programs.values()):
        _say(route_localhost(sysctls, on=False))  # while the guard still stands

    def after_first_write() -> None:
        if config.localhost_nodeports:
            _say(route_localhost(sysctls, on=True))
        _take_over(others)

    return Agent(source, node_name, programs, flows, sysctls, take_over=after_first_write)


def _has_guard(chains: Mapping[ChainKey, Rules]) -> bool:
    """Whether a run before us has opened localhost."""
    return LOCALHOST_GUARD in chains.get((Table.FILTER, names.FILTER), ())


def _say(complaint: str) -> None:
    if complaint:
        log.warning(complaint)


def _take_over(others: Iterable[IptablesCommand]) -> None:
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
    if _has_guard(saved.chains):
        _say(route_localhost(KernelSysctls(), on=False))
    for restore in cleanup_plan(saved, chunked=iptables.backend is Backend.NFT):
        iptables.restore(restore.text())
    return len(saved.chains)


def cleanup() -> dict[str, int]:
    """Both families, both backends: `IPv4 nft` -> chains removed. Doing it twice is harmless."""
    found = every_iptables()
    removed = {}
    for iptables in found:
        try:
            removed[f"{iptables.family} {iptables.backend}"] = remove_rules(iptables)
        except Refused as refused:
            raise UserError(
                f"cannot remove the {iptables.family} rules ({iptables.backend}): {refused}; a rule of "
                "somebody else may lead to one of our chains"
            ) from refused
    return removed


def status() -> Mapping[tuple[IPFamily, Backend], list[Forwarded]]:
    """What is forwarded, by the rules in the kernel; only where there are any of ours."""
    found = {}
    for iptables in every_iptables():
        saved = parse_save(iptables.save(*Table))
        if not saved.is_empty:
            found[iptables.family, iptables.backend] = forwarded(saved.chains)
    return found
