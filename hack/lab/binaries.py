"""The lab's programs, built from source once and kept by version in a cache outside the tree.

`k8s.io/kubernetes` is a Go module, so a module of ours (`planes/main.go`) links etcd, the API server, the
controller-manager, the scheduler and kubectl into one binary. Its staging modules are published apart with version
v0.MINOR.PATCH; the list is in its own go.mod.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hack.lab.gobuild import BuildFailed, Estimate, find_go, go_environment, run_go

DEFAULT_KUBERNETES = "1.36.3"
KWOK = "0.8.0"
HELM = "4.3.1"

# Measured on two cores, one after the other with an empty build cache.
PLANES_BUILD = Estimate(packages=2716, seconds=450)
KWOK_BUILD = Estimate(packages=585, seconds=110)
HELM_BUILD = Estimate(packages=895, seconds=150)

PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
MAIN = Path(__file__).parent / "planes" / "main.go"
ETCD_SERVER = "go.etcd.io/etcd/server/v3"
LDFLAGS = "-s -w"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of one Kubernetes version are."""

    kubernetes_version: str
    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    kwok: Path
    helm: Path


def cache_folder() -> Path:
    """The cache of binaries, by default ~/.cache/job-dispatcher."""
    configured = os.environ.get("JOB_DISPATCHER_CACHE")
    return (
        Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "job-dispatcher"
    )


def provide(kubernetes_version: str, *, report: Report) -> Binaries:
    """Finds or builds all programs. `report` gets lines for a person.

    Raises BuildFailed.
    """
    version = kubernetes_version.removeprefix("v")
    if not re.fullmatch(r"1\.\d+\.\d+", version):
        raise BuildFailed(
            f"--kubernetes-version {kubernetes_version}: expected a release such as {DEFAULT_KUBERNETES}"
        )
    planes = _present_planes(version) or _planes(version, report)
    return Binaries(
        kubernetes_version=version,
        **{program.replace("-", "_"): planes / program for program in PLANE_PROGRAMS},
        kwok=_tool("kwok", KWOK, "sigs.k8s.io/kwok/cmd/kwok", KWOK_BUILD, report),
        helm=_tool("helm", HELM, "helm.sh/helm/v4/cmd/helm", HELM_BUILD, report),
    )


def _present_planes(version: str) -> Path | None:
    """A folder of KUBEBUILDER_ASSETS or PATH that holds all of a control plane in exactly this version."""
    for folder in (os.environ.get("KUBEBUILDER_ASSETS", ""), *os.environ.get("PATH", "").split(os.pathsep)):
        path = Path(folder)
        if not folder or not all(os.access(path / program, os.X_OK) for program in PLANE_PROGRAMS):
            continue
        answer = subprocess.run(
            [path / "kube-apiserver", "--version"], capture_output=True, text=True, check=False
        )
        if answer.stdout.strip() == f"Kubernetes v{version}":
            return path.absolute()
    return None


def _planes(version: str, report: Report) -> Path:
    recipe = hashlib.sha256(MAIN.read_bytes() + LDFLAGS.encode()).hexdigest()[:8]
    target = cache_folder() / "kubernetes" / f"v{version}-{recipe}"

    def build(folder: Path, progress: Callable[[float, float], None]) -> None:
        module = folder / "module"
        module.mkdir()
        shutil.copy(MAIN, module / "main.go")
        (module / "go.mod").write_text(_go_mod(version))
        major, minor, _ = version.split(".")
        stamp = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        versions = [
            f"-X {package}.{key}={value}"
            for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
            for key, value in stamp.items()
        ]
        run_go(
            [
                "build",
                "-mod=mod",
                "-trimpath",
                "-v",
                "-ldflags",
                " ".join([LDFLAGS, *versions]),
                "-o",
                "../kubernetes",
                ".",
            ],
            folder=module,
            environment=go_environment(),
            log=folder / "build.log",
            estimate=PLANES_BUILD,
            report=progress,
        )
        for program in PLANE_PROGRAMS:
            (folder / program).symlink_to("kubernetes")
        answer = subprocess.run(
            [folder / "kube-apiserver", "--version"], capture_output=True, text=True, check=False
        )
        if answer.stdout.strip() != f"Kubernetes v{version}":
            raise BuildFailed(
                f"the new API server says it is {answer.stdout.strip()!r}, not v{version}: {answer.stderr}"
            )

    _once(target, f"Kubernetes {version} (etcd, control plane, kubectl)", build, report)
    return target


