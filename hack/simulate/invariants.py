"""What must hold in every history: the design's invariants, judged at each write that the servers accept."""

from collections import Counter

from dispatcher.core import names
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import read_job
from dispatcher.core.mirror import credited, read_mirror
from dispatcher.core.placement import SELF_EVIDENT, Placement, PlacementError, ShareState, parse_placement
from dispatcher.core.progress import is_late
from hack.simulate.clock import Clock
from hack.simulate.controller import RUNNING, JobController
from hack.simulate.server import Manifest, ModelServer
from hack.simulate.validation import true_conditions

KEY = ("team", "job")


class Broken(AssertionError):
    """An invariant does not hold."""


class Invariants:
    """The part of a history that judges.

    ``ever`` are all shares that a placement ever held; ``moved``: some share has left its cluster;
    ``sent_late`` are the UIDs of mirrors that late POSTs made. ``late_successes`` are indexes that a lost cluster
    had done and told of when it was back: others may have been about to run them.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.log: list[str] = []
        self.management = ModelServer("management", self.clock)
        self.servers: list[ModelServer] = []
        self.controllers: list[JobController] = []
        self.ever: set[tuple[int, str, str]] = set()
        self.tampered = False
        self.deleted_mirrors = False
        self.elastic_edit = False
        self.moved = False
        self.sent_late: set[str] = set()
        self.late_successes = IndexSet()
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self.uid = ""

    def say(self, text: str) -> None:
        self.log.append(text)

    def _job(self) -> Manifest | None:
        return self.management.jobs.get(KEY)

    def _mirrors(self) -> list[tuple[ModelServer, tuple[str, str], Manifest]]:
        return [
            (server, key, job)
            for server in self.servers
            for key, job in server.jobs.items()
            if (job["metadata"].get("labels") or {}).get(names.JOB_UID_LABEL) == self.uid
        ]

    def _fault(self, text: str) -> None:
        self.faults.append(text)

    def _raise_faults(self) -> None:
        rejected = list(self.management.rejected)
        if rejected:
            raise Broken(f"status write rejected: {rejected[0]}")
        if self.faults:
            raise Broken(self.faults[0])

    def _judge_job(self, old: Manifest | None, new: Manifest | None, how: str) -> None:
        if new is None or new["metadata"]["name"] != KEY[1]:
            return
        if how == "finalized" and old is not None:
            self._judge_finalized(old)
            return
        if how != "status" or old is None:
            return
        self.say(f"  Job status written: {short(new['status'])}")
        self._note_late_successes(old, new)
        if not self.elastic_edit:
            before = IndexSet.parse(old["status"].get("completedIndexes"))
            after = IndexSet.parse(new["status"].get("completedIndexes"))
            if len(before - after):
                self._fault(f"3: completedIndexes fell from {before.format()} to {after.format()}")
            lost = IndexSet.parse(old["status"].get("failedIndexes"))
            if len(lost - IndexSet.parse(new["status"].get("failedIndexes"))):
                self._fault("3: failedIndexes fell")
        ended = (true_conditions(new["status"]) - true_conditions(old["status"])) & {"Complete", "Failed"}
        if ended:
            for controller in self.controllers:
                for server, _key, mirror in self._mirrors():
                    if server.away_since is not None and self._is_lost(new, mirror):
                        continue
                    if self._is_late(new, server, mirror):
                        continue
                    uid = mirror["metadata"]["uid"]
                    if any(pod.phase == RUNNING for pod in controller.pods.get(uid, ())):
                        self._fault(f"4: {ended} while pods of {uid} run")
        self._judge_placement(new)

    def _judge_placement(self, manifest: Manifest) -> None:
        text = (manifest["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION)
        if text is None:
            return
        try:
            placement = parse_placement(text)
        except PlacementError as error:
            return None if self.tampered else self._fault(f"the placement is unreadable: {error}")
        if placement.job_uid != self.uid:
            self._fault("the placement names another Job")
        self.moved |= any(share.state not in SELF_EVIDENT for share in placement.shares)
        self.ever |= {(share.id, share.cluster, share.mirror) for share in placement.shares}
        job = read_job(manifest)
        if job.finished or job.is_true("FailureTarget") or job.is_true("SuccessCriteriaMet") or job.suspend:
            return
        dispatched = job.conditions.get(names.DISPATCHED)
        if dispatched is not None and dispatched.status == "False":
            return
        live = placement.held
        if job.completions is not None and job.indexed:
            held = IndexSet.parse(job.status.get("completedIndexes"))
            held = held | IndexSet.parse(job.status.get("failedIndexes"))
            for share in live:
                for other in live:
                    if share.id < other.id and len(share.indexes & other.indexes):
                        self._fault(f"2: indexes in two live shares: {text}")
                held = held | share.indexes
            missing = IndexSet.interval(0, job.completions - 1) - held
            if len(missing):
                self._fault(f"2: indexes {missing.format()} in no share: {text}")
        elif job.completions is not None and not self.tampered:
            total = sum(share.completions or 0 for share in live)
            total += sum(share.counts.succeeded for share in placement.shares if share not in live)
            total += sum(counts.succeeded for counts in placement.retired.values())
            if total != job.completions:
                self._fault(f"2: completions add up to {total} of {job.completions}: {text}")
        pods = sum(share.parallelism for share in live)
        waits = any(share.remaining != 0 for share in live) and len(live) == len(placement.active)
        if waits and pods != job.parallelism and not (job.completions is None and job.count("succeeded")):
            self._fault(f"2: parallelism adds up to {pods} of {job.parallelism}: {text}")

    def _note_late_successes(self, old: Manifest, new: Manifest) -> None:
        before = {share.id for share in self._placement(old).shares if share.state is ShareState.LOST}
        after = {share.id for share in self._placement(new).shares if share.state is ShareState.LOST}
        self.seen["share lost"] += len(after - before)
        if before - after:
            self.seen["lost share back"] += 1
            completed = IndexSet.parse(new["status"].get("completedIndexes"))
            self.late_successes |= completed - IndexSet.parse(old["status"].get("completedIndexes"))

    @staticmethod
    def _placement(job: Manifest) -> Placement:
        text = (job["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION, "")
        try:
            return parse_placement(text)
        except PlacementError:
            return Placement(job["metadata"]["uid"])

    def _is_lost(self, job: Manifest, mirror: Manifest) -> bool:
        """Whether the Job has given this mirror up, so that its work may run elsewhere."""
        label = mirror["metadata"]["labels"].get(names.SHARE_LABEL, "")
        states = {str(share.id): share.state for share in self._placement(job).shares}
        return states.get(label) is ShareState.LOST

    def _is_late(self, job: Manifest, server: ModelServer, mirror: Manifest) -> bool:
        """Whether a late POST made this mirror for a share that has no use for it; it may run until it is seen."""
        if mirror["metadata"]["uid"] not in self.sent_late:
            return False
        return is_late(self._placement(job), read_mirror(mirror, names.ClusterName(server.name)))

    def _judge_mirror(
        self, server: ModelServer, old: Manifest | None, new: Manifest | None, how: str
    ) -> None:
        manifest = new or old
        assert manifest is not None
        labels = manifest["metadata"].get("labels") or {}
        if names.JOB_UID_LABEL not in labels:
            if how != "create" and how != "controller":
                self._fault(f"a foreign Job on {server.name} was touched: {how}")
            return
        if how == "controller":
            return
        name = manifest["metadata"]["name"]
        self.say(f"  {server.name}/{name} {how}: {short_mirror(manifest)}")
        if how == "create":
            share = (int(labels[names.SHARE_LABEL]), server.name, name)
            if share not in self.ever:
                self._fault(f"1: mirror {share} was made without its share in the placement")

    def _judge_start(self, controller: JobController, mirror: Manifest, index: int | None) -> None:
        labels = mirror["metadata"].get("labels") or {}
        if labels.get(names.JOB_UID_LABEL) != self.uid or index is None:
            return
        job = self._job()
        if job is None:
            return
        if self._is_lost(job, mirror) or (self.moved and self.tampered):
            return
        if self._is_late(job, controller.server, mirror):
            self.seen["late mirror started"] += 1
            return
        where = f"{controller.server.name}/{mirror['metadata']['name']}"
        completed = IndexSet.parse(job["status"].get("completedIndexes")) - self.late_successes
        if index in completed and not self.elastic_edit:
            self._fault(f"5: index {index} is published as completed and runs again in {where}")
        lost = {
            m["metadata"]["uid"]
            for server, _key, m in self._mirrors()
            if self._is_lost(job, m) or self._is_late(job, server, m)
        }
        for other in self.controllers:
            for uid, pods in other.pods.items():
                if (
                    uid not in lost
                    and uid != mirror["metadata"]["uid"]
                    and any(pod.index == index and pod.phase == RUNNING for pod in pods)
                    and not self.elastic_edit
                ):
                    self._fault(f"2: index {index} runs in {where} and in {uid} at once")

    def _judge_finalized(self, last: Manifest) -> None:
        deleted = read_job(last).deleted_at
        assert deleted is not None
        waited = (self.clock.now - deleted).total_seconds()
        # One that a late POST makes after the last look is an orphan; the end of a history shows that it goes.
        left = [entry for entry in self._mirrors() if entry[2]["metadata"]["uid"] not in self.sent_late]
        if left and waited < 300 and not self.tampered:
            there = [f"{server.name}/{key[1]}" for server, key, _ in left]
            self._fault(f"6: the finalizer went while there were {there}")

    def _judge_end(self, manifest: Manifest) -> None:
        job = read_job(manifest)
        for server, key, mirror in self._mirrors():
            if self._is_late(manifest, server, mirror):
                raise Broken(f"the mirror {server.name}/{key[1]} of a late POST stays")
        true = true_conditions(job.status)
        self.seen["ends " + "/".join(sorted(true & {"Complete", "Failed"}))] += 1
        reason = next(job.conditions[kind].reason for kind in ("Complete", "Failed") if kind in true)
        undisturbed = not self.deleted_mirrors and not self.tampered and not self.moved
        succeeded = reason == "CompletionsReached" and job.count("succeeded")
        # One that was made smaller may end although a mirror never began.
        if succeeded and names.DISPATCHED not in true and undisturbed and not self.elastic_edit:
            raise Broken("Complete, and never said to be dispatched")
        if reason == "CompletionsReached" and job.completions is not None:
            if job.count("succeeded") < job.completions and not self.elastic_edit:
                raise Broken("Complete with too few successes")
            over = job.count("succeeded") - job.completions
            if over and not self.deleted_mirrors and not self.tampered and not self.elastic_edit:
                raise Broken(f"{over} more succeeded than asked for")
        if reason == "BackoffLimitExceeded" and not (
            job.count("failed") or self.deleted_mirrors or self.moved
        ):
            raise Broken(f"BackoffLimitExceeded with {job.count('failed')} failures")
        if job.indexed:
            completed = IndexSet.parse(job.status.get("completedIndexes"))
            if len(completed) != job.count("succeeded") and not self.elastic_edit:
                raise Broken("succeeded is not the number of completedIndexes")
        elif undisturbed:
            for field_ in ("succeeded", "failed"):
                total = 0
                for _server, _key, mirror in self._mirrors():
                    total += mirror["status"].get(field_) or 0
                    if field_ == "succeeded":
                        total -= credited(read_mirror(mirror, names.ClusterName("")))
                if total != job.count(field_):
                    raise Broken(f"published {field_} {job.count(field_)}, counted on the mirrors {total}")


def short(status: Manifest) -> str:
    shown = {k: v for k, v in status.items() if k in ("active", "succeeded", "failed", "completedIndexes",
                                                      "failedIndexes") and v}  # fmt: skip
    return f"{shown} {sorted(true_conditions(status))}"


def short_mirror(manifest: Manifest) -> str:
    spec = manifest["spec"]
    shown = {k: spec.get(k) for k in ("parallelism", "completions", "suspend", "backoffLimit")}
    return f"{shown} {short(manifest.get('status') or {})}"
