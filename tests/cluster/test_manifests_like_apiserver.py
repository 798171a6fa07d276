"""A folder of manifests accepts, refuses, fills in and allocates as the real API server does.

Each case is one manifest (`like_apiserver/*.yaml`), sent as it is written, in YAML, to the API server with
strict field validation, as a dry run; and put into a folder. Compared are the answer, the fields refused, and
of accepted Services the whole spec, with values that were allocated told apart by what they are, not by
their number. Where the two differ on purpose, `DIFFERENCES` says why; docs/manifests.md says so to users.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import re
import ssl
import textwrap
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbprov.cluster import decode
from lbprov.cluster.manifests import ManifestCluster
from lbprov.cluster.manifests.state import StateFile
from lbprov.lab.controlplane import SERVICE_CIDRS, ControlPlane, eventually

CORPUS = Path(__file__).parent / "like_apiserver"
DOCUMENTATION = Path(__file__).parents[2] / "docs/manifests.md"
NAMESPACE = "like-apiserver"
COLLECTIONS = {
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Endpoints": "/api/v1/namespaces/{}/endpoints",
    "Node": "/api/v1/nodes",
    "Namespace": "/api/v1/namespaces",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}

MISNAMED = (
    (r"^spec\.LoadBalancerSourceRanges", "spec.loadBalancerSourceRanges"),
    (r"^metadata\.taints", "spec.taints"),
    (r"^spec\.template\.labels", "spec.template.metadata.labels"),
)
"""Fields that the API server calls by another name than theirs."""

NO_PAST = "a folder means the same whatever was in it before: fields of another type are refused, not dropped"
CLEARER = "the field that was written is named, not the one it does not fit"
UNSTORED = "what a cluster writes into an object is ignored"
CHECKED = "nobody but the author has checked it, and it would be of no use"
LARGE = "of large kinds little is read: an unknown field is told, and ignored"
ANEW = "nothing runs that would be lost: the new object takes the place of the old one"
SHARED = "one nodePort for the protocols of one port, in whichever order they were written"
KEPT = "a renamed port keeps its nodePort, as with `kubectl apply`"
DIFFERENCES: Mapping[str, str] = {
    "finalizer-plain": UNSTORED,
    "creation-time-bad": UNSTORED,
    "node-address-type": CHECKED,
    "node-address-not-ip": CHECKED,
    "node-address-missing": CHECKED,
    "slice-port-zero": CHECKED,
    "slice-port-large": CHECKED,
    "slice-port-negative": CHECKED,
    "pod-unknown-field": LARGE,
    "daemon-set-replicas": LARGE,
    "deployment-selector-missing": CLEARER,
    "family-changed": CLEARER,
    "single-to-two-families-reversed": CLEARER,
    "dual-to-single-second-family": CLEARER,
    "dual-families-turned-round": CLEARER,
    "two-families-to-headless": CLEARER,
    "node-port-to-cluster-ip-node-port-left": NO_PAST,
    "load-balancer-to-cluster-ip-fields-left": NO_PAST,
    "cluster-ip-to-external-name-address-left": NO_PAST,
    "external-ips-removed-policy-left": NO_PAST,
    "health-port-given-up-but-left": NO_PAST,
    "headless-single-families-left": NO_PAST,
    "node-port-given-to-a-second-port": NO_PAST,
    "health-port-becomes-a-node-port": NO_PAST,
    "port-renamed": KEPT,
    "port-named": KEPT,
    "protocol-added-on-the-same-port": SHARED,
    "protocol-added-before-on-the-same-port": SHARED,
    "shared-node-port-becomes-one-protocol": SHARED,
    "deployment-selector": ANEW,
    "pod-spec": ANEW,
    "node-pod-range": ANEW,
    "slice-address-type": ANEW,
}
"""By the case's name: why the folder does not answer as the API server does."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`fields`: those refused, as far as they were named; `told`: what was said of them. `undecoded`: a value
    is of the wrong type, the fields are without indices."""

    accepted: bool
    fields: frozenset[str] = frozenset()
    told: str = ""
    undecoded: bool = False
    object: Mapping[str, Any] | None = None


# -- the API server


class Server:
    """Sends YAML as it is. Answers are `Answer`s, not errors."""

    def __init__(self, plane: ControlPlane) -> None:
        config = json.loads(plane.admin_kubeconfig.read_text())
        self._token = config["users"][0]["user"]["token"]
        url = urllib.parse.urlsplit(plane.server)
        tls = ssl.create_default_context(cadata=plane.ca_pem)
        self._connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=tls, timeout=30)

    def create(self, text: str, *, dry_run: bool) -> Answer:
        """What is made for real is to be removed."""
        return self._send("POST", _collection(text), text, dry_run=dry_run)

    def replace(self, text: str, name: str, *, dry_run: bool) -> Answer:
        return self._send("PUT", f"{_collection(text)}/{name}", text, dry_run=dry_run)

    def apply(self, text: str, name: str, *, dry_run: bool) -> Answer:
        """As `kubectl apply --server-side` does: what was said before and is no longer said is taken back."""
        path = f"{_collection(text)}/{name}"
        return self._send("PATCH", path, text, "application/apply-patch+yaml", dry_run=dry_run)

    def remove(self, made: Answer) -> None:
        if made.object is not None:
            collection = COLLECTIONS[made.object["kind"]].format(NAMESPACE)
            gone = self._send("DELETE", f"{collection}/{made.object['metadata']['name']}", "", dry_run=False)
            assert gone.accepted, gone.told

    def _send(
        self, method: str, path: str, text: str, content_type: str = "application/yaml", *, dry_run: bool
    ) -> Answer:
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        if method == "PATCH":
            query += "&fieldManager=test&force=true"
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": content_type,
            "Accept": "application/json",
        }
        self._connection.request(method, path + query, text.encode(), headers)
        response = self._connection.getresponse()
        body = json.loads(response.read())
        if response.status < 300:
            return Answer(True, object=body)
        assert response.status in (400, 404, 422, 500), body
        message = body["message"]
        return Answer(False, _refused(body), message, undecoded="cannot unmarshal" in message)

    def close(self) -> None:
        self._connection.close()


def _collection(text: str) -> str:
    kind = re.search(r"kind: (\w+)", text)
    assert kind
    return COLLECTIONS[kind[1]].format(NAMESPACE)


def _refused(status: Mapping[str, Any]) -> frozenset[str]:
    """Paths of a Status; those of a decoding error have no indices, and duplicate keys of YAML no path.
    None where it names no field."""
    causes = status.get("details", {}).get("causes", ())
    paths = {c["field"] for c in causes if c.get("field") not in (None, "", "<nil>")}
    paths |= set(re.findall(r'(?:unknown|duplicate) field "([^"]*)"', status["message"]))
    paths |= {f"key {k}" for k in re.findall(r'key \\?"([^"\\]*)\\?" already set in map', status["message"])}
    paths |= set(re.findall(r"Go struct field \w+\.([\w.]*) of type", status["message"]))
    if "HealthCheck NodePort" in status["message"]:  # an internal error, by mistake
        paths.add("spec.healthCheckNodePort")
    for wrong, right in MISNAMED:
        paths = {re.sub(wrong, right, path) for path in paths}
    return frozenset(paths)


# -- the folder


class Folder:
    """A folder of one manifest, and what is in force in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cluster = ManifestCluster.open(directory, service_cidrs=SERVICE_CIDRS)

    def put(self, text: str) -> Answer:
        (self._directory / "a.yaml").write_text(text)
        problems = [p for p in self._cluster.snapshot().problems if p.fatal]
        told = "; ".join(str(p) for p in problems)
        if problems:
            return Answer(False, frozenset(_field(p.field, p.message) for p in problems), told)
        state = StateFile(self._directory / ".lbprov-state.json", read_only=True)
        state.refresh()
        found = [v["object"] for k, v in state.values.items() if "object" in v]
        return Answer(True, object=found[0] if found else None)