def _tool(name: str, version: str, package: str, estimate: Estimate, report: Report) -> Path:
    target = cache_folder() / name / f"v{version}"

    def build(folder: Path, progress: Callable[[float, float], None]) -> None:
        run_go(
            ["install", "-trimpath", "-v", "-ldflags", LDFLAGS, f"{package}@v{version}"],
            folder=folder,
            environment=go_environment() | {"GOBIN": str(folder)},
            log=folder / "build.log",
            estimate=estimate,
            report=progress,
        )

    _once(target, f"{name} {version}", build, report)
    return target / name


def _go_mod(version: str) -> str:
    """A go.mod that takes every version from that of k8s.io/kubernetes, so that nothing needs resolving.

    Its `replace` lines do not reach us (only a main module's count), hence our own for the staging modules.
    """
    go = str(find_go())
    answer = subprocess.run(
        [go, "mod", "download", "-json", f"k8s.io/kubernetes@v{version}"],
        cwd="/",
        env=go_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        said = json.loads(answer.stdout).get("Error", "") if answer.stdout.startswith("{") else answer.stderr
        raise BuildFailed(
            f"Go's module proxy gave no sources of Kubernetes {version}: {said.strip()}\n"
            "`go list -m -versions k8s.io/kubernetes` lists the versions it has."
        )
    edit = [go, "mod", "edit", "-json", json.loads(answer.stdout)["GoMod"]]
    upstream = json.loads(
        subprocess.run(edit, env=go_environment(), capture_output=True, text=True, check=True).stdout
    )
    staging = sorted(
        entry["Old"]["Path"] for entry in upstream["Replace"] if entry["New"]["Path"].startswith("./")
    )
    staged = "v0" + version.removeprefix("1")
    required = {entry["Path"]: entry["Version"] for entry in upstream["Require"]} | {
        "k8s.io/kubernetes": f"v{version}"
    }
    lines = [f"module planes\n\ngo {upstream['Go']}\n", "require ("]
    lines += [f"\t{path} {wanted}" for path, wanted in sorted(required.items())]
    lines += [")\n", "replace ("]
    lines += [f"\t{path} => {path} {staged}" for path in staging]
    return "\n".join([*lines, ")\n"])


def _once(
    target: Path, what: str, build: Callable[[Path, Callable[[float, float], None]], None], report: Report
) -> None:
    """Fills `target` by `build`, by one process at a time, visible only when whole."""
    if target.exists():
        return
    with _lock(cache_folder() / "locks" / f"{target.parent.name}-{target.name}", what, report):
        if target.exists():
            return
        folder = target.parent / f".{target.name}.building"
        shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed: we hold the lock
        folder.mkdir(parents=True)
        report(f"building {what}, once; later starts take it from {target}")
        begin = time.monotonic()

        def progress(elapsed: float, remaining: float) -> None:
            report(f"building {what}: {_clock(elapsed)} so far, about {_clock(remaining)} left")

        build(folder, progress)
        shutil.rmtree(folder / "module", ignore_errors=True)
        folder.rename(target)
        report(f"built {what} in {_clock(time.monotonic() - begin)}")


@contextlib.contextmanager
def _lock(path: Path, what: str, report: Report) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        # A compiler that outlives us still writes: it inherits the lock, and the next builder waits for it.
        os.set_inheritable(handle.fileno(), True)
        waited = 0
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % 10 == 0:
                    report(f"another process is building {what}: waiting ({_clock(waited)})")
                waited += 1
                time.sleep(1)
        yield


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
