"""What our cluster has on AWS, kept in memory and kept true.

One listing of the region answers `observe` for all Services. Its cost grows with pages, not with Services:
the tagging API gives the tags, one paged listing each gives load balancers and target groups. What the
tagging API does not know yet (it lags) is found by our names' prefix and asked for its tags. Our own writes
are entered as they are made; a listing that was under way meanwhile does not undo them.

What no listing shows (listeners, targets, attributes) is read per resource, when a Service is looked at, and
is as old as `max_age_s` at most.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence

from lbprov.api import ObjectKey, Owner, RetryLater, UserError
from lbprov_aws import ec2, elbv2, names, peers
from lbprov_aws.cloud import Cloud
from lbprov_aws.refusals import Denied
from lbprov_aws.resources import (
    LoadBalancerRecord,
    Record,
    Tags,
    TargetGroupRecord,
    owner_of,
)

SETTLE_S = 2.0
"""Load balancers that are being set up are looked at no more often."""


@dataclasses.dataclass(slots=True)
class _Entry:
    """A record, or None for one that we deleted. `sequence`: when we wrote it (0: as listed).
    `verified`: its tags were read, not only sent. `detailed_at_s`: when its details were read."""

    record: Record | None
    sequence: int = 0
    verified: bool = True
    detailed_at_s: float | None = None


class Inventory:
    """Safe for threads. `now_s` is a monotonic clock."""

    def __init__(self, cloud: Cloud, cluster: str, now_s: Callable[[], float], max_age_s: float) -> None:
        self._cloud = cloud
        self.cluster = cluster
        self._now_s = now_s
        self.max_age_s = max_age_s
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._settling = threading.Lock()
        self._settled_at_s: float | None = None
        self._settled: set[str] = set()
        """ARNs of load balancers whose progress was seen and not yet answered with."""
        self._listed_at_s: float | None = None
        self._sequence = 0
        self._entries: dict[str, _Entry] = {}
        self._by_uid: dict[str, set[str]] = {}
        self._made: set[str] = set()
        """Keys of what creates of ours made, and did not meet."""
        self._others: dict[str, Tags] = {}
        """Key -> tags of what has a name like ours and is not ours."""
        self._names: dict[str, str] = {}
        """Name -> key of those."""
        self._unmarked: dict[str, Record] = {}
        """Key -> what bears some marks of ours, and not enough to say whose it is."""
        self._strangers: dict[str, LoadBalancerRecord] = {}
        """ARN -> load balancer of the region that is nobody's of ours."""
        self._asking_of_others = threading.Lock()
        self._made_by_others: dict[ObjectKey, peers.Found] = {}
        self._asked_of_others_s: float | None = None
        self._may_not_ask: Denied | None = None

    def refresh(self, *, force: bool = False) -> None:
        """List, unless that was done less than `max_age_s` ago. Threads that come meanwhile wait for the
        same listing (`force`: for one that began after they came)."""
        came_at_s = self._now_s()
        with self._listing:
            listed_at_s = self._listed_at_s
            if listed_at_s is not None:
                fresh = listed_at_s > came_at_s if force else self._now_s() - listed_at_s < self.max_age_s
                if fresh:
                    return
            began_at_s = self._now_s()
            with self._lock:
                began = self._sequence
            found = self._list()
            with self._lock:
                self._merge(found, began)
                self._listed_at_s = began_at_s

    def _list(self) -> list[Record]:
        try:
            tags, like = elbv2.tagged(self._cloud, self.cluster), _is_like_ours
        except Denied:
            tags, like = {}, _may_be_ours
        listed: list[LoadBalancerRecord | TargetGroupRecord] = [
            *elbv2.all_load_balancers(self._cloud),
            *elbv2.all_target_groups(self._cloud),
        ]
        like_ours = [r for r in listed if r.arn in tags or like(r.name)]
        self._strangers = {r.arn: r for r in listed if isinstance(r, LoadBalancerRecord)}
        known = {**self._others, **tags}
        tags = {**known, **elbv2.tags(self._cloud, (r.arn for r in like_ours if r.arn not in known))}
        # One that went away between the two calls has no tags.
        there = [dataclasses.replace(r, tags=tags[r.arn]) for r in like_ours if r.arn in tags]
        return [*there, *ec2.security_groups(self._cloud, self.cluster)]

    def made_by_others(self, service: ObjectKey, max_age_s: float, *, required: bool) -> peers.Found | None:
        """A load balancer that another controller has made for a Service of our cluster. Known from the
        listing; their tags are asked for at most once in `max_age_s`, for all Services, and only if somebody
        wants to know. Where we may not ask, there is none, or (`required`) `Denied` is raised."""
        with self._asking_of_others:
            asked_s = self._asked_of_others_s
            if asked_s is None or self._now_s() - asked_s >= max_age_s:
                began_s = self._now_s()
                try:
                    self._made_by_others, self._may_not_ask = self._ask_of_others(), None
                except Denied as denied:
                    self._made_by_others, self._may_not_ask = {}, denied
                self._asked_of_others_s = began_s  # no answer is not the answer that there is nothing
            if required and self._may_not_ask is not None:
                raise self._may_not_ask
            return self._made_by_others.get(service)

    def forget_others(self) -> None:
        """What they have made is not as we remember it."""
        with self._asking_of_others:
            self._asked_of_others_s = None

    def _ask_of_others(self) -> dict[ObjectKey, peers.Found]:
        tagged = elbv2.tagged_by_others(self._cloud, self.cluster)
        unlisted = [arn for arn in tagged if "/net/" in arn and arn not in self._strangers]
        listed = {**self._strangers, **{b.arn: b for b in elbv2.load_balancers(self._cloud, unlisted)}}
        found: dict[ObjectKey, peers.Found] = {}
        for arn, tags in sorted(tagged.items()):
            claim = peers.claim(tags, self.cluster)
            if claim is None or names.owner_of(dict(tags)) is not None:
                continue
            maker, service = claim
            record = listed.get(arn)
            if record is not None:
                record = dataclasses.replace(record, tags=tags)
                found[service] = peers.Found(maker, arn, peers.Kind.NETWORK, record)
            elif "/net/" not in arn:  # otherwise it is gone
                found.setdefault(service, peers.Found(maker, arn, peers.kind_of(arn)))
        return found

    def _merge(self, found: Sequence[Record], began: int) -> None:
        """Take over a listing that began at `began`, except where we wrote since."""
        kept = {key: entry for key, entry in self._entries.items() if entry.sequence > began}
        before = self._entries
        self._entries, self._by_uid, self._others, self._names = {}, {}, {}, {}
        self._unmarked = {r.key: r for r in found if owner_of(r) is None and names.is_marked(dict(r.tags))}
        for record in found:
            owner = owner_of(record)
            if owner is None or owner.cluster != self.cluster:
                self._others[record.key] = record.tags
                self._names[record.name] = record.key
            elif record.key not in kept:
                self._enter(record.key, _with_details(record, before.get(record.key)))
        for key, entry in kept.items():
            self._enter(key, entry)

    def _enter(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        owner = owner_of(entry.record) if entry.record else None
        if owner is not None:
            self._by_uid.setdefault(owner.uid, set()).add(key)

    def refresh_owner(self, owner: Owner) -> None:
        """Ask for one owner's resources alone: two calls if there are none. Complete, although the tagging
        API lags: what it does not show yet is known from our own writes or from the listing at our start."""
        self.refresh()
        with self._lock:
            known = {k for k in self._by_uid.get(owner.uid, ()) if self._entries[k].record is not None}
            began = self._sequence
        try:
            tagged = elbv2.tagged(self._cloud, owner.cluster, owner.uid)
        except Denied:
            self.refresh(force=True)
            return
        groups = ec2.security_groups(self._cloud, owner.cluster, owner.uid)
        arns = {*tagged, *(key for key in known if key.startswith("arn:"))}
        found: list[Record] = list(groups)
        balancers = [arn for arn in arns if ":loadbalancer/" in arn]
        target_groups = [arn for arn in arns if ":targetgroup/" in arn]
        listed: list[LoadBalancerRecord | TargetGroupRecord] = [
            *elbv2.load_balancers(self._cloud, balancers),
            *elbv2.target_groups(self._cloud, target_groups),
        ]
        for record in listed:
            found.append(dataclasses.replace(record, tags=tagged.get(record.arn) or self._tags(record.arn)))
        with self._lock:
            there = {record.key for record in found}
            for key in known - there:
                if self._entries[key].sequence <= began:
                    self._remove(key)
            for seen in found:
                entry = self._entries.get(seen.key)
                if entry is None or entry.sequence <= began:
                    verified = seen.key in tagged or entry is None or entry.verified
                    self._enter(seen.key, _Entry(seen, verified=verified))

    def refresh_settling(self) -> None:
        """How far AWS is with the load balancers that it is setting up, all of them at once: many Services
        wait at the same time, each of them impatiently."""
        with self._settling:
            now_s = self._now_s()
            if self._settled_at_s is not None and now_s - self._settled_at_s < SETTLE_S:
                return
            waiting = [b for b in self.load_balancers() if b.state == "provisioning"]
            found = {b.arn: b for b in elbv2.load_balancers(self._cloud, [b.arn for b in waiting])}
            self._settled_at_s = now_s
        with self._lock:
            for arn in (b.arn for b in waiting):
                entry = self._entries.get(arn)
                if entry is None or not isinstance(entry.record, LoadBalancerRecord):
                    continue
                if (seen := found.get(arn)) is None:
                    self._remove(arn)
                else:
                    entry.record = dataclasses.replace(entry.record, state=seen.state, zones=seen.zones)
                    self._settled.add(arn)

    def take_settled(self, owner: Owner) -> bool:
        """Whether the world was asked, on the owner's behalf too, since this was asked last."""
        with self._lock:
            news = self._settled & self._by_uid.get(owner.uid, set())
            self._settled -= news
            return bool(news)

    def _tags(self, key: str) -> Tags:
        entry = self._entries.get(key)
        return entry.record.tags if entry and entry.record else ()

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        owner = owner_of(entry.record) if entry and entry.record else None
        if owner is not None:
            self._by_uid[owner.uid].discard(key)

    def of(self, owner: Owner) -> tuple[Record, ...]:
        """Everything of the owner's, sorted by name."""
        with self._lock:
            entries = (self._entries[key] for key in self._by_uid.get(owner.uid, ()))
            records = [e.record for e in entries if e.record is not None]
        return tuple(sorted(records, key=lambda r: (r.name, r.key)))

    def last_write(self, owner: Owner) -> int:
        """Grows with every write of ours to what the owner has; 0: this process has not written."""
        with self._lock:
            return max((self._entries[key].sequence for key in self._by_uid.get(owner.uid, ())), default=0)

    def owners(self) -> frozenset[Owner]:
        with self._lock:
            records = [e.record for e in self._entries.values() if e.record is not None]
        return frozenset(filter(None, map(owner_of, records)))

    def load_balancers(self) -> tuple[LoadBalancerRecord, ...]:
        with self._lock:
            records = [e.record for e in self._entries.values()]
        return tuple(r for r in records if isinstance(r, LoadBalancerRecord))

    def taken(self, wanted_names: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """Those of the names that somebody else has, with whose they are."""
        with self._lock:
            keys = [(name, self._names[name]) for name in wanted_names if name in self._names]
            return tuple((name, whose(self._others[key])) for name, key in keys)

    def get(self, key: str) -> Record | None:
        with self._lock:
            entry = self._entries.get(key)
            return entry.record if entry else None

    def put(self, record: Record) -> None:
        """What a resource became by a write of ours."""
        with self._lock:
            self._sequence += 1
            before = self._entries.get(record.key)
            if before is None or before.record is None:
                before = _Entry(record, detailed_at_s=self._now_s())
            entry = dataclasses.replace(before, record=record, sequence=self._sequence)
            self._enter(record.key, entry)

    def put_created(self, record: Record) -> None:
        """What a create of ours answered: its tags are what we sent, not what was read (see `verify`)."""
        with self._lock:
            self._sequence += 1
            entry = _Entry(record, self._sequence, verified=False, detailed_at_s=self._now_s())
            self._enter(record.key, entry)
            self._made.add(record.key)

    def is_made_here(self, key: str) -> bool:
        """Whether this process created it."""
        with self._lock:
            return key in self._made

    def put_found(self, record: Record) -> None:
        """A resource of ours that a create met: as it was just read, its details unknown."""
        with self._lock:
            self._sequence += 1
            self._enter(record.key, _Entry(record, self._sequence))
            if self._unmarked.pop(record.key, None) is not None:
                self._others.pop(record.key, None)
                self._names.pop(record.name, None)

    def unmarked(self, owner: Owner) -> tuple[Record, ...]:
        """What is the owner's although somebody took marks off it."""
        with self._lock:
            found = [r for r in self._unmarked.values() if names.has_lost_marks(r.name, dict(r.tags), owner)]
        return tuple(sorted(found, key=lambda r: (r.name, r.key)))

    def forget_all_details(self) -> None:
        """What no listing shows is read again when it is needed next."""
        with self._lock:
            for entry in self._entries.values():
                entry.detailed_at_s = None

    def forget_details(self, key: str) -> None:
        with self._lock:
            if key in self._entries:
                self._entries[key].detailed_at_s = None

    def learn(self, record: Record) -> None:
        """What was read of a resource, its details with it."""
        with self._lock:
            entry = self._entries.get(record.key)
            if entry is not None and entry.record is not None:
                entry.record, entry.detailed_at_s = record, self._now_s()

    def is_detailed(self, key: str) -> bool:
        """Whether the details of the resource are known and not too old."""
        with self._lock:
            entry = self._entries.get(key)
            read_at_s = entry.detailed_at_s if entry else None
        return read_at_s is not None and self._now_s() - read_at_s < self.max_age_s

    def doubt(self) -> None:
        """The world is not as we remember it: list again before the next answer."""
        with self._lock:
            self._listed_at_s = None

    def require_own(self, key: str, owner: Owner) -> Record:
        """The owner's resource, its mark checked. Raises `UserError` if it is somebody else's, `RetryLater`
        if it is not known (any more)."""
        self.verify(owner)
        record = self.get(key)
        if record is None:
            self.doubt()
            raise RetryLater(f"{key} is not there any more: looking again", 1)
        if owner_of(record) != owner:
            raise conflict(record.name, record.tags)
        return record

    def drop(self, key: str) -> None:
        """What we just deleted. The entry stays as a gravestone until a later listing."""
        with self._lock:
            entry = self._entries.get(key)
            record = entry.record if entry else None
            self._sequence += 1
            self._entries[key] = _Entry(None, self._sequence)
            owner = owner_of(record) if record else None
            if owner is not None:
                self._by_uid[owner.uid].discard(key)

    def is_gone(self, key: str) -> bool:
        """Whether we deleted it."""
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.record is None

    def verify(self, owner: Owner) -> None:
        """Read back the tags of what was made for the owner: creates on AWS are idempotent by name, so the
        answer to one can be somebody else's resource. Raises `UserError` then, and forgets the resource;
        `RetryLater` for what is not shown yet: whose it is will be seen."""
        with self._lock:
            keys = self._by_uid.get(owner.uid, set())
            arns = [k for k in keys if k.startswith("arn:") and not self._entries[k].verified]
        if not arns:
            return
        tags = elbv2.tags(self._cloud, arns)
        for arn in sorted(tags):
            self._judge(owner, arn, tags[arn])
        if len(tags) < len(arns):
            raise RetryLater("AWS does not show yet what was just made: looking again", 2)

    def _judge(self, owner: Owner, arn: str, tags: Tags) -> None:
        with self._lock:
            entry = self._entries[arn]
            assert entry.record is not None
            if names.owner_of(dict(tags)) == owner:
                entry.record, entry.verified = dataclasses.replace(entry.record, tags=tags), True
                return
            name = entry.record.name
            self._remove(arn)
            self._others[arn], self._names[name] = tags, arn
        raise conflict(name, tags)


def _is_like_ours(name: str) -> bool:
    return name.startswith(names.PREFIX)


def _may_be_ours(name: str) -> bool:
    """Where the tagging API does not tell: one that was taken over has another controller's name."""
    return _is_like_ours(name) or peers.is_like_theirs(name)


def conflict(name: str, tags: Tags) -> UserError:
    return UserError(
        f"{name} exists and belongs to {whose(tags)}: it was not changed. Rename or delete it first",
        reason="LoadBalancerOwnershipConflict",
    )


def whose(tags: Tags) -> str:
    owner = names.owner_of(dict(tags))
    if owner is None:
        return "nobody of ours: it has no tags of lbprov"
    return f"Service {owner.service} (uid {owner.uid}) of cluster {owner.cluster}"


def _with_details(record: Record, before: _Entry | None) -> _Entry:
    """A listed record with the details that were read of it before."""
    if before is None or before.record is None:
        return _Entry(record)
    had = before.record
    if isinstance(record, LoadBalancerRecord) and isinstance(had, LoadBalancerRecord):
        record = dataclasses.replace(record, listeners=had.listeners, attributes=had.attributes)
    elif isinstance(record, TargetGroupRecord) and isinstance(had, TargetGroupRecord):
        record = dataclasses.replace(record, targets=had.targets, attributes=had.attributes)
    return _Entry(record, detailed_at_s=before.detailed_at_s)