def _field(path: str, message: str) -> str:
    twice = re.match(r'key "(.*)" is given twice', message)
    return f"key {twice[1]}" if twice else path


# -- comparison


def fields_agree(server: frozenset[str], ours: frozenset[str]) -> bool:
    """The same fields; each side may go further into one (`spec.selector`, `spec.selector.app`)."""
    theirs, own = {_plain(p) for p in server}, {_plain(p) for p in ours}
    # A targetPort filled in from a port that is none is none, either: said once, of the port.
    theirs -= {f"{p.removesuffix('.port')}.targetPort" for p in own if p.endswith(".port")} - own
    return _covered(theirs, own) and _covered(own, theirs)


def _covered(paths: set[str], by: set[str]) -> bool:
    def covers(a: str, b: str) -> bool:
        return a == b or a.startswith((f"{b}.", f"{b}[")) or b.startswith((f"{a}.", f"{a}["))

    return all(any(covers(a, b) for b in by) for a in paths)


def _plain(path: str) -> str:
    """One name for the first address, which has two."""
    path = re.sub(r"^spec\.(clusterIP|podCIDR)$", r"spec.\1s[0]", path)
    return path.removesuffix(".").removesuffix("[]")


def normal(answer: Answer, given: str, old: Answer | None = None) -> dict[str, Any]:
    """A Service's spec, labels and annotations, in one spelling, with every allocated value named: as the old
    one's, or as new."""
    assert answer.object is not None
    names: dict[object, str] = {}
    if old is not None and old.object is not None:
        before = old.object["spec"]
        names |= {ip: f"<old {'v6' if ':' in ip else 'v4'}>" for ip in before.get("clusterIPs", ())}
        for port in before.get("ports", ()):
            names.setdefault(port.get("nodePort"), f"<old nodePort of {port.get('name', port['port'])}>")
        names.setdefault(before.get("healthCheckNodePort"), "<old healthCheckNodePort>")
    spec: dict[str, Any] = json.loads(json.dumps(answer.object["spec"]))
    spec |= {f"metadata.{k}": answer.object["metadata"].get(k) for k in ("labels", "annotations")}
    spec.setdefault("ports", [])
    if spec.get("clusterIP", "None") != "None":
        spec["clusterIP"] = decode.canonical_ip(spec["clusterIP"])
    for field in {"clusterIPs", "externalIPs"} & spec.keys():
        spec[field] = [ip if ip == "None" else decode.canonical_ip(ip) for ip in spec[field]]
    asked = _values(yaml.safe_load(given))
    fresh = itertools.count(1)

    def name(value: Any) -> Any:
        if not value or value == "None" or value in asked:
            return value
        kind = "port" if isinstance(value, int) else "v6" if ":" in value else "v4"
        return names.setdefault(value, f"<new {kind} {next(fresh)}>")

    for port in spec["ports"]:
        if "nodePort" in port:
            port["nodePort"] = name(port["nodePort"])
    for field in ("clusterIP", "healthCheckNodePort"):
        if field in spec:
            spec[field] = name(spec[field])
    if "clusterIPs" in spec:
        spec["clusterIPs"] = [name(ip) for ip in spec["clusterIPs"]]
    return spec


