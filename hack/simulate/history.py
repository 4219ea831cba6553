"""One random history: steps that a seed decides, the design's invariants after each of them."""

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dispatcher.core import names
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import read_job
from dispatcher.core.placement import PlacementError, ShareState, parse_placement
from hack.simulate.clock import Clock
from hack.simulate.controller import FAILED, RUNNING, SUCCEEDED, TERMINATING, JobController
from hack.simulate.process import MANAGED_BY, Process
from hack.simulate.server import Manifest, ModelServer, Request
from hack.simulate.validation import true_conditions

KEY = ("team", "job")
ORIGIN = "origin"
STEPS = 40


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class Result:
    """``fault`` is empty when all invariants held; ``log`` is the history as lines."""

    seed: int
    fault: str = ""
    log: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


def random_spec(rng: random.Random) -> Manifest:
    """A Job of any kind that is dispatched."""
    spec: Manifest = {
        "managedBy": MANAGED_BY,
        "parallelism": rng.choice([0, 1, 1, 2, 3, 4, 6]),
        "template": {"metadata": {}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}},
        "suspend": rng.random() < 0.15,
        "backoffLimit": rng.choice([0, 1, 2, 6, 6, 6]),
    }
    kind = rng.choice(["NonIndexed", "NonIndexed", "Indexed", "Indexed", "elastic", "queue"])
    if kind in ("NonIndexed", "Indexed"):
        spec["completions"] = rng.choice([0, 1, 2, 3, 5, 7, 9])
    if kind == "elastic":
        spec["completions"] = spec["parallelism"]
    if kind in ("Indexed", "elastic"):
        spec["completionMode"] = "Indexed"
        if rng.random() < 0.3:
            spec |= {"backoffLimitPerIndex": rng.choice([0, 1]), "backoffLimit": 2**31 - 1}
            if rng.random() < 0.4:
                spec["maxFailedIndexes"] = rng.choice([0, 1, 2])
        elif rng.random() < 0.3 and spec["completions"]:
            spec["successPolicy"] = {"rules": [{"succeededCount": rng.randint(1, spec["completions"])}]}
    if rng.random() < 0.15:
        spec["activeDeadlineSeconds"] = rng.choice([5, 60])
    return spec


