"""A Job and its mirrors as records, and API servers that carry decisions out on them."""

from datetime import UTC, datetime
from typing import Any

from dispatcher.core import names
from dispatcher.core.actions import CreateMirror, Decision, DeleteMirror, PatchMirror, WriteJob
from dispatcher.core.decision import decide
from dispatcher.core.job import read_job, timestamp
from dispatcher.core.mirror import read_mirror
from dispatcher.core.observation import Cluster, Observation, Rules
from dispatcher.core.placement import Placement, parse_placement

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Manifest = dict[str, Any]


def job_manifest(**spec: Any) -> Manifest:
    given: Manifest = {"parallelism": 2, "completions": 4, "backoffLimit": 6, "template": {"spec": {}}}
    wanted = {key: value for key, value in (given | spec).items() if value is not None}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"namespace": "team", "name": "pi", "uid": "u1", "resourceVersion": "1"},
        "spec": wanted,
        "status": {},
    }


def clusters(*names_: str, ready: bool = True) -> dict[names.ClusterName, Cluster]:
    return {
        names.ClusterName(name): Cluster(names.ClusterName(name), f"uid-{name}", ready) for name in names_
    }


def observe(manifest: Manifest, **fields: Any) -> Observation:
    given: Manifest = {"clusters": clusters("a", "b"), "now": NOW}
    return Observation(job=read_job(manifest), rules=Rules("origin"), **(given | fields))


def written(decision: Decision) -> Manifest:
    """The Job's manifest in the decision's only write."""
    writes = [action for action in decision.actions if isinstance(action, WriteJob)]
    assert len(writes) == 1
    return dict(writes[0].manifest)


def condition(manifest: Manifest, kind: str) -> Manifest:
    return next((c for c in manifest["status"].get("conditions", ()) if c["type"] == kind), {})


def placement_of(manifest: Manifest) -> Placement:
    return parse_placement(manifest["metadata"]["annotations"][names.PLACEMENT_ANNOTATION])


class Scene:
    """A Job and its mirrors, played on by carrying decisions out as API servers would."""

    def __init__(self, **spec: Any) -> None:
        self.job = job_manifest(**spec)
        self.mirrors: dict[tuple[str, str], Manifest] = {}
        self.gone: list[tuple[str, Manifest]] = []
        self.fields: Manifest = {}
        self.actions: list[Any] = []

    def decide(self) -> Decision:
        mirrors = [read_mirror(m, names.ClusterName(c)) for (c, _), m in self.mirrors.items()]
        mirrors += [read_mirror(m, names.ClusterName(c), gone=True) for c, m in self.gone]
        return decide(observe(self.job, mirrors=tuple(mirrors), **self.fields))

    def settle(self) -> "Scene":
        for _ in range(20):
            decision = self.decide()
            if not decision.actions:
                return self
            self.carry_out(decision)
        raise AssertionError(f"never settles: {decision.actions}")

    def carry_out(self, decision: Decision) -> None:
        for action in decision.actions:
            self.actions.append(action)
            self._carry_out(action)

    def _carry_out(self, action: Any) -> None:
        if isinstance(action, WriteJob):
            self.job = dict(action.manifest)
        elif isinstance(action, CreateMirror):
            metadata = {**action.manifest["metadata"], "uid": f"{action.cluster}-{action.name}"}
            status = {"startTime": timestamp(NOW)}
            made = {**action.manifest, "metadata": metadata, "status": status}
            self.mirrors[action.cluster, action.name] = made
        elif isinstance(action, DeleteMirror):
            del self.mirrors[action.cluster, action.name]
            proven = self.fields.get("proven_gone", frozenset())
            self.fields["proven_gone"] = proven | {(action.cluster, action.uid)}
        elif isinstance(action, PatchMirror) and isinstance(action.patch, list):
            self._plant_seed(action)
        elif isinstance(action, PatchMirror) and isinstance(action.patch, dict):
            stored = self.mirrors[action.cluster, action.name]
            metadata = dict(stored["metadata"])
            metadata["annotations"] = metadata["annotations"] | action.patch["metadata"].get(
                "annotations", {}
            )
            self.mirrors[action.cluster, action.name] = {
                **stored,
                "metadata": metadata,
                "spec": stored["spec"] | action.patch.get("spec", {}),
                "status": stored["status"] | action.patch.get("status", {}),
            }

    def _plant_seed(self, action: PatchMirror) -> None:
        values = {entry["path"].rpartition("/")[2]: entry["value"] for entry in action.patch}
        stored = self.mirrors[action.cluster, action.name]
        metadata = dict(stored["metadata"])
        metadata["annotations"] = metadata["annotations"] | {names.SEEDED_ANNOTATION: "true"}
        seed = {field: values[field] for field in ("completedIndexes", "succeeded")}
        status = stored["status"] | seed
        self.mirrors[action.cluster, action.name] = {**stored, "metadata": metadata, "status": status}

    def report(self, cluster: str, **status: Any) -> None:
        (key,) = [key for key in self.mirrors if key[0] == cluster]
        stored = self.mirrors[key]
        self.mirrors[key] = {**stored, "status": stored["status"] | status}

    def complete(self, cluster: str, succeeded: int) -> None:
        conditions = [
            {"type": kind, "status": "True", "reason": "CompletionsReached", "message": "done"}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        done = timestamp(NOW)
        self.report(cluster, succeeded=succeeded, active=0, conditions=conditions, completionTime=done)

    def lose(self, cluster: str) -> None:
        (key,) = [key for key in self.mirrors if key[0] == cluster]
        self.gone.append((cluster, self.mirrors.pop(key)))
