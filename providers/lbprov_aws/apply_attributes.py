"""Attributes, written. A value that AWS refuses is remembered and costs that attribute, not the Service."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from lbprov_aws import attributes, elbv2, writes
from lbprov_aws.hands import Hands
from lbprov_aws.plan_attributes import LB
from lbprov_aws.refusals import Refused
from lbprov_aws.refused import CODES, attribute_key
from lbprov_aws.resources import Attributed, LoadBalancerRecord, Tags, TargetGroupRecord, as_tags


def set_attributes(hands: Hands, body: writes.SetAttributes) -> None:
    key = hands.bindings[body.ref]
    record: Attributed
    write: Callable[[Tags], None]
    values = body.attributes
    if body.subject == LB:
        record = hands.own(key, body.owner, LoadBalancerRecord)
        if body.zones and len(record.zones) > body.zones:
            # Made without the requested address after all.
            values = as_tags({k: v for k, v in values if k != attributes.CROSS_ZONE})
        write = partial(elbv2.set_balancer_attributes, hands.cloud, key)
    else:
        record = hands.own(key, body.owner, TargetGroupRecord)
        write = partial(elbv2.set_group_attributes, hands.cloud, key)
    done = _write(hands, body, write, values) if values else ()
    now = as_tags({**dict(record.attributes or ()), **dict(done)})
    hands.inventory.put(dataclasses.replace(record, attributes=now))


def _write(hands: Hands, body: writes.SetAttributes, write: Callable[[Tags], None], values: Tags) -> Tags:
    """At once; if AWS refuses, by what belongs together. Returns what was set."""
    try:
        write(values)
    except Refused as refusal:
        if refusal.code not in CODES:
            raise
        parts = attributes.together(values)
        if len(parts) > 1:
            return tuple(pair for part in parts for pair in _write(hands, body, write, part))
        for key, value in values:
            hands.refusals.add(body.owner, attribute_key(body.subject, key, value), str(refusal))
        return ()
    return values
