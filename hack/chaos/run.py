"""One run: Jobs are created and edited while faults are injected; then all is left alone, and checked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dispatcher.clusters import jobs
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.clusters.reflector import Reflector, WatchSettings
from dispatcher.clusters.reply import Outcome as Answer
from hack.chaos import checks
from hack.chaos.checks import Violation
from hack.chaos.faults import Fault, Injected, choices, schedule
from hack.chaos.injector import Injector
from hack.chaos.records import LogTail, Run, WorkerLogs, read_runs, refused_status_writes
from hack.chaos.scene import RETRY_SECONDS, Scene
from hack.chaos.workload import JOB_LABEL, Edit, JobPlan, make_plans
from hack.lab import Lab, Plane

JSON = dict[str, Any]
DEFAULT_MANAGED_BY = "jobdispatcher.io/chaos"
ORPHAN_SECONDS = 60.0
"""An orphan is found within a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``seconds``: Jobs are created and faults begin within so long. ``patience``: seconds for the rest."""

    jobs: int
    faults: int
    seconds: float
    seed: int
    patience: float = 180.0
    longest_fault: float = 6.0
    failover_after: int | None = None
    """Seconds, in a DispatchPolicy; None: five minutes, longer than any fault."""
    managed_by: str = DEFAULT_MANAGED_BY


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    settings: Settings
    plans: list[JobPlan]
    injected: list[Injected] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    stall: tuple[float, str, str] = (0.0, "", "")
    """Seconds, Job, and the faults at that time."""
    unreported: float = 0.0
    """Seconds from the last pod's end to the Job's, the longest of all Jobs."""
    unpublished: float = 0.0
    """Seconds from the last mirror's end to the Job's, likewise: what the dispatcher and its connections take."""
    recovery: float = 0.0
    """Seconds from the end of the last fault to that of the last Job."""
    rejected_metric: float = 0.0
    rejected: list[str] = field(default_factory=list)
    dispatcher_ended: int = 0
    tracebacks: int = 0
    seconds: float = 0.0
    clusters: int = 0

    @property
    def indexes(self) -> int:
        """Completions that were asked for, over all Jobs that end Complete, and indexes that had to succeed."""
        return sum(plan.succeeded or 0 for plan in self.plans)

    @property
    def passed(self) -> bool:
        """Whether nothing was found that must not be."""
        return not self.violations and not self.rejected and not self.rejected_metric


class Watcher:
    """The Jobs of a namespace of one plane, as they are, and every moment at which one changed."""

    def __init__(self, plane: Plane, namespace: str) -> None:
        self.cache = ObjectCache(on_change=self._changed)
        self.moments: defaultdict[str, list[datetime]] = defaultdict(list)
        self.last: dict[str, JSON] = {}
        self.ended: dict[str, datetime] = {}
        self.taken_back: list[Violation] = []
        self._kubeconfig = plane.kubeconfig
        self._namespace = namespace
        self._changes = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watching(self) -> Any:
        """Follow the plane."""
        self.api = ApiServer(await load_kubeconfig_file(self._kubeconfig), timeout=15.0)
        settings = WatchSettings(backoff_cap=1.0, idle_timeout=70.0)
        reflector = Reflector(self.api, jobs.jobs_path(self._namespace), self.cache, settings=settings)
        task = asyncio.create_task(reflector.run())
        try:
            await reflector.synced.wait()
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.api.close()

    async def until(self, condition: Callable[[], bool], *, seconds: float) -> bool:
        """Whether the condition came true in time; asked again at each change."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changes.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await self._changes.wait()
        except TimeoutError:
            return False
        return True

    def _changed(self, old: Any, new: Any) -> None:
        name = (new or old)["metadata"]["name"]
        now = datetime.now(UTC)
        text = checks.check_progress(old, new)
        if text:
            self.taken_back.append(Violation("published counts never go back", name, text))
        if new is not None:
            self.last[name] = new
        if name not in self.ended:
            self.moments[name].append(now)
            if new is None or checks.end_of(new) != ("", ""):
                self.ended[name] = now
        self._changes.set()


