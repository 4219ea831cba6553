"""The lab's programs, built from source once and kept by version in a cache outside the tree.

`k8s.io/kubernetes` is a Go module, so a module of ours (`planes/main.go`) links etcd, the API server, the
controller-manager, the scheduler and kubectl into one binary. Its staging modules are published apart with version
v0.MINOR.PATCH; the list is in its own go.mod.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.lab.cache import Progress, Report, Step, build_missing, cache_folder
from hack.lab.gobuild import BuildFailed, Estimate, find_go, go_environment, run_go

DEFAULT_KUBERNETES = "1.36.3"
KWOK = "0.8.0"
HELM = "4.3.1"
ACTIONLINT = "1.7.12"

# Measured on two cores, one after the other with an empty build cache.
PLANES_BUILD = Estimate(packages=2716, seconds=450)
KWOK_BUILD = Estimate(packages=585, seconds=110)
HELM_BUILD = Estimate(packages=895, seconds=150)
ACTIONLINT_BUILD = Estimate(packages=150, seconds=25)
# After the planes, with which it shares most packages.
KUBELET_BUILD = Estimate(packages=500, seconds=120)

PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
MAIN = Path(__file__).parent / "planes" / "main.go"
KUBELET_MAIN = Path(__file__).parent / "kubelet" / "main.go"
LDFLAGS = "-s -w"


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


def provide(kubernetes_version: str, *, report: Report) -> Binaries:
    """Finds or builds all programs. `report` gets lines for a person.

    Raises BuildFailed.
    """
    version = kubernetes_version.removeprefix("v")
    if not re.fullmatch(r"1\.\d+\.\d+", version):
        raise BuildFailed(
            f"--kubernetes-version {kubernetes_version}: expected a release such as {DEFAULT_KUBERNETES}"
        )
    kwok = _tool("kwok", KWOK, "sigs.k8s.io/kwok/cmd/kwok", KWOK_BUILD)
    helm = _tool("helm", HELM, "helm.sh/helm/v4/cmd/helm", HELM_BUILD)
    steps = [kwok, helm]
    planes = _present_planes(version)
    if planes is None:
        planes_step = _planes(version)
        planes = planes_step.target
        steps.insert(0, planes_step)
    build_missing(steps, report=report)
    return Binaries(
        kubernetes_version=version,
        **{program.replace("-", "_"): planes / program for program in PLANE_PROGRAMS},
        kwok=kwok.target / "kwok",
        helm=helm.target / "helm",
    )


def provide_actionlint(*, report: Report) -> Path:
    """Finds or builds the checker of GitHub workflows, which only a test needs.

    Raises BuildFailed.
    """
    step = _tool("actionlint", ACTIONLINT, "github.com/rhysd/actionlint/cmd/actionlint", ACTIONLINT_BUILD)
    build_missing([step], report=report)
    return step.target / "actionlint"


def provide_kubelet(kubernetes_version: str, *, report: Report) -> Path:
    """Finds or builds the kubelet, which only real nodes need.

    Raises BuildFailed.
    """
    version = kubernetes_version.removeprefix("v")
    present = shutil.which("kubelet")
    if present and _version_of(Path(present)) == f"Kubernetes v{version}":
        return Path(present).absolute()
    step = _linked(
        version,
        KUBELET_MAIN,
        what=f"kubelet {version}",
        name="kubelet",
        program="kubelet",
        estimate=KUBELET_BUILD,
    )
    build_missing([step], report=report)
    return step.target / "kubelet"


def _present_planes(version: str) -> Path | None:
    """A folder of KUBEBUILDER_ASSETS or PATH that holds all of a control plane in exactly this version."""
    for folder in (os.environ.get("KUBEBUILDER_ASSETS", ""), *os.environ.get("PATH", "").split(os.pathsep)):
        path = Path(folder)
        if not folder or not all(os.access(path / program, os.X_OK) for program in PLANE_PROGRAMS):
            continue
        if _version_of(path / "kube-apiserver") == f"Kubernetes v{version}":
            return path.absolute()
    return None


def _planes(version: str) -> Step:
    return _linked(
        version,
        MAIN,
        what=f"Kubernetes {version} (etcd, control plane, kubectl)",
        name="kubernetes",
        program="kube-apiserver",
        links=PLANE_PROGRAMS,
        estimate=PLANES_BUILD,
    )


def _linked(
    version: str,
    main: Path,
    *,
    what: str,
    name: str,
    program: str,
    links: Sequence[str] = (),
    estimate: Estimate,
) -> Step:
    """A binary `name` of `main` and Kubernetes' modules, called also by `links`; `program` tells its version."""
    recipe = hashlib.sha256(main.read_bytes() + LDFLAGS.encode()).hexdigest()[:8]

    def build(folder: Path, progress: Progress) -> None:
        module = folder / "module"
        module.mkdir()
        shutil.copy(main, module / "main.go")
        (module / "go.mod").write_text(_go_mod(version))
        flags = ["-mod=mod", "-trimpath", "-v", "-ldflags", " ".join([LDFLAGS, *_version_stamp(version)])]
        run_go(
            ["build", *flags, "-o", f"../{name}", "."],
            folder=module,
            environment=go_environment(),
            log=folder / "build.log",
            estimate=estimate,
            report=progress,
        )
        shutil.rmtree(module)
        for link in links:
            (folder / link).symlink_to(name)
        said = _version_of(folder / program)
        if said != f"Kubernetes v{version}":
            raise BuildFailed(f"the new {program} is not v{version}, it says {said!r}")

    target = cache_folder() / name / f"v{version}-{recipe}"
    return Step(what=what, target=target, seconds=estimate.cold, build=build)


def _tool(name: str, version: str, package: str, estimate: Estimate) -> Step:
    def build(folder: Path, progress: Progress) -> None:
        run_go(
            ["install", "-trimpath", "-v", "-ldflags", LDFLAGS, f"{package}@v{version}"],
            folder=folder,
            environment=go_environment() | {"GOBIN": str(folder)},
            log=folder / "build.log",
            estimate=estimate,
            report=progress,
        )

    target = cache_folder() / name / f"v{version}"
    return Step(what=f"{name} {version}", target=target, seconds=estimate.cold, build=build)


def _version_stamp(version: str) -> list[str]:
    """What releases of Kubernetes set when they are linked; without it a server calls itself v0.0.0."""
    major, minor, _ = version.split(".")
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [f"-X {package}.{key}={value}" for package in packages for key, value in values.items()]


def _version_of(program: Path) -> str:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or answer.stderr.strip()


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
