"""One random history: steps that a seed decides, the design's invariants after each of them."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

from dispatcher.core import names
from dispatcher.core.policy import Division, Policy
from dispatcher.core.preferences import ClusterPreferences
from hack.simulate.controller import FAILED, RUNNING, SUCCEEDED, TERMINATING, JobController
from hack.simulate.invariants import KEY, Broken, Invariants, short, short_mirror
from hack.simulate.process import Process
from hack.simulate.server import Manifest, ModelServer, Request
from hack.simulate.specs import random_spec
from hack.simulate.validation import true_conditions

ORIGIN = "origin"
STEPS = 40


@dataclass(slots=True)
class Result:
    """``fault`` is empty when all invariants held; ``log`` is the history as lines."""

    seed: int
    fault: str = ""
    log: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


class History(Invariants):
    """A management cluster, workers, one Job, and a dispatcher that is killed now and then."""

    def __init__(self, seed: int, *, steps: int = STEPS, skip: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.seed = seed
        self.steps = steps
        self.skip = skip
        self.servers += [ModelServer(f"w{n}", self.clock) for n in range(1, self.rng.choice([2, 2, 3]) + 1)]
        self.controllers += [JobController(server, self.clock) for server in self.servers]
        self.zombies: list[Request] = []
        self.late: list[tuple[ModelServer, str, Manifest]] = []
        after = self.rng.choice([None, timedelta(seconds=5), timedelta(seconds=30)])
        self.policy = Policy(
            failover_after=after, steal_unstarted=self.rng.random() < 0.4, steal_after=timedelta()
        )
        self.policies = random.Random(
            f"policies {seed}"
        )  # of their own: a seed's other steps stay what they are
        if self.policies.random() < 0.3:
            moves = self.policies.random() < 0.8
            self.policy = replace(self.policy, name="changing", move_running=moves)
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
        process = Process(self.management, self.servers, self.clock, ORIGIN, policy=self.policy)
        for server in self.servers:
            if server.connected:
                process.connect(server)
        return process

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
                if self.policy.name and self.policies.random() < 0.1:
                    self._change_policy()
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
            "edit_mirror": 0.5, "vanish": 0.3, "taint": 0.7,
        }  # fmt: skip
        if self.policy.failover_after is not None:  # clusters that stay away for longer, and less else
            kinds |= {
                "back": 0.7,
                "time": 8,
                "cut": 1.5,
                "crash": 2,
                "vanish": 0.05,
                "delete": 0.1,
                "quiet": 8,
            }
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
        elif self.zombies and roll > 0.99:
            self._send_late(self.zombies.pop(rng.randrange(len(self.zombies))))
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
        for _ in range(self.rng.choice([0, 0, 10])):
            if any(task.request and task.request.method == "POST" for task in self.process.waiting()):
                break
            self._move()
        self.say("dispatcher is killed and started")
        self.zombies += [request for request in self.process.kill() if self.rng.random() < 0.5]
        self.process = self._new_process()

    def _send_late(self, request: Request) -> None:
        """A request of a process that is no more is carried out only now."""
        assert request.server is not None
        request.server.execute(request)
        assert request.reply is not None
        if request.reply.ok:
            self.seen[f"late {request.method}"] += 1
        if request.reply.ok and request.method == "POST" and request.reply.body is not None:
            self.say(f"late POST on {request.server.name}")
            self.sent_late.add(request.reply.body["metadata"]["uid"])

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

    def _taint(self) -> None:
        server = self.rng.choice(self.servers)
        server.tainted_since = None if server.tainted_since else self.clock.now
        self.say(f"NoExecute taint on {server.name}: {server.tainted_since is not None}")
        self.process.world.wake_all()

    def _change_policy(self) -> None:
        """The policy changes: other weights, fewer clusters, or one cluster not selected any more."""
        self.seen["policy"] += 1
        clusters = [names.ClusterName(server.name) for server in self.servers]
        weights = {name: ClusterPreferences(weight=self.policies.choice([1, 2, 5])) for name in clusters}
        barred = [self.policies.choice(clusters)] if self.policies.random() < 0.4 else []
        expression = {"key": "name", "operator": "NotIn", "values": barred}
        self.policy = replace(
            self.policy,
            division=Division.WEIGHTED,
            clusters=weights,
            weights=frozenset(clusters),
            max_clusters=self.policies.choice([None, None, None, 1, 2]),
            cluster_selector={"matchExpressions": [expression]},
        )
        text = {name: own.weight for name, own in weights.items()}
        self.say(f"policy: weights {text}, not {barred}, at most {self.policy.max_clusters} clusters")
        self.process.world.policy = self.policy
        self.process.world.wake_all()

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
            self._send_late(request)
        for server in self.servers:
            server.namespace_there = True
            server.tainted_since = None
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
            f"the Job does not end: {short(job['status'])} "
            f"{(job['metadata'].get('annotations') or {}).get(names.PLACEMENT_ANNOTATION)} "
            f"{[(s.name, short_mirror(m)) for s, _, m in self._mirrors()]}"
        )

    def _restart_writes_nothing(self) -> None:
        writes = [server.writes for server in (self.management, *self.servers)]
        self.process.kill()
        self.process = self._new_process()
        self._calm()
        if writes != [server.writes for server in (self.management, *self.servers)]:
            raise Broken(f"7: a restart with nothing changed wrote: {self.log[-3:]}")


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