class ChaosRun:
    """Plays one seed on a lab."""

    def __init__(self, lab: Lab, settings: Settings, *, report: Callable[[str], None]) -> None:
        self._lab = lab
        self._settings = settings
        self._report = report
        self._namespace = f"chaos-{settings.seed}-{time.time_ns() // 1_000_000 % 100_000_000}"
        self._plans = {plan.name: plan for plan in make_plans(settings.jobs, settings.seed)}
        self._begin = 0.0
        self._begin_time = datetime.now(UTC)

    def _clock(self) -> float:
        return time.monotonic() - self._begin

    async def play(self) -> Outcome:
        """Everything, from the first Job to the last look. Leaves the lab as it was."""
        settings = self._settings
        outcome = Outcome(settings, list(self._plans.values()), clusters=len(self._lab.workers))
        scene = Scene(
            self._lab,
            seed=settings.seed,
            managed_by=settings.managed_by,
            namespace=self._namespace,
            failover_after=settings.failover_after,
        )
        logs = [WorkerLogs.of(plane) for plane in self._lab.workers]
        audit = LogTail(self._lab.management.audit_log)
        faults = schedule(
            choices(
                [plane.name for plane in self._lab.workers],
                proxied=[plane.name for plane in self._lab.workers[0::3]],
                gated=[plane.name for plane in self._lab.workers[1::3]],
            ),
            seed=settings.seed,
            count=settings.faults,
            seconds=settings.seconds,
            longest=settings.longest_fault,
        )
        started = time.monotonic()
        async with scene, contextlib.AsyncExitStack() as stack:
            watchers = {
                plane.name: await stack.enter_async_context(Watcher(plane, self._namespace).watching())
                for plane in self._lab.planes
            }
            home = watchers[self._lab.management.name]
            log = LogTail(scene.dispatcher.log)
            self._begin, self._begin_time = time.monotonic(), datetime.now(UTC)
            injector = Injector(scene, clock=self._clock, report=self._report)
            await self._storm(home, injector, faults)
            self._report(
                f"{self._clock():5.1f} s: the last fault is over; waiting for {len(self._open(home))} Jobs"
            )
            calm = time.monotonic()
            await home.until(lambda: not self._open(home), seconds=settings.patience)
            outcome.recovery = time.monotonic() - calm
            outcome.injected = sorted(injector.injected, key=lambda entry: entry.begin)
            outcome.runs = read_runs(logs, namespace=self._namespace)
            await self._judge_mirrors(outcome, watchers)
            self._judge(outcome, home)
            outcome.unpublished = _longest_unpublished(watchers, home)
            await self._remove(outcome, watchers)
            await scene.dispatcher.look()
            outcome.stall = self._stall(outcome, home)
            outcome.rejected_metric = scene.dispatcher.rejected_writes
            outcome.dispatcher_ended = scene.dispatcher.ended_by_itself
            outcome.tracebacks = sum(line.startswith(b"Traceback ") for line in log.lines())
        outcome.rejected = refused_status_writes(audit, namespace=self._namespace)
        outcome.violations += home.taken_back
        outcome.seconds = time.monotonic() - started
        return outcome

    async def _storm(self, home: Watcher, injector: Injector, faults: list[Fault]) -> None:
        plans = list(self._plans.values())
        async with asyncio.TaskGroup() as group:
            group.create_task(injector.run(faults))
            for number, plan in enumerate(plans):
                group.create_task(self._live(home, plan, at=number * self._settings.seconds / len(plans)))

    async def _live(self, home: Watcher, plan: JobPlan, *, at: float) -> None:
        """What a person does with one Job."""
        await asyncio.sleep(max(0.0, at - self._clock()))
        manifest = plan.manifest(namespace=self._namespace, managed_by=self._settings.managed_by)

        async def create() -> Any:
            return await jobs.create_job(home.api, self._namespace, manifest)

        await self._insist(create, accept=frozenset({Answer.ALREADY_EXISTS}))
        created = self._clock()
        for edit in plan.edits:
            await asyncio.sleep(max(0.0, created + edit.after - self._clock()))
            await self._edit(home, plan, edit)

    async def _edit(self, home: Watcher, plan: JobPlan, edit: Edit) -> None:
        async def act() -> Any:
            if edit.patch is None:
                found = await jobs.get_job(home.api, self._namespace, plan.name)
                if not found.ok or found.body is None:
                    return found
                uid = found.body["metadata"]["uid"]
                return await jobs.delete_job(home.api, self._namespace, plan.name, uid)
            return await jobs.patch_job(home.api, self._namespace, plan.name, dict(edit.patch))

        await self._insist(act, accept=frozenset({Answer.NOT_FOUND}))

    async def _insist(self, act: Callable[[], Any], *, accept: frozenset[Answer]) -> None:
        end = time.monotonic() + self._settings.patience
        while True:
            reply = await act()
            if reply.ok or reply.outcome in accept:
                return
            if reply.outcome in (Answer.INVALID, Answer.FORBIDDEN) or time.monotonic() > end:
                raise RuntimeError(f"a step of a Job was refused: {reply}")
            await asyncio.sleep(RETRY_SECONDS)

    def _open(self, home: Watcher) -> list[str]:
        """Jobs that have not come to an end."""

        def is_open(plan: JobPlan) -> bool:
            if plan.end == "Gone":
                return (self._namespace, plan.name) in home.cache
            return plan.name not in home.ended

        return [plan.name for plan in self._plans.values() if is_open(plan)]

    async def _judge_mirrors(self, outcome: Outcome, watchers: dict[str, Watcher]) -> None:
        home = watchers[self._lab.management.name]

        def now() -> list[Violation]:
            living = {job["metadata"]["uid"]: job for job in home.cache}
            mirrors = [
                (name, mirror)
                for name, watcher in watchers.items()
                if watcher is not home
                for mirror in watcher.cache
            ]
            return checks.check_mirrors(living, mirrors)

        await home.until(lambda: not now(), seconds=ORPHAN_SECONDS)
        outcome.violations += now()

    def _judge(self, outcome: Outcome, home: Watcher) -> None:
        away = checks.absences(outcome.injected, start=self._begin_time, after=self._settings.failover_after)
        by_job: defaultdict[str, list[Run]] = defaultdict(list)
        for run in outcome.runs:
            by_job[run.job].append(run)
        for plan in self._plans.values():
            job, runs = home.cache.get(self._namespace, plan.name), by_job[plan.name]
            outcome.violations += checks.check_end(plan, job, lossy=bool(away))
            outcome.violations += checks.check_runs(plan, job, runs, away=away)
            end, reason = checks.end_of(job)
            outcome.ends[f"{end} {reason}".strip() or "open"] += 1
            ends = [run.ended for run in runs if run.ended is not None]
            if plan.name in home.ended and ends:
                waited = (home.ended[plan.name] - max(ends)).total_seconds()
                outcome.unreported = max(outcome.unreported, waited)
        outcome.causes = checks.causes_of_reruns(self._plans, outcome.runs, away=away)

    def _stall(self, outcome: Outcome, home: Watcher) -> tuple[float, str, str]:
        seconds, name, since = checks.longest_stall(home.moments, outcome.runs)
        if since is None:
            return seconds, name, ""
        first = (since - self._begin_time).total_seconds()
        during = [
            f"{entry.fault.kind} ({entry.fault.target})"
            for entry in outcome.injected
            if entry.begin < first + seconds and entry.end > first
        ]
        kind = self._plans[name].kind if name in self._plans else ""
        return seconds, f"{name} ({kind})", ", ".join(during) or "no fault"

    async def _remove(self, outcome: Outcome, watchers: dict[str, Watcher]) -> None:
        """Delete every Job; nothing of them may be left anywhere."""
        home = watchers[self._lab.management.name]
        for job in list(home.cache):
            metadata = job["metadata"]

            async def delete(metadata: JSON = metadata) -> Any:
                return await jobs.delete_job(home.api, self._namespace, metadata["name"], metadata["uid"])

            await self._insist(delete, accept=frozenset({Answer.NOT_FOUND}))
        await home.until(
            lambda: not any(len(watcher.cache) for watcher in watchers.values()),
            seconds=self._settings.patience,
        )
        for name, watcher in watchers.items():
            for left in watcher.cache:
                text = "still there after every Job was deleted"
                outcome.violations.append(
                    Violation("nothing is left", f"{name}/{left['metadata']['name']}", text)
                )


def _longest_unpublished(watchers: Mapping[str, Watcher], home: Watcher) -> float:
    ends: defaultdict[str, list[datetime]] = defaultdict(list)
    for watcher in watchers.values():
        if watcher is not home:
            for name, moment in watcher.ended.items():
                labels = watcher.last[name]["metadata"].get("labels") or {}
                ends[labels.get(JOB_LABEL, "")].append(moment)
    waited = [(home.ended[job] - max(ends[job])).total_seconds() for job in ends if job in home.ended]
    return max(waited, default=0.0)
