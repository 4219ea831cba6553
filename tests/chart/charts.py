"""helm on the charts of this tree, as the tests run it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hack.generate.files import CHARTS

Manifest = dict[str, Any]
NAMESPACE = "job-dispatcher"
RELEASE = "job-dispatcher"
VALUES_FILES = sorted(CHARTS.glob("*/ci/*-values.yaml"))


class HelmRefused(Exception):
    """helm ended with an error; its text is what it said."""


def helm(program: Path, *arguments: str | Path) -> str:
    """Standard output of helm.

    Raises HelmRefused.
    """
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        raise HelmRefused(done.stderr + done.stdout)
    return done.stdout


def render(
    program: Path,
    chart: str = "job-dispatcher",
    *,
    values: Mapping[str, Any] | None = None,
    files: tuple[Path, ...] = (),
    kubernetes: str = "v1.36.3",
    namespace: str = NAMESPACE,
) -> list[Manifest]:
    """The objects of `helm template`. ``values``: dotted paths, as for --set-json."""
    import json

    arguments: list[str | Path] = ["template", RELEASE, CHARTS / chart, "--namespace", namespace]
    arguments += ["--kube-version", kubernetes]
    for path in files:
        arguments += ["--values", path]
    for key, value in (values or {}).items():
        arguments += ["--set-json", f"{key}={json.dumps(value)}"]
    return [it for it in yaml.load_all(helm(program, *arguments), Loader=yaml.CSafeLoader) if it]


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [it for it in objects if it["kind"] == kind]


def only(objects: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one of this kind and name."""
    [found] = [it for it in of_kind(objects, kind) if name is None or it["metadata"]["name"] == name]
    return found


def granted(objects: list[Manifest]) -> Iterator[tuple[str, str, str, str]]:
    """Verb, resource, group and kind of role (ClusterRole, Role) of every right of roles that are bound."""
    bound = {
        (it["roleRef"]["kind"], it["roleRef"]["name"])
        for it in objects
        if it["kind"] in ("ClusterRoleBinding", "RoleBinding")
    }
    for role in objects:
        if (role["kind"], role["metadata"]["name"]) not in bound:
            continue
        for rule in role["rules"]:
            for verb in rule["verbs"]:
                for resource in rule["resources"]:
                    for group in rule["apiGroups"]:
                        yield verb, resource, group, role["kind"]