class History:
    """A management cluster, workers, one Job, and a dispatcher that is killed now and then."""

    def __init__(self, seed: int, *, steps: int = STEPS, skip: frozenset[int] = frozenset()) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.steps = steps
        self.skip = skip
        self.clock = Clock()
        self.log: list[str] = []
        self.management = ModelServer("management", self.clock)
        self.servers = [ModelServer(f"w{n}", self.clock) for n in range(1, self.rng.choice([2, 2, 3]) + 1)]
        self.controllers = [JobController(server, self.clock) for server in self.servers]
        self.zombies: list[Request] = []
        self.late: list[tuple[ModelServer, str, Manifest]] = []
        self.ever: set[tuple[int, str, str]] = set()
        self.tampered = False
        self.deleted_mirrors = False
        self.elastic_edit = False
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self.uid = ""
        self.ran: Counter[int] = Counter()
        self.fail_rate = self.rng.choice([0.0, 0.05, 0.2, 0.5])
        self.eager = self.rng.choice([0.3, 0.8])
        self.management.judge = self._judge_job
        for server in self.servers:
            server.judge = partial(self._judge_mirror, server)
        self.process = self._new_process()

    # The machinery.

    def _new_process(self) -> Process:
        self.management.events.clear()
        for server in self.servers:
            server.events.clear()
        self.late.clear()
        process = Process(self.management, self.servers, self.clock, ORIGIN)
        for server in self.servers:
            if server.connected:
                process.connect(server)
        return process

    def say(self, text: str) -> None:
        self.log.append(text)

    def run(self) -> Result:
        """Play all steps, then let faults stop and look at the end."""
        try:
            self._make_job()
            for number in range(self.steps):
                kind = self._pick()
                state = self.rng.getrandbits(64)
                if number in self.skip:
                    continue
                step_rng, self.rng = self.rng, random.Random(state)
                self.seen[kind] += 1
                getattr(self, f"_{kind}")()
                self._between()
                self.rng = step_rng
                self._check()
            self._end()
        except Broken as broken:
            return Result(self.seed, str(broken), self.log, self.seen)
        return Result(self.seed, "", self.log, self.seen)

    def _pick(self) -> str:
        kinds = {
            "pods": 12, "time": 5, "edit": 4, "suspend": 2, "crash": 4, "cut": 2, "back": 3,
            "kill_mirror": 1, "tamper": 1, "delete": 0.3, "foreign": 0.5, "namespace": 0.5, "quiet": 4,
            "edit_mirror": 0.5, "vanish": 0.3,
        }  # fmt: skip
        return self.rng.choices(list(kinds), list(kinds.values()))[0]

    def _between(self) -> None:
        """Some of what could happen happens."""
        for _ in range(self.rng.randint(1, 12)):
            self._move()

    def _move(self) -> None:
        rng, process = self.rng, self.process
        process.work()
        roll = rng.random()
        waiting = process.waiting()
        if waiting and roll < 0.55:
            task = rng.choice(waiting)
            request = task.request
            assert request is not None
            assert request.server is not None
            if request.reply is None:
                request.server.execute(request)
                if rng.random() < 0.03:
                    request.reply = ModelServer._unreachable()
                    self.say(f"lost the answer to {request.method} {request.server.name}")
            else:
                process.resume(task)
        elif roll < 0.75:
            self._deliver()
        elif roll < 0.75 + 0.25 * self.eager:
            self._controllers(1)
        elif self.zombies and roll > 0.97:
            request = self.zombies.pop(rng.randrange(len(self.zombies)))
            assert request.server is not None
            request.server.execute(request)
        self._raise_faults()

    def _controllers(self, most: int) -> bool:
        changed = False
        for controller in self.controllers:
            controller.forget_deleted()
            for key in list(controller.server.jobs)[: most if most > 1 else None]:
                if self.rng.random() < 0.8 or most > 1:
                    changed |= controller.sync(key)
            for started in controller.started:
                self._judge_start(controller, started.mirror, started.index)
            controller.started.clear()
        return changed

    def _deliver(self, *, everything: bool = False) -> bool:
        """Watch events reach the dispatcher: late, repeated, in the wrong order between lists and replies."""
        delivered = False
        for server in (self.management, *self.servers):
            if not server.connected:
                server.events.clear()
                continue
            count = len(server.events) if everything else self.rng.randint(0, len(server.events))
            for kind, manifest in server.events[:count]:
                delivered = True
                self._event(server, kind, manifest)
                if not everything and self.rng.random() < 0.1:
                    self.late.append((server, kind, manifest))
            del server.events[:count]
        if self.late and self.rng.random() < 0.3:
            self._event(*self.late.pop(self.rng.randrange(len(self.late))))
        return delivered

    def _event(self, server: ModelServer, kind: str, manifest: Manifest) -> None:
        if server is self.management:
            cache = self.process.world.jobs
        else:
            cluster = self.process.fleet.clusters[names.ClusterName(server.name)]
            labels = manifest["metadata"].get("labels") or {}
            if labels.get(names.ORIGIN_LABEL) != ORIGIN or not cluster.ready:
                return
            cache = cluster.mirrors
        if kind == "DELETED":
            cache.delete(manifest)
        else:
            cache.put(manifest)

    # Steps.

    def _make_job(self) -> None:
        spec = random_spec(self.rng)
        body = {"apiVersion": "batch/v1", "metadata": {"namespace": KEY[0], "name": KEY[1]}, "spec": spec}
        reply = self.management.create(KEY[0], body)
        assert reply.body is not None
        self.uid = reply.body["metadata"]["uid"]
        shown = {k: v for k, v in spec.items() if k not in ("template", "managedBy")}
        self.say(f"create {shown} on {len(self.servers)} clusters")

    def _job(self) -> Manifest | None:
        return self.management.jobs.get(KEY)

    def _finished(self) -> bool:
        job = self._job()
        return job is not None and bool(true_conditions(job["status"]) & {"Complete", "Failed"})

    def _set(self, **fields: Any) -> None:
        job = self._job()
        if job is not None:
            self.management.store(KEY, {**job, "spec": {**job["spec"], **fields}}, "user")
            self.say(f"user sets {fields}")

    def _pods(self) -> None:
        for controller in self.controllers:
            controller.forget_deleted()
            for pods in controller.pods.values():
                for pod in list(pods):
                    if pod.phase == RUNNING and self.rng.random() < 0.4:
                        pod.phase = FAILED if self.rng.random() < self.fail_rate else SUCCEEDED
                        pod.fails_job = pod.phase == FAILED and self.rng.random() < 0.05
                        self.say(f"{pod.uid} index {pod.index} {pod.phase}")
                    elif pod.phase == TERMINATING and self.rng.random() < 0.5:
                        pods.remove(pod)
        self._controllers(1)

    def _time(self) -> None:
        self.clock.advance(self.rng.choice([0.1, 1, 1, 3, 15, 40]))
        self.process.tick()

    def _quiet(self) -> None:
        for _ in range(25):
            self._move()

    def _edit(self) -> None:
        job = self._job()
        if job is None or self._finished():
            return
        spec = job["spec"]
        wanted = self.rng.choice([0, 1, 2, 3, 5, 8])
        indexed = spec.get("completionMode") == "Indexed"
        if indexed and spec["completions"] == spec["parallelism"] and self.rng.random() < 0.7:
            if "successPolicy" not in spec:
                self.elastic_edit = True
                self._set(parallelism=wanted, completions=wanted)
        elif self.rng.random() < 0.8:
            self._set(parallelism=wanted)
        else:
            self._set(backoffLimit=self.rng.choice([1, 6]))

    def _suspend(self) -> None:
        job = self._job()
        if job is not None and not self._finished():
            self._set(suspend=not job["spec"].get("suspend"))

    def _crash(self) -> None:
        self.say("dispatcher is killed and started")
        # A killed process' POST that lands after its successor looked is not known for what it is before
        # placements carry an epoch; every other late request must be harmless.
        self.zombies += [
            request for request in self.process.kill() if request.method != "POST" and self.rng.random() < 0.5
        ]
        self.process = self._new_process()

    def _cut(self) -> None:
        server = self.rng.choice(self.servers)
        if server.connected:
            self.say(f"{server.name} is cut off")
            server.connected = False
            if self.rng.random() < 0.7:
                self.process.disconnect(server)

    def _back(self) -> None:
        for server in self.servers:
            if not server.connected:
                self.say(f"{server.name} is back")
                server.connected = True
                server.events.clear()
                self.process.disconnect(server)
                self.process.connect(server)

    def _mirrors(self) -> list[tuple[ModelServer, tuple[str, str], Manifest]]:
        return [
            (server, key, job)
            for server in self.servers
            for key, job in server.jobs.items()
            if (job["metadata"].get("labels") or {}).get(names.JOB_UID_LABEL) == self.uid
        ]

    def _kill_mirror(self) -> None:
        mirrors = self._mirrors()
        if mirrors:
            server, key, _job = self.rng.choice(mirrors)
            self.say(f"somebody deletes {server.name}/{key[1]}")
            self.deleted_mirrors = True
            server.delete(key)

    def _edit_mirror(self) -> None:
        mirrors = self._mirrors()
        if mirrors:
            server, key, job = self.rng.choice(mirrors)
            self.say(f"somebody edits {server.name}/{key[1]}")
            server.store(key, {**job, "spec": {**job["spec"], "parallelism": 1}}, "somebody")

    def _tamper(self) -> None:
        job = self._job()
        if job is None or names.PLACEMENT_ANNOTATION not in (job["metadata"].get("annotations") or {}):
            return
        text = self.rng.choice([None, "{}", "no json"])
        annotations = dict(job["metadata"]["annotations"])
        if text is None:
            del annotations[names.PLACEMENT_ANNOTATION]
        else:
            annotations[names.PLACEMENT_ANNOTATION] = text
        self.tampered = True
        self.say(f"user makes the placement annotation {text}")
        metadata = {**job["metadata"], "annotations": annotations}
        self.management.store(KEY, {**job, "metadata": metadata}, "user")

    def _delete(self) -> None:
        if self._job() is not None:
            self.say("user deletes the Job")
            self.management.delete(KEY)

    def _vanish(self) -> None:
        """A person takes the finalizer off and deletes: mirrors become orphans."""
        job = self._job()
        if job is not None:
            self.say("somebody removes the finalizer and deletes the Job")
            self.tampered = True
            metadata = {**job["metadata"], "finalizers": []}
            self.management.store(KEY, {**job, "metadata": metadata}, "user")
            if KEY in self.management.jobs:
                self.management.delete(KEY)

    def _foreign(self) -> None:
        server = self.rng.choice(self.servers)
        if KEY not in server.jobs:
            self.say(f"a foreign Job of the name on {server.name}")
            spec = {"parallelism": 0, "completions": 1, "template": {}}
            server.create(KEY[0], {"metadata": {"namespace": KEY[0], "name": KEY[1]}, "spec": spec})

    def _namespace(self) -> None:
        server = self.rng.choice(self.servers)
        server.namespace_there = not server.namespace_there
        self.say(f"namespace on {server.name}: {server.namespace_there}")

    # Invariants.

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
        self.say(f"  Job status written: {_short(new['status'])}")
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
                for _server, _key, mirror in self._mirrors():
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
        self.ever |= {(share.id, share.cluster, share.mirror) for share in placement.shares}
        job = read_job(manifest)
        if job.finished or job.is_true("FailureTarget") or job.is_true("SuccessCriteriaMet") or job.suspend:
            return
        dispatched = job.conditions.get(names.DISPATCHED)
        if dispatched is not None and dispatched.status == "False":
            return
        live = placement.active
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
            total += sum(s.counts.succeeded for s in placement.shares if s.state is ShareState.FINISHED)
            total += sum(counts.succeeded for counts in placement.retired.values())
            if total != job.completions:
                self._fault(f"2: completions add up to {total} of {job.completions}: {text}")
        pods = sum(share.parallelism for share in live)
        waits = any(share.remaining != 0 for share in live)
        if waits and pods != job.parallelism and not (job.completions is None and job.count("succeeded")):
            self._fault(f"2: parallelism adds up to {pods} of {job.parallelism}: {text}")

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
        self.say(f"  {server.name}/{name} {how}: {_short_mirror(manifest)}")
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
        where = f"{controller.server.name}/{mirror['metadata']['name']}"
        if index in IndexSet.parse(job["status"].get("completedIndexes")) and not self.elastic_edit:
            self._fault(f"5: index {index} is published as completed and runs again in {where}")
        for other in self.controllers:
            for uid, pods in other.pods.items():
                if (
                    uid != mirror["metadata"]["uid"]
                    and any(pod.index == index and pod.phase == RUNNING for pod in pods)
                    and not self.elastic_edit
                ):
                    self._fault(f"2: index {index} runs in {where} and in {uid} at once")

    def _judge_finalized(self, last: Manifest) -> None:
        deleted = read_job(last).deleted_at
        assert deleted is not None
        waited = (self.clock.now - deleted).total_seconds()
        if self._mirrors() and waited < 300 and not self.tampered:
            there = [f"{server.name}/{key[1]}" for server, key, _ in self._mirrors()]
            self._fault(f"6: the finalizer went while there were {there}")

    def _check(self) -> None:
        for server in self.servers:
            stuck = [text for text in server.rejected if "controller:" in text]
            if len(stuck) > 5:  # one refused write may be healed
                raise Broken(f"a mirror can not be written by its own controller: {stuck[0]}")
        self._raise_faults()

    # The end.

    def _calm(self, *, rounds: int = 150) -> bool:
        """Everything that is due happens, in order, until nothing is left to do."""
        process = self.process
        for _ in range(rounds):
            busy = process.work()
            for task in list(process.waiting()):
                request = task.request
                assert request is not None
                assert request.server is not None
                busy = True
                if request.reply is None:
                    request.server.execute(request)
                process.resume(task)
            busy |= self._deliver(everything=True)
            busy |= self._controllers(99)
            for controller in self.controllers:
                for pods in controller.pods.values():
                    for pod in list(pods):
                        if pod.phase == TERMINATING:
                            pods.remove(pod)
                            busy = True
            self._check()
            if not busy:
                due = process.next_due()
                if due is None:
                    return True
                self.clock.advance(max(0.0, due - self.clock.seconds) + 0.001)
                process.tick()
        return False

    def _end(self) -> None:
        self.say("faults stop")
        self._back()
        self.late.clear()
        for request in self.zombies:
            assert request.server is not None
            request.server.execute(request)
        for server in self.servers:
            server.namespace_there = True
        self.process.settle()
        job = self._job()
        if job is not None and "deletionTimestamp" not in job["metadata"] and not self._finished():
            fields: Manifest = {"suspend": False}
            if not job["spec"]["parallelism"] and job["spec"].get("completions") != 0:
                fields["parallelism"] = 2
                if job["spec"].get("completions") == 0:
                    fields.pop("parallelism")
            self._set(**fields)
            self._finish_pods()
        else:
            self._calm()
        job = self._job()
        if job is not None and "deletionTimestamp" not in job["metadata"]:
            self._judge_end(job)
            self._restart_writes_nothing()
            self._delete()
        self._calm()
        for _ in range(3):
            self.clock.advance(21)
            self.process.tick()
            self._calm()
        if self._job() is not None:
            raise Broken("the Job stays although it is deleted")
        if self._mirrors():
            there = [f"{server.name}/{key[1]}" for server, key, _ in self._mirrors()]
            raise Broken(f"mirrors of a deleted Job stay: {there}")

    def _finish_pods(self) -> None:
        for _ in range(60):
            self._calm()
            if self._finished():
                self._calm()
                return
            ran = False
            for controller in self.controllers:
                for pods in controller.pods.values():
                    for pod in pods:
                        if pod.phase == RUNNING:
                            pod.phase = SUCCEEDED
                            ran = True
            if not ran:
                self.clock.advance(31)
                self.process.tick()
        job = self._job()
        assert job is not None
        raise Broken(
            f"the Job does not end: {_short(job['status'])} "
            f"{(job['metadata'].get('annotations') or {}).get(names.PLACEMENT_ANNOTATION)} "
            f"{[(s.name, _short_mirror(m)) for s, _, m in self._mirrors()]}"
        )

    def _judge_end(self, manifest: Manifest) -> None:
        job = read_job(manifest)
        true = true_conditions(job.status)
        self.seen["ends " + "/".join(sorted(true & {"Complete", "Failed"}))] += 1
        reason = next(job.conditions[kind].reason for kind in ("Complete", "Failed") if kind in true)
        if reason == "CompletionsReached" and job.completions is not None:
            if job.count("succeeded") < job.completions and not self.elastic_edit:
                raise Broken("Complete with too few successes")
            over = job.count("succeeded") - job.completions
            if over and not self.deleted_mirrors and not self.tampered and not self.elastic_edit:
                raise Broken(f"{over} more succeeded than asked for")
        if reason == "BackoffLimitExceeded" and not job.count("failed"):
            raise Broken(f"BackoffLimitExceeded with {job.count('failed')} failures")
        if job.indexed:
            completed = IndexSet.parse(job.status.get("completedIndexes"))
            if len(completed) != job.count("succeeded") and not self.elastic_edit:
                raise Broken("succeeded is not the number of completedIndexes")
        elif not self.deleted_mirrors and not self.tampered:
            for field_ in ("succeeded", "failed"):
                total = 0
                for _server, _key, mirror in self._mirrors():
                    total += mirror["status"].get(field_) or 0
                    if (
                        field_ == "succeeded"
                        and names.WOUND_DOWN_ANNOTATION in mirror["metadata"]["annotations"]
                    ):
                        total -= 1
                if total != job.count(field_):
                    raise Broken(f"published {field_} {job.count(field_)}, counted on the mirrors {total}")

    def _restart_writes_nothing(self) -> None:
        writes = [server.writes for server in (self.management, *self.servers)]
        self.process.kill()
        self.process = self._new_process()
        self._calm()
        if writes != [server.writes for server in (self.management, *self.servers)]:
            raise Broken(f"7: a restart with nothing changed wrote: {self.log[-3:]}")


def _short(status: Manifest) -> str:
    shown = {k: v for k, v in status.items() if k in ("active", "succeeded", "failed", "completedIndexes",
                                                      "failedIndexes") and v}  # fmt: skip
    return f"{shown} {sorted(true_conditions(status))}"


def _short_mirror(manifest: Manifest) -> str:
    spec = manifest["spec"]
    shown = {k: spec.get(k) for k in ("parallelism", "completions", "suspend", "backoffLimit")}
    return f"{shown} {_short(manifest.get('status') or {})}"


def play(seed: int, *, steps: int = STEPS, skip: frozenset[int] = frozenset()) -> Result:
    """One history by its seed."""
    history = History(seed, steps=steps, skip=skip)
    return history.run()


def shrink(seed: int, *, steps: int = STEPS) -> Result:
    """The same fault with as many steps left out as can be."""
    result = play(seed, steps=steps)
    kind = result.fault.split(":")[0]
    skip: frozenset[int] = frozenset()
    for number in reversed(range(steps)):
        shorter = play(seed, steps=steps, skip=skip | {number})
        if shorter.fault.split(":")[0] == kind:
            skip, result = skip | {number}, shorter
    return result
