"""A model API server that stores Jobs: versions, preconditions, patches, validation, a watch."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core.job import timestamp
from hack.simulate.clock import Clock
from hack.simulate.validation import status_faults

Manifest = dict[str, Any]
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@dataclass(slots=True)
class Request:
    """One request on its way. ``reply`` is None until the server has carried it out."""

    server: "ModelServer | None"
    method: str = ""
    path: str = ""
    body: Any = None
    content_type: str = ""
    reply: Reply | None = None
    due: float = 0.0
    owner: int = 0

    def __await__(self) -> Generator["Request", None, Reply]:
        yield self
        assert self.reply is not None
        return self.reply


class ModelServer:
    """Jobs of one cluster. Stored objects are never changed in place.

    ``events`` are for the watch; ``judge`` sees (old, new) of each accepted write. ``away_since``: since when the
    dispatcher sees it as not ready. ``tainted_since``: since when its WorkerCluster has a NoExecute taint.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.uid = f"uid-of-{name}"
        self.jobs: dict[tuple[str, str], Manifest] = {}
        self.version = 100
        self.connected = True
        self.namespace_there = True
        self.away_since: datetime | None = None
        self.tainted_since: datetime | None = None
        self.events: list[tuple[str, Manifest]] = []
        self.rejected: list[str] = []
        self.writes = 0
        self.judge: Callable[[Manifest | None, Manifest | None, str], None] = lambda _old, _new, _how: None
        self._clock = clock
        self._made = 0

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Reply:
        """As :meth:`dispatcher.clusters.client.ApiServer.request`."""
        return await Request(self, method, path, body, content_type)

    def execute(self, request: Request) -> None:
        """Carry a request out now."""
        request.reply = self._unreachable() if not self.connected else self._serve(request)

    @staticmethod
    def _unreachable() -> Reply:
        return Reply(Outcome.UNREACHABLE, reason="Timeout", message="no answer")

    def _serve(self, request: Request) -> Reply:
        parts = request.path.strip("/").split("/")
        namespace = parts[parts.index("namespaces") + 1]
        rest = parts[parts.index("jobs") + 1 :]
        if request.method == "POST":
            return self.create(namespace, request.body)
        key = (namespace, rest[0])
        stored = self.jobs.get(key)
        if stored is None:
            return self._status(Outcome.NOT_FOUND, 404, "NotFound")
        if request.method == "GET":
            return Reply(Outcome.OK, 200, stored)
        self.writes += 1
        if request.method == "DELETE":
            if request.body["preconditions"]["uid"] != stored["metadata"]["uid"]:
                return self._status(Outcome.CONFLICT, 409, "Conflict")
            self.delete(key)
            return Reply(Outcome.OK, 200, self.jobs.get(key) or {"kind": "Status"})
        if request.method == "PUT":
            wanted = request.body
            if wanted["metadata"].get("resourceVersion") != stored["metadata"]["resourceVersion"]:
                return self._status(Outcome.CONFLICT, 409, "Conflict")
        else:
            outcome, wanted = self._patched(stored, request.body, request.content_type)
            if outcome is not None:
                return outcome
        return self._update(key, wanted, status=rest[1:] == ["status"])

    def _status(self, outcome: Outcome, code: int, reason: str, message: str = "") -> Reply:
        return Reply(outcome, code, {"kind": "Status", "reason": reason}, reason, message)

    def create(self, namespace: str, body: Manifest) -> Reply:
        """POST."""
        if not self.namespace_there:
            return self._status(Outcome.NOT_FOUND, 404, "NotFound", "namespaces not found")
        key = (namespace, body["metadata"]["name"])
        if key in self.jobs:
            return self._status(Outcome.ALREADY_EXISTS, 409, "AlreadyExists")
        self.writes += 1
        self._made += 1
        metadata = {
            **body["metadata"],
            "uid": f"{self.name}-{self._made}",
            "creationTimestamp": timestamp(self._clock.now),
        }
        spec = {"parallelism": 1, "backoffLimit": 6, "suspend": False, **body["spec"]}
        made = {**body, "kind": "Job", "metadata": metadata, "spec": spec, "status": {}}
        return Reply(Outcome.OK, 201, self.store(key, made, "create"))

    def store(self, key: tuple[str, str], manifest: Manifest, how: str) -> Manifest:
        """Keep a new state under a new version and tell it."""
        old = self.jobs.get(key)
        self.version += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(self.version)}
        new = {**manifest, "metadata": metadata}
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self.jobs[key]
            self.events.append(("DELETED", new))
            self.judge(old, new, "finalized")
            return new
        self.jobs[key] = new
        self.events.append(("ADDED" if old is None else "MODIFIED", new))
        self.judge(old, new, how)
        return new

    def delete(self, key: tuple[str, str]) -> None:
        """DELETE with background propagation: at once, or a deletionTimestamp while finalizers hold it."""
        stored = self.jobs[key]
        metadata = stored["metadata"]
        if metadata.get("finalizers"):
            if "deletionTimestamp" not in metadata:
                stamp = {**metadata, "deletionTimestamp": timestamp(self._clock.now)}
                self.store(key, {**stored, "metadata": stamp}, "delete")
            return
        del self.jobs[key]
        self.version += 1
        last = {**stored, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        self.events.append(("DELETED", last))
        self.judge(stored, None, "delete")

    def _patched(self, stored: Manifest, patch: Any, content_type: str) -> tuple[Reply | None, Manifest]:
        if content_type == JSON_PATCH:
            wanted = stored
            for step in patch:
                path = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
                if step["op"] == "test":
                    if _at(wanted, path) != step["value"]:
                        return self._status(Outcome.INVALID, 422, "Invalid", f"test {path}"), stored
                else:
                    wanted = _placed(wanted, path, step["value"])
            return None, wanted
        metadata = patch.get("metadata", {})
        for field in ("uid", "resourceVersion"):
            if field in metadata and metadata[field] != stored["metadata"][field]:
                return self._status(Outcome.CONFLICT, 409, "Conflict"), stored
        wanted = _merged(stored, patch)
        if content_type != MERGE and "conditions" in patch.get("status", {}):
            conditions = {c["type"]: c for c in stored["status"].get("conditions") or ()}
            for entry in patch["status"]["conditions"]:
                conditions[entry["type"]] = {**conditions.get(entry["type"], {}), **entry}
            wanted = {**wanted, "status": {**wanted["status"], "conditions": list(conditions.values())}}
        return None, wanted

    def _update(self, key: tuple[str, str], wanted: Manifest, *, status: bool) -> Reply:
        stored = self.jobs[key]
        kept = "spec" if status else "status"
        wanted = {**wanted, kept: stored[kept]}
        wanted["metadata"] = {
            **wanted["metadata"],
            "resourceVersion": stored["metadata"]["resourceVersion"],
            "uid": stored["metadata"]["uid"],
        }
        if wanted == stored:
            return Reply(Outcome.OK, 200, stored)
        faults = (
            status_faults(stored["spec"], stored["status"], wanted.get("status") or {})
            if status
            else spec_faults(stored, wanted["spec"])
        )
        if faults:
            self.rejected.append(f"{self.name} {'/status' if status else 'spec'}: {'; '.join(faults)}")
            return self._status(Outcome.INVALID, 422, "Invalid", "; ".join(faults))
        return Reply(Outcome.OK, 200, self.store(key, wanted, "status" if status else "spec"))


def spec_faults(stored: Manifest, new: Manifest) -> list[str]:
    """What the API server refuses of a spec update."""
    old = stored["spec"]
    faults = [
        f"{field} is immutable"
        for field in ("completionMode", "backoffLimitPerIndex", "managedBy", "successPolicy")
        if old.get(field) != new.get(field)
    ]
    if old.get("completions") != new.get("completions") and (
        old.get("completionMode") != "Indexed" or new.get("completions") != new.get("parallelism")
    ):
        faults.append("completions is immutable")
    if old.get("template") != new.get("template") and not old.get("suspend"):
        faults.append("template is immutable")
    return faults


def _at(value: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _placed(value: Manifest, path: list[str], new: Any) -> Manifest:
    if len(path) == 1:
        return {**value, path[0]: new}
    return {**value, path[0]: _placed(value.get(path[0], {}), path[1:], new)}


def _merged(value: Manifest, patch: Manifest) -> Manifest:
    result = dict(value)
    for field, wanted in patch.items():
        if wanted is None:
            result.pop(field, None)
        elif isinstance(wanted, dict):
            there = result.get(field)
            result[field] = _merged(there if isinstance(there, dict) else {}, wanted)
        else:
            result[field] = wanted
    return result