def _values(document: Any) -> set[object]:
    """Every address and number that a manifest says."""
    if isinstance(document, dict | list):
        inner = document.values() if isinstance(document, dict) else document
        return {value for part in inner for value in _values(part)}
    if isinstance(document, str):
        with contextlib.suppress(ValueError):
            return {decode.canonical_ip(document)}
    return {document}


def difference(server: Answer, ours: Answer, given: str, old: tuple[Answer, Answer] | None = None) -> str:
    """What differs, or ''."""
    if server.accepted != ours.accepted:
        who = "the API server" if server.accepted else "the folder"
        return f"only {who} accepts it: {server.told or ours.told}"
    if not server.accepted:
        named = server.fields
        own = frozenset(re.sub(r"\[\d+\]", "", p) for p in ours.fields) if server.undecoded else ours.fields
        if not named or fields_agree(named, own):
            return ""
        return f"refused are {sorted(named)}, in the folder {sorted(own)}: {server.told}; {ours.told}"
    if "kind: Service" not in given:
        return ""
    theirs = normal(server, given, old[0] if old else None)
    mine = normal(ours, given, old[1] if old else None)
    differing = {k for k in {*theirs, *mine} if theirs.get(k) != mine.get(k)}
    return "; ".join(f"{k}: {theirs.get(k)!r}, in the folder {mine.get(k)!r}" for k in sorted(differing))


# -- cases


def _cases(file: str) -> list[Any]:
    parts = re.split(r"^--- # (\S+)\n", (CORPUS / file).read_text(), flags=re.MULTILINE)
    return [pytest.param(text, id=name) for name, text in zip(parts[1::2], parts[2::2], strict=True)]


