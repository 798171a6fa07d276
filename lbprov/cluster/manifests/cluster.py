"""A folder of manifests as a cluster."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from lbprov.cluster import decode
from lbprov.cluster.cluster_name import checked_name, default_name
from lbprov.cluster.manifests.admit import (
    Admission,
    Entry,
    Terms,
    admit,
    entries,
    is_deleting,
    removal,
    state_key,
)
from lbprov.cluster.manifests.allocate import Ranges
from lbprov.cluster.manifests.endpoints import PodIndex, slices_for, written_slices
from lbprov.cluster.manifests.event_log import RecordedEvent, events_key, recorded_event, with_events
from lbprov.cluster.manifests.folder import Folder, FolderContent
from lbprov.cluster.manifests.pods import Placement, place
from lbprov.cluster.manifests.state import StateFile
from lbprov.cluster.seam import Problem, Snapshot
from lbprov.model import (
    Condition,
    Event,
    Ingress,
    LbprovError,
    ObjectKey,
    RetryLater,
    Service,
    UserError,
)

STATE_FILE = ".lbprov-state.json"
SERVICE_CIDRS = ("10.96.0.0/12", "fd00:10:96::/112")
NODE_PORT_RANGE = (30000, 32767)
POD_CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")
OUR_CONDITIONS = "lbprov.io/"
POLL_S = 0.2
SETTLE_S = 2.0

_log = logging.getLogger(__name__)


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ManifestCluster:
    """`lbprov.cluster.Cluster` over a folder of YAML. Any number of processes may share one folder.

    `read_only` reads the folder and the state and writes neither: what `snapshot` accepts and allocates is
    what a writing process would.
    """

    def __init__(
        self,
        folder: Folder,
        state: StateFile,
        ranges: Ranges,
        pod_cidrs: Sequence[str],
        *,
        force: bool = False,
        now: Callable[[], str] = _utc_now,
    ) -> None:
        self._folder, self._state, self._ranges, self._force, self._now = folder, state, ranges, force, now
        try:
            self._pod_networks = tuple(ipaddress.ip_network(c) for c in pod_cidrs)
        except ValueError as err:
            raise UserError(str(err), field="--pod-cidr") from err
        self._decoded: dict[ObjectKey, tuple[Entry, Service]] = {}
        self._last: tuple[str, int, Snapshot] | None = None

    @staticmethod
    def open(
        directory: Path,
        *,
        state_file: Path | None = None,
        cluster_name: str | None = None,
        read_only: bool = False,
        force: bool = False,
        service_cidrs: Sequence[str] = SERVICE_CIDRS,
        node_port_range: tuple[int, int] = NODE_PORT_RANGE,
        pod_cidrs: Sequence[str] = POD_CIDRS,
        now: Callable[[], str] = _utc_now,
    ) -> ManifestCluster:
        """Raises UserError for a folder that is none, a state that cannot be read, a name that is another
        than the state's. `force` lets a mass deletion through."""
        state_file = state_file or directory / STATE_FILE
        folder = Folder(directory, (state_file,))
        folder.fingerprint()
        state = StateFile(state_file, read_only=read_only)
        if cluster_name is not None:
            state.cluster = checked_name(cluster_name)
        state.refresh()
        state.cluster = state.cluster or default_name(directory)
        return ManifestCluster(
            folder, state, Ranges.parse(service_cidrs, node_port_range), pod_cidrs, force=force, now=now
        )

    @property
    def name(self) -> str:
        return self._state.cluster

    def snapshot(self) -> Snapshot:
        with self._state.transaction():
            content, fingerprint = self._read_folder()
            if fingerprint and self._last and self._last[:2] == (fingerprint, self._state.revision):
                return self._last[2]
            terms = Terms(self.name, self._ranges, self._now(), self._force)
            admission = admit(content, self._state.values, self._folder, terms)
            # Where Pods go depends on what is in force now, so it is decided on the state as it will be.
            values = _with(self._state.values, admission.changes)
            placement = place(values, self._pod_networks, self._folder.where(""))
            self._state.commit({**admission.changes, **placement.changes})
            snapshot = self._freeze(admission, placement)
            self._last = (fingerprint, self._state.revision, snapshot)
            return snapshot

    def fingerprint(self) -> str:
        """Changes when a manifest does, or the state (Events apart)."""
        self._state.refresh()
        seen = f"{self._folder.fingerprint()}{self._state.revision}"
        return hashlib.blake2b(seen.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def wait_for_change(self, fingerprint: str, timeout_s: float, stop: threading.Event) -> bool:
        """True as soon as the folder is another than `fingerprint`'s and stands still (editors write in
        several steps, and a file that is missing for a moment is not a deletion); False after `timeout_s`
        or when `stop` is set."""
        deadline = time.monotonic() + timeout_s
        while (now := self.fingerprint()) == fingerprint:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or stop.wait(min(POLL_S, left_s)):
                return False
        settled_by = time.monotonic() + SETTLE_S
        while time.monotonic() < settled_by and not stop.wait(POLL_S):
            before, now = now, self.fingerprint()
            if before == now:
                break
        return not stop.is_set()

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        with self._state.transaction():
            entry = self._entry(key)
            held = entry["object"]["metadata"].get("finalizers", []) if entry else []
            if finalizer in held:
                return
            if entry is None or is_deleting(entry):
                # What would be made for it now, nobody would be bound to take down.
                raise RetryLater(f"Service {key} is gone or going: look at the cluster again", 0.0)
            self._set(key, entry, metadata={"finalizers": [*held, finalizer]})

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        with self._state.transaction():
            entry = self._entry(key)
            if entry is None:
                return
            held = entry["object"]["metadata"].get("finalizers", [])
            left = [f for f in held if f != finalizer]
            if is_deleting(entry) and not left:
                bare = _updated(entry, metadata={"finalizers": []})
                self._state.commit(removal("Service", key, bare, self._now()))
            elif left != held:
                self._set(key, entry, metadata={"finalizers": left})

    def record_status(
        self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]
    ) -> None:
        with self._state.transaction():
            entry = self._entry(key)
            if entry is None:
                return
            held = entry["object"].get("status", {}).get("conditions", [])
            theirs = [c for c in held if not c["type"].startswith(OUR_CONDITIONS)]
            status = {
                "loadBalancer": {"ingress": [_ingress(i) for i in ingress]},
                "conditions": [*theirs, *(asdict(c) for c in conditions)],
            }
            self._set(key, entry, status=status)

    def emit(self, key: ObjectKey, events: Sequence[Event]) -> None:
        if not events:
            return
        try:
            with self._state.transaction():
                if self._entry(key) is None:
                    return
                recorded = self._state.values.get(events_key(key), ())
                self._state.commit({events_key(key): with_events(recorded, events, self._now())})
        except LbprovError as err:
            _log.warning("events of Service %s are not recorded: %s", key, err)

    def events(self, key: ObjectKey) -> tuple[RecordedEvent, ...]:
        """The newest last."""
        self._state.refresh()
        return tuple(recorded_event(e) for e in self._state.values.get(events_key(key), ()))

    def _read_folder(self) -> tuple[FolderContent, str]:
        """The folder at one moment, and its fingerprint. Read again if it changed meanwhile, for a while;
        then as it is, without one."""
        before = self._folder.fingerprint()
        for _ in range(5):
            content = self._folder.read()
            after = self._folder.fingerprint()
            if before == after:
                return content, after
            before = after
        return content, ""

    def _freeze(self, admission: Admission, placement: Placement) -> Snapshot:
        decoded: dict[ObjectKey, tuple[Entry, Service]] = {}
        for key, entry in entries(self._state.values, "Service"):
            kept = self._decoded.get(key)
            decoded[key] = kept if kept and kept[0] is entry else (entry, decode.service(entry["object"]))
        self._decoded = decoded
        services = tuple(service for _, service in decoded.values())
        index = PodIndex(placement.pods)
        nodes = {n.name: n for n in placement.nodes}
        slices = [*written_slices(self._state.values)]
        for service in services:
            slices += slices_for(service, index, nodes, placement.subdomains)
        problems = sorted([*admission.problems, *placement.problems], key=_problem_order)
        parts = (
            services,
            tuple(sorted(placement.nodes, key=lambda n: n.name)),
            tuple(sorted(slices, key=lambda s: s.key)),
            tuple(placement.pods),
            tuple(problems),
        )
        version = hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()
        return Snapshot(*parts, version=version)

    def _entry(self, key: ObjectKey) -> Entry | None:
        entry: Entry | None = self._state.values.get(state_key("Service", key))
        return entry

    def _set(
        self,
        key: ObjectKey,
        entry: Entry,
        *,
        metadata: Mapping[str, Any] | None = None,
        status: Mapping[str, Any] | None = None,
    ) -> None:
        self._state.commit({state_key("Service", key): _updated(entry, metadata=metadata, status=status)})


def _with(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    if not changes:
        return values
    return {k: v for k, v in {**values, **changes}.items() if v is not None}


def _updated(
    entry: Entry, *, metadata: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None
) -> Entry:
    obj = dict(entry["object"])
    if metadata is not None:
        obj["metadata"] = {**obj["metadata"], **metadata}
    if status is not None:
        obj["status"] = status
    return {**entry, "object": obj, "recorded": entry["recorded"] or status is not None}


def _ingress(ingress: Ingress) -> dict[str, str]:
    if not ingress.ip:
        return {"hostname": ingress.hostname}
    return {"ip": ingress.ip, **({"ipMode": str(ingress.ip_mode)} if ingress.ip_mode else {})}


def _problem_order(problem: Problem) -> tuple[str, int, str, str]:
    file, _, line = problem.where.rpartition(":")
    number = int(line) if line.isdecimal() else 0
    return (file if line.isdecimal() else problem.where, number, problem.field, problem.message)
