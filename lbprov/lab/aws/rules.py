"""What AWS refuses and moto does not: the table of all rules, each small, each with its source."""

from __future__ import annotations

from lbprov.lab.aws import rules_ec2, rules_listeners, rules_load_balancers, rules_target_groups
from lbprov.lab.aws.rule import DECLARED, Replay, Rule

MODULES = (rules_load_balancers, rules_listeners, rules_target_groups, rules_ec2)
"""Importing them declares their rules."""

RULES: tuple[Rule, ...] = tuple(DECLARED)

__all__ = ["MODULES", "RULES", "Replay", "Rule"]
