"""What holds for the tree as a whole: the lock, the import rules, the example Jobs, the accounts' rights."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.clusters import permissions
from dispatcher.core import names

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "dev.txt"
JOBS = sorted((ROOT / "tests" / "jobs").glob("*.yaml"))
CHARTS = ROOT / "charts"
RIGHTS = {
    "management": CHARTS / "job-dispatcher" / "files" / "rbac" / "management.yaml",
    "worker": CHARTS / "job-dispatcher-worker" / "files" / "rbac.yaml",
}


def normalized(requirement: str) -> str:
    """The distribution's name in a requirement, in the form in which pip compares names."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def locked() -> dict[str, str]:
    """Each locked requirement by name, with its continuation lines (hashes) joined."""
    text = LOCK.read_text().replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return {normalized(line): line for line in lines}


def test_every_locked_package_has_one_version_and_hashes() -> None:
    for line in locked().values():
        assert re.match(r"\S+==\S+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+$", line), line[:80]


def test_the_lock_names_no_host_no_option_and_no_path() -> None:
    assert not re.search(r"://|^\s*-(?!-hash)|/", LOCK.read_text(), flags=re.MULTILINE)


def declared() -> tuple[set[str], set[str]]:
    """Distributions that pyproject.toml names: of the package, and of development and building."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = metadata["project"]
    tools = [*project["optional-dependencies"]["dev"], *metadata["build-system"]["requires"]]
    return {normalized(it) for it in project["dependencies"]}, {normalized(it) for it in tools}


def test_the_lock_covers_what_the_package_declares() -> None:
    runtime, tools = declared()
    assert runtime | tools <= locked().keys()


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports, anywhere in it, other than Python's and this project's."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"dispatcher", "hack", "tests"}


@pytest.mark.parametrize("folder", ["dispatcher", "hack", "tests"])
def test_every_import_is_declared(folder: str) -> None:
    """What only another package brings along may be gone with its next release."""
    runtime, tools = declared()
    allowed = runtime if folder == "dispatcher" else runtime | tools
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / folder).rglob("*.py")
        for module in imported(path)
        if allowed.isdisjoint(normalized(name) for name in providers.get(module, []))
    }
    assert undeclared == set()


@pytest.mark.parametrize("module", ["kopf", "kubernetes", "asyncio", "aiohttp"])
def test_the_core_loads_without(module: str) -> None:
    """The import rule from the other side: a fresh interpreter that imports the whole core has not got it."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "dispatcher" / "core").rglob("*.py"))
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def load(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def job_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """The Job's spec in a Job or in a CronJob."""
    is_cron = manifest["kind"] == "CronJob"
    spec: dict[str, Any] = manifest["spec"]["jobTemplate"]["spec"] if is_cron else manifest["spec"]
    return spec


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_manifest_is_ours_to_dispatch(path: Path) -> None:
    [manifest] = load(path)
    assert manifest["apiVersion"] == "batch/v1"
    assert job_spec(manifest)["managedBy"] == names.DEFAULT_MANAGED_BY


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_manifests_script_is_a_list_of_outcomes(path: Path) -> None:
    [manifest] = load(path)
    annotations = job_spec(manifest)["template"].get("metadata", {}).get("annotations", {})
    script = json.loads(annotations.get("lab.jobdispatcher.io/script", "[]"))
    for outcome in script:
        assert "exit" in outcome
        assert outcome.keys() <= {"index", "try", "nth", "after", "exit"}


def test_the_job_manifests_show_every_way_of_the_documentation() -> None:
    specs = {path.stem: job_spec(load(path)[0]) for path in JOBS}
    fields = {field for spec in specs.values() for field in spec}
    assert {"podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "suspend", "completions"} <= fields
    assert {"activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit"} <= fields
    assert any("completions" not in spec and spec.get("parallelism", 1) > 1 for spec in specs.values())


def rules(cluster: str) -> list[dict[str, Any]]:
    """The rules of all features, each with its ``feature``."""
    rights = yaml.safe_load(RIGHTS[cluster].read_text())
    return [{"feature": feature, **rule} for feature, listed in rights.items() for rule in listed]


@pytest.mark.parametrize("cluster", RIGHTS)
def test_the_account_asks_for_nothing_by_wildcard(cluster: str) -> None:
    assert rules(cluster)
    for rule in rules(cluster):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@pytest.mark.parametrize("cluster", RIGHTS)
def test_every_right_has_a_reason_and_a_place(cluster: str) -> None:
    for rule in rules(cluster):
        assert rule["why"].endswith((".", "?")), rule
        assert rule["where"] in ("cluster", "namespace", "propagated"), rule
        assert rule.keys() <= {
            "feature",
            "where",
            "why",
            "apiGroups",
            "resources",
            "resourceNames",
            "verbs",
        }


def test_secrets_are_read_in_the_controllers_own_namespace_only() -> None:
    for rule in rules("management"):
        if "secrets" in rule["resources"]:
            assert rule["where"] != "cluster"


def test_the_workers_account_has_what_the_controller_will_ask_for() -> None:
    granted = {
        (verb, resource, group)
        for rule in rules("worker")
        if rule["feature"] == "core"
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    }
    wanted = {
        (it.verb, f"{it.resource}/{it.subresource}" if it.subresource else it.resource, it.group)
        for it in permissions.MIRROR_ACCESS
    }
    assert wanted <= granted
