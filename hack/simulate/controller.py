"""A small model of the built-in Job controller and of the pods of one worker cluster."""

from dataclasses import dataclass, field
from typing import Any

from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import parse_timestamp, timestamp
from hack.simulate.clock import Clock
from hack.simulate.server import ModelServer
from hack.simulate.validation import status_faults, true_conditions

Manifest = dict[str, Any]
RUNNING, SUCCEEDED, FAILED, TERMINATING = "Running", "Succeeded", "Failed", "Terminating"


@dataclass(slots=True)
class Pod:
    """``fails_job``: it failed in a way that a podFailurePolicy answers with FailJob."""

    uid: str
    index: int | None
    phase: str = RUNNING
    fails_job: bool = False


@dataclass(slots=True)
class Started:
    """A pod was started; what the checker looks at."""

    mirror: Manifest
    index: int | None


@dataclass(slots=True)
class JobController:
    """Syncs one Job at a time from the store's present state: one status write a call."""

    server: ModelServer
    clock: Clock
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    per_index: dict[str, dict[int, int]] = field(default_factory=dict)
    started: list[Started] = field(default_factory=list)
    _serial: int = 0

    def alive(self, uid: str) -> list[Pod]:
        """Pods that run or terminate."""
        return [p for p in self.pods.get(uid, ()) if p.phase in (RUNNING, TERMINATING)]

    def forget_deleted(self) -> None:
        """The garbage collector: pods of Jobs that are gone go."""
        there = {job["metadata"]["uid"] for job in self.server.jobs.values()}
        for uid in [uid for uid in self.pods if uid not in there]:
            del self.pods[uid]

    def sync(self, key: tuple[str, str]) -> bool:
        """Bring one Job a step further. Returns whether anything changed."""
        job = self.server.jobs.get(key)
        if job is None:
            return False
        status: Manifest = dict(job["status"])
        true = true_conditions(status)
        if true & {"Complete", "Failed"}:
            return False
        before = len(self.started)
        self._step(job, status, true)
        if status == job["status"]:
            return len(self.started) != before
        faults = status_faults(job["spec"], job["status"], status)
        if faults:
            # As in the real one, the write is refused again and again: the mirror stands still.
            self.server.rejected.append(f"{self.server.name} controller: {'; '.join(faults)}")
            return False
        self.server.store(key, {**job, "status": status}, "controller")
        return True

    def _step(self, job: Manifest, status: Manifest, true: set[str]) -> None:
        spec, uid = job["spec"], job["metadata"]["uid"]
        pods = self.pods.setdefault(uid, [])
        indexed = spec.get("completionMode") == "Indexed"
        uncounted = status.get("uncountedTerminatedPods") or {}
        if uncounted.get("succeeded") or uncounted.get("failed"):
            self._flush(status, uncounted)
            return
        conditions = [dict(c) for c in status.get("conditions") or ()]
        now = timestamp(self.clock.now)

        def turn(kind: str, value: str, reason: str, message: str = "") -> None:
            entry = next((c for c in conditions if c["type"] == kind), None)
            if entry is None:
                entry = {"type": kind}
                conditions.append(entry)
            if entry.get("status") != value:
                entry |= {"status": value, "lastTransitionTime": now, "reason": reason, "message": message}

        if "startTime" not in status and not spec.get("suspend"):
            status["startTime"] = now
        fails_job = any(p.phase == FAILED and p.fails_job for p in pods)
        self._count(spec, status, pods, uid, indexed=indexed)
        waits = (status.get("uncountedTerminatedPods") or {}).get("succeeded") or (
            status.get("uncountedTerminatedPods") or {}
        ).get("failed")
        verdict = true & {"SuccessCriteriaMet", "FailureTarget"}
        if not verdict:
            found = self._verdict(spec, status, fails_job=fails_job, indexed=indexed, pods=pods)
            if found is not None:
                turn(*found)
                verdict = {found[0]}
        if verdict:
            self._stop(pods, status, counts_failed="FailureTarget" in verdict)
            waits = any((status.get("uncountedTerminatedPods") or {}).values())
            if not waits and not self.alive(uid):
                kind = "Complete" if "SuccessCriteriaMet" in verdict else "Failed"
                source = next(c for c in conditions if c["type"] in verdict)
                turn(kind, "True", source.get("reason", ""), source.get("message", ""))
                if kind == "Complete":
                    status["completionTime"] = now
        elif spec.get("suspend"):
            for pod in pods:
                if pod.phase == RUNNING:
                    pod.phase = TERMINATING
            ended = self._verdict(spec, status, fails_job=False, indexed=indexed, pods=pods)
            if ended is not None:
                # A queue with a success has nothing active any more: that is its end, before its suspension.
                turn(*ended)
            elif "Suspended" not in true:
                turn("Suspended", "True", "JobSuspended", "Job suspended")
                status.pop("startTime", None)
        else:
            if "Suspended" in true:
                turn("Suspended", "False", "JobResumed", "Job resumed")
                status["startTime"] = now
            self._manage(job, status, pods, indexed=indexed)
        active = sum(p.phase == RUNNING for p in pods)
        for name, value in (("active", active), ("ready", active)):
            status[name] = value
        status["terminating"] = sum(p.phase == TERMINATING for p in pods)
        if conditions:
            status["conditions"] = conditions

    def _flush(self, status: Manifest, uncounted: Manifest) -> None:
        for kind in ("succeeded", "failed"):
            status[kind] = int(status.get(kind) or 0) + len(uncounted.get(kind) or ())
        status["uncountedTerminatedPods"] = {}

    def _count(self, spec: Manifest, status: Manifest, pods: list[Pod], uid: str, *, indexed: bool) -> None:
        """Finished pods enter uncountedTerminatedPods, or completedIndexes at once."""
        succeeded: list[str] = []
        failed: list[str] = []
        done = IndexSet.parse(status.get("completedIndexes"))
        new: list[int] = []
        for pod in list(pods):
            if pod.phase == SUCCEEDED:
                if pod.index is not None:
                    if pod.index < spec["completions"]:
                        new.append(pod.index)
                else:
                    succeeded.append(pod.uid)
                pods.remove(pod)
            elif pod.phase == FAILED:
                failed.append(pod.uid)
                pods.remove(pod)
                if pod.index is not None:
                    tries = self.per_index.setdefault(uid, {})
                    tries[pod.index] = tries.get(pod.index, 0) + 1
        if indexed:
            done = (done | IndexSet.of(new)) & IndexSet.interval(0, spec["completions"] - 1)
            status["completedIndexes"] = done.format()
            status["succeeded"] = len(done)
            limit = spec.get("backoffLimitPerIndex")
            if limit is not None:
                tries = self.per_index.get(uid, {})
                failing = (i for i, n in tries.items() if n > limit and i < spec["completions"])
                status["failedIndexes"] = IndexSet.of(failing).format()
        if succeeded or failed:
            status["uncountedTerminatedPods"] = {"succeeded": succeeded, "failed": failed}

    def _verdict(
        self, spec: Manifest, status: Manifest, *, fails_job: bool, indexed: bool, pods: list[Pod]
    ) -> tuple[str, str, str, str] | None:
        uncounted = status.get("uncountedTerminatedPods") or {}
        failed = int(status.get("failed") or 0) + len(uncounted.get("failed") or ())
        succeeded = int(status.get("succeeded") or 0) + len(uncounted.get("succeeded") or ())
        if fails_job:
            return ("FailureTarget", "True", "PodFailurePolicy", "Container main failed with exit code 42")
        if failed > spec["backoffLimit"]:
            text = "Job has reached the specified backoff limit"
            return ("FailureTarget", "True", "BackoffLimitExceeded", text)
        start = parse_timestamp(status.get("startTime"))
        limit = spec.get("activeDeadlineSeconds")
        if limit and start and not spec.get("suspend") and (self.clock.now - start).total_seconds() >= limit:
            text = "Job was active longer than specified deadline"
            return ("FailureTarget", "True", "DeadlineExceeded", text)
        if indexed and spec.get("backoffLimitPerIndex") is not None:
            lost = IndexSet.parse(status.get("failedIndexes"))
            most = spec.get("maxFailedIndexes")
            if most is not None and len(lost) > most:
                text = "Job has exceeded the specified maximal number of failed indexes"
                return ("FailureTarget", "True", "MaxFailedIndexesExceeded", text)
            if len(lost) and len(lost) + succeeded >= spec["completions"]:
                return ("FailureTarget", "True", "FailedIndexes", "Job has failed indexes")
        completions = spec.get("completions")
        running = any(p.phase == RUNNING for p in pods)
        reached = succeeded > 0 and not running if completions is None else succeeded >= completions
        if reached:
            text = "Reached expected number of succeeded pods"
            return ("SuccessCriteriaMet", "True", "CompletionsReached", text)
        return None

    def _stop(self, pods: list[Pod], status: Manifest, *, counts_failed: bool) -> None:
        stopped = [pod for pod in pods if pod.phase == RUNNING]
        for pod in stopped:
            pods.remove(pod)
        if stopped and counts_failed:
            there = status.get("uncountedTerminatedPods") or {}
            failed = [*(there.get("failed") or ()), *(pod.uid for pod in stopped)]
            status["uncountedTerminatedPods"] = {"succeeded": there.get("succeeded") or [], "failed": failed}

    def _manage(self, job: Manifest, status: Manifest, pods: list[Pod], *, indexed: bool) -> None:
        spec = job["spec"]
        uncounted = status.get("uncountedTerminatedPods") or {}
        succeeded = int(status.get("succeeded") or 0) + len(uncounted.get("succeeded") or ())
        active = [pod for pod in pods if pod.phase == RUNNING]
        completions = spec.get("completions")
        if completions is None:
            wanted = min(len(active), spec["parallelism"]) if succeeded else spec["parallelism"]
        else:
            undecided = completions - succeeded
            if indexed:
                undecided -= len(IndexSet.parse(status.get("failedIndexes")))
            wanted = max(0, min(spec["parallelism"], undecided))
        if indexed:
            done = IndexSet.parse(status.get("completedIndexes"))
            for pod in list(active):
                if pod.index is not None and (pod.index >= completions or pod.index in done):
                    pod.phase = TERMINATING
                    active.remove(pod)
        while len(active) > wanted:
            active.pop().phase = TERMINATING
        if len(active) == wanted:
            return
        free: list[int | None] = [None] * (wanted - len(active))
        if indexed:
            taken = {pod.index for pod in active}
            over = done | IndexSet.parse(status.get("failedIndexes"))
            everything = IndexSet.interval(0, completions - 1) - over
            free = [*[i for i in everything.indexes() if i not in taken][: wanted - len(active)]]
        for index in free:
            self._serial += 1
            pods.append(Pod(f"{self.server.name}-pod-{self._serial}", index))
            self.started.append(Started(job, index))
