"""One run of a scenario on one side: built-in, or dispatched. Goes through the steps as a user would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hack.conformance import program, snapshot
from hack.conformance.planes import Plane, Refused, is_running, job_path
from hack.conformance.scenario import JSON, Scenario

LOOK_EVERY = 0.1
CONFLICT_TRIES = 5


class Stuck(Exception):
    """A step's condition did not come; the message says which, and how the Job looked."""


@dataclass(slots=True)
class Side:
    """Where one side of a run happens.

    ``workers``: where pods may run; the home plane itself for the built-in controller.
    """

    name: str
    home: Plane
    workers: tuple[Plane, ...]
    namespace: str
    managed_by: str | None
    clusters: tuple[str, ...] = ()

    @property
    def dispatched(self) -> bool:
        return self.managed_by is not None


Mark = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class SideRun:
    """One scenario on one side. ``mark`` is called at each marked point and must return when both sides were there."""

    scenario: Scenario
    side: Side
    run: str
    planes: int
    mark: Mark
    name: str = ""
    at: str = "start"
    _seen: set[str] = field(default_factory=set, repr=False)
    """UIDs of the Jobs that a CronJob made."""

    async def execute(self) -> None:
        """Creates the Job, takes the steps, waits for the end.

        Raises Stuck, Refused.
        """
        await self._create()
        for name, value in self.scenario.steps:
            await self._step(name, value)
        self.at = f"end {self.scenario.end}"
        await self._wait(self.scenario.end)

    def look(self) -> JSON:
        """The comparable state now."""
        if self.scenario.cron is not None:
            jobs = self.side.home.jobs_of(self.side.namespace, self.scenario.id)
            states = [snapshot.status(job) for job in jobs]
            return {"jobs": len(jobs), "states": states}
        return snapshot.status(self.job())

    def look_at_pods(self) -> JSON:
        """How its pods ended so far."""
        found = [
            pod for plane in self.side.workers for pod in plane.pods_of(self.side.namespace, self.scenario.id)
        ]
        return snapshot.pods(found, created=self.scenario.created)

    def job(self) -> JSON | None:
        """The Job as it is now; None when it is gone."""
        return self.side.home.jobs.get(self.side.namespace, self.name)

    async def _create(self) -> None:
        manifest = self.scenario.manifest(
            run=self.run, clusters=self.side.clusters, managed_by=self.side.managed_by, planes=self.planes
        )
        if self.side.workers[0].is_real:
            manifest = program.adapt(manifest, self.scenario, namespace=self.side.namespace)
        kind = "cronjobs" if manifest["kind"] == "CronJob" else "jobs"
        path = f"/apis/batch/v1/namespaces/{self.side.namespace}/{kind}"
        made = await self.side.home.request("POST", path, manifest)
        self.name = made["metadata"]["name"]
        if kind == "jobs":
            self.side.home.jobs.put(made)

    async def _step(self, name: str, value: Any) -> None:
        self.at = f"{name} {value}"
        match name:
            case "wait":
                await self._wait(value)
            case "patch":
                await self._patch(value)
            case "delete":
                await self._delete(value or {})
            case "create":
                await self._create()
            case "finish":
                await self._finish(value or {})
            case "kill":
                await self._kill(value or {})
            case "reaches":
                await self._until(lambda: self._reached(value), f"reaches {value}")
            case "drift":
                if self.side.dispatched:
                    mirror = self._running_jobs()[0]
                    await mirror[0].patch_job(mirror[1], value)
            case "mark":
                await self.mark(value)
            case "together":
                await asyncio.gather(*(self._step(part, argument) for part, argument in value))
                self.at = f"{name} {value}"

    async def _patch(self, patch: JSON) -> None:
        job = self.job()
        if self.scenario.cron is not None:
            path = f"/apis/batch/v1/namespaces/{self.side.namespace}/cronjobs/{self.name}"
            await self.side.home.request("PATCH", path, patch, "application/merge-patch+json")
            return
        if job is None:
            raise Stuck(f"patch {patch}: the Job is gone")
        self.side.home.jobs.put(await self.side.home.patch_job(job, patch))

    async def _delete(self, options: Mapping[str, Any]) -> None:
        kind = "cronjobs" if self.scenario.cron is not None else "jobs"
        path = f"/apis/batch/v1/namespaces/{self.side.namespace}/{kind}/{self.name}"
        body = {"propagationPolicy": options.get("propagation", "Background")}
        await self.side.home.request("DELETE", path, body)

    async def _finish(self, options: Mapping[str, Any]) -> None:
        code, disrupted = int(options.get("exit", 0)), bool(options.get("disrupted"))
        chosen = await self._choose_pods(options)
        await asyncio.gather(*(plane.finish_pod(pod, code, disrupted=disrupted) for plane, pod in chosen))

    async def _kill(self, options: Mapping[str, Any]) -> None:
        await asyncio.gather(*(plane.delete_pod(pod) for plane, pod in await self._choose_pods(options)))

    async def _choose_pods(self, options: Mapping[str, Any]) -> list[tuple[Plane, JSON]]:
        """The running pods that a step is about, once there are enough."""
        count = options.get("count")
        wanted = None if options.get("index") is None else set(_numbers(str(options["index"])))
        found: list[tuple[str, Plane, JSON]] = []

        def enough() -> bool:
            found[:] = self._running_pods(wanted)
            return len(found) >= (count or (len(wanted) if wanted else 1))

        await self._until(enough, f"running pods for {dict(options)}")
        return [(plane, pod) for _, plane, pod in (found if count is None else found[:count])]

    def _running_pods(self, indexes: set[int] | None) -> list[tuple[str, Plane, JSON]]:
        found = []
        for plane in self.side.workers:
            owners = {job["metadata"]["uid"] for job in plane.jobs_of(self.side.namespace, self.scenario.id)}
            for pod in plane.pods_of(self.side.namespace, self.scenario.id):
                if not any(owner["uid"] in owners for owner in pod["metadata"].get("ownerReferences", ())):
                    continue  # of an earlier Job of that name, not collected yet
                index = (pod["metadata"].get("annotations") or {}).get(snapshot.INDEX)
                if is_running(pod) and (indexes is None or (index is not None and int(index) in indexes)):
                    found.append((f"{plane.name} {pod['metadata']['name']}", plane, pod))
        return sorted(found, key=lambda entry: entry[0])

    def _running_jobs(self) -> list[tuple[Plane, JSON]]:
        """The Jobs that run pods: the mirrors, or the Job itself."""
        return [
            (plane, job)
            for plane in self.side.workers
            for job in plane.jobs_of(self.side.namespace, self.scenario.id)
        ]

    def _reached(self, wanted: JSON) -> bool:
        jobs = self._running_jobs()
        return bool(jobs) and all(_holds(wanted, job) for _, job in jobs)

    async def _wait(self, wanted: Mapping[str, Any]) -> None:
        await self._until(lambda: self._looks(wanted), f"{dict(wanted)}")

    def _looks(self, wanted: Mapping[str, Any]) -> bool:
        job = self.job()
        for key, value in wanted.items():
            if key == "gone":
                if (job is None) is not bool(value):
                    return False
            elif key == "jobs":
                if not _is(len(self.side.home.jobs_of(self.side.namespace, self.scenario.id)), value):
                    return False
            elif key == "replaced":
                jobs = self.side.home.jobs_of(self.side.namespace, self.scenario.id)
                self._seen |= {entry["metadata"]["uid"] for entry in jobs}
                if len(self._seen) <= value:
                    return False
            elif key == "completed":
                jobs = self.side.home.jobs_of(self.side.namespace, self.scenario.id)
                if not _is(sum(_condition(entry, "Complete") == "True" for entry in jobs), value):
                    return False
            elif job is None:
                return False
            elif value == "set":
                if not (job.get("status") or {}).get(key):
                    return False
            elif key == "condition":
                kind, _, state = value.partition("=")
                if _condition(job, kind) != (state or "True"):
                    return False
            else:
                default: Any = "" if isinstance(value, str) and not value.startswith(">=") else 0
                if not _is((job.get("status") or {}).get(key, default), value):
                    return False
        return True

    async def _until(self, reached: Callable[[], bool], what: str) -> None:
        end = asyncio.get_running_loop().time() + self.scenario.timeout
        while not reached():
            if asyncio.get_running_loop().time() > end:
                raise Stuck(f"no {what} in {self.scenario.timeout:.0f} s; it is {self.look()}")
            await asyncio.sleep(LOOK_EVERY)

    async def clean(self) -> None:
        """Deletes what is left of it."""
        paths = [job_path(job) for job in self.side.home.jobs_of(self.side.namespace, self.scenario.id)]
        if self.scenario.cron is not None:
            paths.insert(0, f"/apis/batch/v1/namespaces/{self.side.namespace}/cronjobs/{self.name}")
        for path in paths:
            try:
                await self.side.home.request("DELETE", path, {"propagationPolicy": "Background"})
            except Refused:
                continue  # gone meanwhile


def _condition(job: JSON, kind: str) -> str | None:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((entry["status"] for entry in conditions if entry["type"] == kind), None)


def _is(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, str) and wanted.startswith(">="):
        return int(found or 0) >= int(wanted[2:])
    return bool(found == wanted)


def _holds(wanted: Any, found: Any) -> bool:
    """Whether `found` has at least what `wanted` says; None: nothing may be there."""
    if isinstance(wanted, dict):
        return all(_holds(value, (found or {}).get(key)) for key, value in wanted.items())
    return bool(wanted == found)


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