def service(spec: str, name: str = "web") -> str:
    head = f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n"
    return head + textwrap.indent(spec, "  ")


NEEDS_RANGE = re.compile("odePort")  # a dry run does not look at the range of nodePorts


@pytest.fixture(scope="module")
def _plane(untouched_plane: ControlPlane) -> ControlPlane:
    return untouched_plane


@pytest.fixture(scope="module")
def server(_plane: ControlPlane) -> Iterator[Server]:
    admin = _plane.admin
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    eventually(lambda: admin.find("ServiceAccount", "default", NAMESPACE))
    server = Server(_plane)
    yield server
    server.close()
    admin.delete("Namespace", NAMESPACE)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def check(case: str, found: str) -> None:
    """A difference that is listed must be there: a list that is out of date hides the next one."""
    if case in DIFFERENCES:
        assert found, f"no difference any more: take {case} out of DIFFERENCES"
    else:
        assert not found, found


def test_differences_are_documented() -> None:
    names = [case.id for path in CORPUS.glob("*.yaml") for case in _cases(path.name)]
    assert {name for name in DIFFERENCES if names.count(name) != 1} == set()
    text = DOCUMENTATION.read_text()
    assert [reason for reason in set(DIFFERENCES.values()) if reason not in text] == []


def _name(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.id)


@pytest.mark.parametrize(
    "spec",
    [*_cases("service-ports.yaml"), *_cases("service-addresses.yaml"), *_cases("service-balancing.yaml")],
)
def test_services(
    control_plane: ControlPlane, request: pytest.FixtureRequest, server: Server, folder: Folder, spec: str
) -> None:
    text = service(spec)
    dry_run = not NEEDS_RANGE.search(text)
    theirs = server.create(text, dry_run=dry_run)
    if not dry_run:
        server.remove(theirs)
    check(_name(request), difference(theirs, folder.put(text), text))


@pytest.mark.parametrize("text", _cases("objects.yaml"))
def test_objects(request: pytest.FixtureRequest, server: Server, folder: Folder, text: str) -> None:
    check(_name(request), difference(server.create(text, dry_run=True), folder.put(text), text))


def _pairs(file: str) -> list[Any]:
    return [pytest.param(*case.values[0].split("# becomes\n"), id=case.id) for case in _cases(file)]


@pytest.mark.parametrize(("before", "after"), _pairs("service-updates.yaml"))
def test_service_updates(
    request: pytest.FixtureRequest, server: Server, folder: Folder, before: str, after: str
) -> None:
    name = f"u-{_name(request)}"[:63].rstrip("-")
    check(
        _name(request),
        _updated(server.replace, server, folder, service(before, name), service(after, name), name),
    )


@pytest.mark.parametrize(("before", "after"), _pairs("object-updates.yaml"))
def test_object_updates(
    request: pytest.FixtureRequest, server: Server, folder: Folder, before: str, after: str
) -> None:
    check(_name(request), _updated(server.apply, server, folder, before, after, "x"))


@pytest.mark.parametrize(
    ("before", "after"), [case for case in _pairs("service-updates.yaml") if DIFFERENCES.get(case.id) == KEPT]
)
def test_renamed_ports_keep_their_node_ports_as_applied_ones_do(
    server: Server, folder: Folder, before: str, after: str
) -> None:
    assert not _updated(server.apply, server, folder, service(before), service(after), "web")


def _updated(
    change: Callable[..., Answer], server: Server, folder: Folder, before: str, after: str, name: str
) -> str:
    theirs = server.apply(before, name, dry_run=False)
    try:
        ours = folder.put(before)
        assert theirs.accepted, theirs.told
        assert not difference(theirs, ours, before)
        changed = change(after, name, dry_run=not NEEDS_RANGE.search(after))
        return difference(changed, folder.put(after), after, (theirs, ours))
    finally:
        server.remove(theirs)


# -- whatever comes

