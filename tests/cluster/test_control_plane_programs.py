"""Where the control plane's programs come from. The programs here are small scripts; the real build is what
all other tests of this folder stand on."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from lbprov.lab.controlplane import CONTROL_PLANE, programs
from lbprov.model import UserError

KUBERNETES = "k8s.io/kubernetes"
OLD, NEW, DEVELOPMENT = "go1.19.8", "go1.26.8", "devel +abcdef"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def go(path: Path, version: str, toolchain: Path) -> Path:
    """A go command: says its version, downloads `toolchain`, and builds programs that name their builder.
    Every call is appended to a file beside it."""
    told = json.dumps({"GOVERSION": version, "GOOS": "linux", "GOARCH": "amd64"})
    return script(
        path,
        f"""
echo "$GOTOOLCHAIN $GOFLAGS $PWD: $*" >> {path}.calls
case "$1" in
env) echo '{told}' ;;
mod) echo '{json.dumps({"Dir": str(toolchain)})}' ;;
build)
    while [ "$1" != -o ]; do shift; done
    case "$3" in *kubectl) echo "no kubectl today" >&2; exit 1 ;; esac
    sleep 0.1
    printf '#!/bin/sh\\necho {path} %s\\n' "$3" > "$2"; chmod 755 "$2" ;;
