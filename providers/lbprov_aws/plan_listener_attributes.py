"""Attributes of listeners: how long idle TCP connections live. Pure.

Listeners are in no listing, so that a tag of the load balancer says which attributes were ever asked for; who
asks for none pays no call. It is there before the first is set and until the last is back at its default.
"""

from __future__ import annotations

from collections.abc import Mapping

from lbprov.api import Action, Change, Step
from lbprov_aws import names, writes
from lbprov_aws.attributes import OF_LISTENERS, WITH_IDLE_TIMEOUT, Difference, difference, left_alone
from lbprov_aws.desired import Port, Wanted
from lbprov_aws.refused import attribute_key
from lbprov_aws.resources import ListenerRecord, LoadBalancerRecord, Tags, as_tags


def matter(wanted: Wanted, live: LoadBalancerRecord) -> bool:
    """Whether they have to be read."""
    return names.LISTENER_ATTRIBUTES in {**wanted.tags("lb"), **dict(live.tags)}


def are_there(listener: ListenerRecord) -> bool:
    """Whether a listener of its kind has any."""
    return listener.protocol in WITH_IDLE_TIMEOUT


def mark_of(live: LoadBalancerRecord | None) -> str:
    return dict(live.tags).get(names.LISTENER_ATTRIBUTES, "") if live is not None else ""


def differ(port: Port | None, listener: ListenerRecord, mark: str) -> bool:
    """`port`: what is wanted on this listener."""
    return port is not None and _difference(port, listener, mark) != Difference()


def _difference(port: Port, listener: ListenerRecord | None, mark: str) -> Difference:
    """`listener` None: about to be made."""
    had = listener.attributes if listener is not None and are_there(listener) else ()
    left = left_alone(port.unread_of_listener, mark)
    found = difference(port.listener_attributes, had, mark, OF_LISTENERS, left=left)
    return found if port.protocol in WITH_IDLE_TIMEOUT else Difference()


def steps(
    wanted: Wanted, port: Port, listener: ListenerRecord | None, mark: str, refused: Mapping[str, str]
) -> list[Step]:
    """For the listener of a port; what AWS refused a short time ago is left out."""
    found = _difference(port, listener, mark)
    values = _possible(port, as_tags({**dict(found.set_), **dict(found.reset)}), refused)
    if not values:
        return []
    now = dict((listener.attributes if listener else None) or ())
    changes = tuple(Change(key, now.get(key, "(default)"), value) for key, value in values)
    arn = listener.arn if listener else ""
    body = writes.SetListenerAttributes(wanted.owner, "lb", port.listener_id, arn, values)
    why = "the Service asks for them" if found.set_ else "the Service does not ask for them any more"
    step_id = f"{port.listener_id}:attributes"
    return [Step(Action.UPDATE, "listener attributes", step_id, why, str(port), changes, body)]


def _possible(port: Port, values: Tags, refused: Mapping[str, str]) -> Tags:
    kept = {k: v for k, v in values if attribute_key(port.listener_id, k, v) not in refused}
    return as_tags(kept)


def kept_mark(wanted: Wanted, live: LoadBalancerRecord) -> dict[str, str]:
    """The tag as it is, while one that it speaks of is not at its default."""
    mark = mark_of(live)
    if not mark or names.LISTENER_ATTRIBUTES in wanted.tags("lb"):
        return {}
    of_ours = [x for x in live.listeners or () if x.ours is not False and are_there(x)]
    left = any(difference((), x.attributes, mark, OF_LISTENERS).reset for x in of_ours)
    return {names.LISTENER_ATTRIBUTES: mark} if left else {}


def unmark(wanted: Wanted, live: LoadBalancerRecord | None, refused: Mapping[str, str]) -> list[Step]:
    """When all are back: each is set back, or its listener is deleted, by the steps before."""
    left = any(left_alone(port.unread_of_listener, mark_of(live)) for port in wanted.ports)
    if live is None or left or not kept_mark(wanted, live):
        return []
    back = {f"{key}={attribute.default}" for key, attribute in OF_LISTENERS.items()}
    if any(key.startswith("listener:") and key.rpartition(" ")[2] in back for key in refused):
        return []
    change = Change(names.LISTENER_ATTRIBUTES, mark_of(live), "")
    body = writes.RemoveTags(wanted.owner, live.key, (names.LISTENER_ATTRIBUTES,))
    why = "its listeners' attributes are back at their defaults"
    return [Step(Action.DELETE, "tags", "lb:listener-attributes", why, live.name, (change,), body)]
