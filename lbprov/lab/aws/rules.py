"""What AWS refuses and moto does not: the table of all rules, each small, each with its source."""

from __future__ import annotations

from lbprov.lab.aws import (
    rules_addresses,
    rules_attributes,
    rules_ec2,
    rules_listeners,
    rules_load_balancers,
    rules_quotas,
    rules_target_groups,
    rules_tls,
)
from lbprov.lab.aws.rule import DECLARED, Replay, Rule

MODULES = (
    rules_load_balancers,
    rules_listeners,
    rules_target_groups,
    rules_ec2,
    rules_addresses,
    rules_attributes,
    rules_tls,
    rules_quotas,
)
"""Importing them declares their rules."""

_ORDER = [module.__name__ for module in MODULES]

RULES: tuple[Rule, ...] = tuple(sorted(DECLARED, key=lambda rule: _ORDER.index(rule.check.__module__)))
"""As MODULES are: a create that is idempotent is so before quotas count."""

__all__ = ["MODULES", "RULES", "Replay", "Rule"]