esac""",
    )


class Machine:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = folder / "module"
        self.module.mkdir()
        self.requires("go 1.26.0", f"require {KUBERNETES} v1.36.3")
        self.bin, self.assets = folder / "bin", folder / "assets"
        self.built = folder / "cache/lbprov/control-plane/v1.36.3"
        self.toolchain = folder / "modcache/toolchain"
        self.said: list[str] = []
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setenv("GOTOOLCHAIN", "local")
        monkeypatch.setenv("GOFLAGS", "-mod=vendor")
        monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
        # Not of this machine: the search starts at PATH and ends there.
        for module in ("binaries", "toolchain"):
            monkeypatch.setattr(f"lbprov.lab.controlplane.{module}.search_path", lambda: str(self.bin))
        monkeypatch.setattr("lbprov.lab.controlplane.toolchain.USUAL_PLACE", str(folder / "nowhere"))

    def requires(self, *lines: str) -> None:
        (self.module / "go.mod").write_text("\n".join(("module example.com/m", *lines, "")))

    def has_go(self, version: str) -> Path:
        return go(self.bin / "go", version, self.toolchain)

    def programs(self, *names: str) -> Mapping[str, Path]:
        return programs(self.module, names or CONTROL_PLANE, self.said.append)

    def calls(self, of: Path) -> list[str]:
        path = of.with_name("go.calls")
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_assets_come_first_whatever_their_version(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine.assets))
    for name in CONTROL_PLANE:
        script(machine.assets / name, "echo Kubernetes v1.19.0")
        script(machine.bin / name, "echo Kubernetes v1.36.3")
    assert machine.programs() == {name: machine.assets / name for name in CONTROL_PLANE}


def test_what_the_assets_lack_is_built(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine.assets))
    for name in ("etcd", "kube-apiserver"):
        script(machine.assets / name, "")
    machine.has_go(NEW)
    found = machine.programs()
    assert found["kube-apiserver"] == machine.assets / "kube-apiserver"
    assert found["kube-controller-manager"] == machine.built / "kube-controller-manager"


@pytest.mark.parametrize(
    ("name", "says", "used"),
    [
        pytest.param("etcd", "etcd Version: 3.4.23", True, id="etcd-of-debian"),
        pytest.param("etcd", "etcd Version: 3.3.25", False, id="etcd-too-old"),
        pytest.param("kube-apiserver", "Kubernetes v1.36.0", True, id="apiserver"),
        pytest.param("kube-apiserver", "Kubernetes v1.31.9", False, id="apiserver-too-old"),
        pytest.param("kubectl", "Client Version: v1.32.4-dispatcher", True, id="kubectl-with-suffix"),
        pytest.param("kube-apiserver", "what?", False, id="silent"),
    ],
)
def test_path_comes_second_unless_too_old(machine: Machine, name: str, says: str, used: bool) -> None:
    script(machine.bin / name, f"echo '{says}'")
    script(machine.built / name, "")
    assert machine.programs(name) == {name: (machine.bin if used else machine.built) / name}


def test_what_is_missing_is_built_once(machine: Machine) -> None:
    found = machine.has_go(NEW)
    first = machine.programs()
    assert first == {name: machine.built / name for name in CONTROL_PLANE}
    builds = [call for call in machine.calls(found) if " build " in call]
    assert len(builds) == 3
    assert all(call.startswith(f"auto -buildvcs=false {machine.module}: ") for call in builds)
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in builds[1]
    assert "gitMinor=36" in builds[1]
    assert builds[1].endswith(f"{KUBERNETES}/cmd/kube-apiserver")
    assert "go.etcd.io/etcd/server/v3" in (machine.built / "etcd").read_text()
    assert [line.split()[1] for line in machine.said if line.startswith("building")] == list(CONTROL_PLANE)
    before = len(machine.calls(found))
    assert machine.programs() == first
    assert len(machine.calls(found)) == before


def test_two_at_once_build_once(machine: Machine) -> None:
    found = machine.has_go(NEW)
    both = [threading.Thread(target=machine.programs, args=("etcd",)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len([call for call in machine.calls(found) if " build " in call]) == 1


def test_a_failed_build_says_why_and_leaves_nothing_half_done(machine: Machine) -> None:
    machine.has_go(NEW)
    with pytest.raises(UserError, match="no kubectl today"):
        machine.programs("etcd", "kubectl")
    assert sorted(path.name for path in machine.built.iterdir()) == [".lock", "etcd"]


def test_a_development_go_counts_as_new(machine: Machine) -> None:
    found = machine.has_go(DEVELOPMENT)
    machine.programs("etcd")
    assert not [call for call in machine.calls(found) if " mod " in call]


def test_an_old_go_fetches_a_toolchain_as_a_module(machine: Machine) -> None:
    old = machine.has_go(OLD)
    new = go(machine.toolchain / "bin/go", NEW, machine.toolchain)
    for path in (new, script(machine.toolchain / "pkg/tool/linux_amd64/compile", "")):
        path.chmod(0o444)  # as a module's files are
    (machine.toolchain / "src").mkdir()
    (machine.toolchain / "src/_go.mod").write_text("module std\n")
    machine.programs("etcd")
    (download,) = [call for call in machine.calls(old) if ": mod " in call]
    assert download.endswith("mod download -json golang.org/toolchain@v0.0.1-go1.26.0.linux-amd64")
    assert not [call for call in machine.calls(old) if ": build " in call]
    root = machine.built.parent / "go1.26.0"
    assert (root / "src/go.mod").read_text() == "module std\n"
    assert (root / "pkg/tool/linux_amd64/compile").stat().st_mode & 0o777 == 0o755
    assert "go.etcd.io" in (machine.built / "etcd").read_text()

    machine.programs("kube-apiserver")
    assert len([call for call in machine.calls(old) if ": mod " in call]) == 1


def test_without_go_the_error_names_the_remedies(machine: Machine) -> None:
    with pytest.raises(UserError, match=r"apt-get install golang-go.*KUBEBUILDER_ASSETS"):
        machine.programs()


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        pytest.param(["go 1.26.0"], "requires no version of k8s.io/kubernetes", id="no-kubernetes"),
        pytest.param([f"require {KUBERNETES} v1.36.3"], "no line `go 1.x.y`", id="no-go-release"),
    ],
)
def test_a_module_that_pins_nothing_is_refused(machine: Machine, lines: list[str], error: str) -> None:
    machine.has_go(OLD)
    machine.requires(*lines)
    with pytest.raises(UserError, match=error):
        machine.programs("etcd")


def test_a_folder_that_is_no_module_is_refused(machine: Machine) -> None:
    (machine.module / "go.mod").unlink()
    with pytest.raises(UserError, match="is no Go module that pins a control plane: No such file"):
        machine.programs()


def test_a_cache_that_cannot_be_written_is_an_error_with_the_remedy(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has_go(NEW)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/here")
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder of yours"):
        machine.programs()