SEED = 136
RANDOM_SPECS = 250
_PORT_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "name": ("a", "b", "c", "A", "", None, 1),
    "port": (80, 81, 82, 53, 0, 65536, "80", None),
    "protocol": ("TCP", "UDP", "SCTP", "tcp", ""),
    "targetPort": (8080, "http", 0, 70000, "", "80", None),
    "nodePort": (30701, 30702, 30703, 0, 80, None),
    "appProtocol": ("http", "a/b", "", "a b", None),
}
_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName", "", None, "X"),
    "selector": ({"a": "b"}, {"a": ""}, {"a": "b c"}, {}, None),
    "clusterIP": ("None", "None", "10.96.9.9", "fd00:10:96::9", "", "10.96.09.9", "10.1.1.1", None),
    "clusterIPs": (["None"], ["10.96.9.9"], ["10.96.9.9", "fd00:10:96::9"], ["x"], [], None),
    "ipFamilies": (["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"], ["IPv4", "IPv4"], []),
    "ipFamilyPolicy": ("SingleStack", "PreferDualStack", "RequireDualStack", "X", None),
    "externalIPs": (["198.51.100.1"], ["2001:db8::1"], ["127.0.0.1"], ["239.0.0.1"], ["ff02::1"], []),
    "externalName": ("a.b", "a.b.", "A", "", None),
    "externalTrafficPolicy": ("Cluster", "Local", "Local", "X", ""),
    "internalTrafficPolicy": ("Cluster", "Local", "X", "", None),
    "trafficDistribution": ("PreferClose", "PreferSameNode", "X", None),
    "healthCheckNodePort": (30701, 30704, 0, 80, None),
    "publishNotReadyAddresses": (True, False, None),
    "sessionAffinity": ("None", "ClientIP", "X", "", None),
    "sessionAffinityConfig": ({"clientIP": {"timeoutSeconds": 5}}, {"clientIP": {"timeoutSeconds": 0}}, {}),
    "loadBalancerIP": ("198.51.100.9", "x", "", None),
    "loadBalancerSourceRanges": (["10.0.0.0/8"], ["10.0.0.1/8"], ["2001:DB8::/32"], ["10.0.0.0"], [], None),
    "loadBalancerClass": ("a/b", "a", "a b", "", None),
    "allocateLoadBalancerNodePorts": (True, False, None),
    "unknown": (1, None),
}  # fmt: skip


_SOUND: tuple[Mapping[str, Any], ...] = (
    {},
    {"type": "NodePort"},
    {"type": "LoadBalancer"},
    {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
    {"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "selector": {"a": "b"}},
    {"clusterIP": "None", "selector": {"a": "b"}},
    {"clusterIP": "None"},
    {"type": "ExternalName", "externalName": "a.b"},
)


def _random_spec(dice: random.Random) -> dict[str, Any]:
    """A sound spec, and up to four things about it changed."""
    spec = dict(dice.choice(_SOUND))
    ports: list[dict[str, Any]] = [
        {"name": f"p{i}", "port": 80 + i} for i in range(dice.choice((1, 1, 2, 3)))
    ]
    for _ in range(dice.randrange(5)):
        if dice.random() < 0.4:
            field = dice.choice(list(_PORT_FIELDS))
            dice.choice(ports)[field] = dice.choice(_PORT_FIELDS[field])
        else:
            field = dice.choice(list(_FIELDS))
            spec[field] = dice.choice(_FIELDS[field])
    return {**spec, "ports": ports}


@pytest.mark.timeout(60)
def test_random_services(server: Server, tmp_path: Path) -> None:
    dice, differing, accepted = random.Random(SEED), [], 0
    for number in range(RANDOM_SPECS):
        text = service(yaml.safe_dump(_random_spec(dice)), f"r-{number}")
        directory = tmp_path / str(number)
        directory.mkdir()
        # Requested addresses leak in a refused request that is no dry run.
        dry_run = not NEEDS_RANGE.search(text) or bool(re.search("10.96.9.9|fd00:10:96::9", text))
        if dry_run and NEEDS_RANGE.search(text):
            continue
        theirs, ours = server.create(text, dry_run=dry_run), Folder(directory).put(text)
        if not dry_run:
            server.remove(theirs)
        accepted += theirs.accepted
        # Of several faults each may stop at another.
        if not theirs.accepted and not ours.accepted:
            continue
        if found := difference(theirs, ours, text):
            differing.append(f"{text}{found}")
    assert not differing, "\n\n".join(differing[:10])
    assert RANDOM_SPECS // 5 < accepted < RANDOM_SPECS * 4 // 5, accepted
