"""A scenario: a Job, what its pods do, what a user does meanwhile. Data, read from scenarios/*.yaml."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

JSON = dict[str, Any]

FOLDER = Path(__file__).parent / "scenarios"
SCRIPT = "lab.jobdispatcher.io/script"
TERMINATION = "lab.jobdispatcher.io/termination"
PREFERENCES = "federation.kubernetes.io/job-preferences"
RUN_LABEL = "conformance/run"
SCENARIO_LABEL = "conformance/scenario"

STEPS = {
    "wait": "until the Job looks so: {status field: value or '>=n', condition: Type[=Status], gone, jobs}",
    "patch": "a merge patch of the Job",
    "delete": "of the Job, {propagation}",
    "create": "the Job again, after it is gone",
    "finish": "running pods, as a kubelet would: {index, count, exit, disrupted}",
    "kill": "running pods, as by kubectl delete pod: {index, count}",
    "reaches": "until every Job that runs pods has at least this; null: absent",
    "drift": "a merge patch of one mirror on its worker; nothing without a worker",
    "mark": "a point at which both sides must look the same",
    "together": "several steps at once",
}
FIELDS = {
    "id", "spec", "script", "termination", "template", "pod", "metadata", "cron", "steps", "end", "difference",
    "created", "timeout", "since",
}  # fmt: skip


class InvalidScenario(ValueError):
    """The YAML is not a scenario; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that is right: the compared fields it is about, and why; ``before``: on older releases only."""

    fields: frozenset[str]
    reason: str
    before: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. ``steps`` are pairs of a step's name (STEPS) and its value; ``end`` is a wait."""

    id: str
    row: str
    spec: JSON
    script: list[JSON]
    termination: JSON
    template: JSON
    pod: JSON
    metadata: JSON
    cron: JSON | None
    steps: tuple[tuple[str, Any], ...]
    end: JSON
    difference: Difference | None
    created: bool
    """Whether how many pods were made is compared too, not only how those ended that ended by themselves."""
    timeout: float
    since: str = ""
    """The first Kubernetes release whose rules let the user do this, such as 1.36; empty for any."""

    def manifest(
        self, *, run: str, clusters: Iterable[str] = (), managed_by: str | None, planes: int
    ) -> JSON:
        """The Job (or CronJob). ``planes``: over how many the dispatched side is divided ("each" in a script)."""
        labels = {RUN_LABEL: run, SCENARIO_LABEL: self.id}
        annotations = {SCRIPT: json.dumps([_entry(e, planes, managed_by is None) for e in self.script])}
        if self.termination:
            annotations[TERMINATION] = json.dumps(self.termination)
        template = copy.deepcopy(self.template)
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = metadata.get("labels", {}) | labels
        metadata["annotations"] = metadata.get("annotations", {}) | annotations
        pod: JSON = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.test/none"}]}
        template["spec"] = pod | self.pod
        spec = copy.deepcopy(self.spec) | {"template": template}
        if managed_by is not None:
            spec["managedBy"] = managed_by
        own = copy.deepcopy(self.metadata)
        own["labels"] = own.get("labels", {}) | labels
        weights = {name: {"weight": 1} for name in clusters}
        if managed_by is not None and weights:
            preferences = {PREFERENCES: json.dumps({"clusters": weights})}
            own["annotations"] = preferences | own.get("annotations", {})
        if self.cron is not None:
            job = {"metadata": {k: v for k, v in own.items() if k != "name"}, "spec": spec}
            return {
                "apiVersion": "batch/v1",
                "kind": "CronJob",
                "metadata": {"name": self.id, "labels": labels},
                "spec": copy.deepcopy(self.cron) | {"jobTemplate": job},
            }
        if "generateName" not in own:
            own.setdefault("name", self.id)
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": own, "spec": spec}


def _entry(entry: Mapping[str, Any], planes: int, builtin: bool) -> JSON:
    """``nth: each n`` means the first n pods on each of the planes; together n times the planes."""
    result = dict(entry)
    nth = str(result.get("nth", ""))
    if nth.startswith("each "):
        count = int(nth.removeprefix("each ")) * (planes if builtin else 1)
        result["nth"] = f"0-{count - 1}"
    return result


def load(folder: Path = FOLDER) -> list[Scenario]:
    """All scenarios, in the order of the files' names. A file is a feature: {row, scenarios: [...]}.

    Raises InvalidScenario.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        found += [_read(entry, row=content["row"], where=path.name) for entry in content["scenarios"]]
    names = [scenario.id for scenario in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidScenario(f"two scenarios have one id: {', '.join(sorted(twice))}")
    return found


def _read(entry: JSON, *, row: str, where: str) -> Scenario:
    where = f"{where}: {entry.get('id')}"
    if unknown := set(entry) - FIELDS:
        raise InvalidScenario(f"{where}: unknown {', '.join(sorted(unknown))}")
    if "end" not in entry:
        raise InvalidScenario(f"{where}: says no end")
    end = entry["end"]
    if isinstance(end, str):
        end = {"gone": True} if end == "gone" else {"condition": end}
    difference = entry.get("difference")
    return Scenario(
        id=entry["id"],
        row=row,
        spec=entry.get("spec") or {},
        script=entry.get("script") or [],
        termination=entry.get("termination") or {},
        template=entry.get("template") or {},
        pod=entry.get("pod") or {},
        metadata=entry.get("metadata") or {},
        cron=entry.get("cron"),
        steps=tuple(_steps(entry.get("steps") or (), where)),
        end=end,
        difference=_difference(difference) if difference else None,
        created=bool(entry.get("created")),
        timeout=float(entry.get("timeout", 150)),
        since=str(entry.get("since", "")),
    )


def _difference(entry: JSON) -> Difference:
    return Difference(frozenset(entry["fields"]), entry["reason"], str(entry.get("before", "")))


def for_release(scenarios: Iterable[Scenario], release: str) -> list[Scenario]:
    """The scenarios that a Kubernetes release (``1.35.4``) can play, with the differences that are right there."""
    version = _version(release)
    found = []
    for scenario in scenarios:
        if scenario.since and version < _version(scenario.since):
            continue
        difference = scenario.difference
        if difference is not None and difference.before and version >= _version(difference.before):
            scenario = replace(scenario, difference=None)
        found.append(scenario)
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.removeprefix("v").split("."))


def _steps(entries: Iterable[Any], where: str) -> Iterable[tuple[str, Any]]:
    for entry in entries:
        name, value = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        if name not in STEPS or (isinstance(entry, dict) and len(entry) != 1):
            raise InvalidScenario(f"{where}: no step {entry!r}; there are {', '.join(STEPS)}")
        if name == "together":
            value = tuple(_steps(value, where))
        yield name, value
