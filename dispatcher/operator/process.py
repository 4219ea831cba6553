"""The running process: start in the right order, run until told to stop, end clean."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, cast

import kopf
import uvloop

from dispatcher import metrics
from dispatcher.clusters import jobs
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.fencing import permitted
from dispatcher.clusters.kubeconfig import load_in_cluster, load_kubeconfig_file
from dispatcher.clusters.reflector import Reflector
from dispatcher.core.manifest import origin_value
from dispatcher.core.observation import Rules
from dispatcher.operator import endpoints, first_look, management
from dispatcher.operator.availability import Availability
from dispatcher.operator.draining import Drainer
from dispatcher.operator.events import Recorder
from dispatcher.operator.executor import Executor
from dispatcher.operator.faults import CrashPoint
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.health import Health, LoopLag, describe
from dispatcher.operator.job_writes import JobWriter
from dispatcher.operator.lease_book import LeaseBook
from dispatcher.operator.leases import LeaseLost, Leases
from dispatcher.operator.management_check import check_management
from dispatcher.operator.metrics_access import MetricsAccess
from dispatcher.operator.mirror_writes import MirrorWriter
from dispatcher.operator.orphans import OrphanCollector
from dispatcher.operator.priorities import PriorityClasses
from dispatcher.operator.propagation import Propagation
from dispatcher.operator.queue import KeyQueue
from dispatcher.operator.reconciler import Reconciler
from dispatcher.operator.settings import Settings, SettingsError
from dispatcher.operator.state_metrics import StateMetrics
from dispatcher.operator.survey import Survey
from dispatcher.operator.takeover import Takeover
from dispatcher.operator.token_renewal import TokenRenewal
from dispatcher.operator.world import World, utc_now
from dispatcher.operator.write_gate import WriteGate
from dispatcher.view.server import ViewServer

logger = logging.getLogger(__name__)

YOUNG_OBJECTS = 50_000
"""New objects between two looks for garbage in cycles. Each answer in JSON makes some hundreds, none of them in a
cycle: Python's own 700 means a look for every answer, a tenth of the CPU."""
FEW_JOBS = 3
"""With more in the queue or worked on, Events wait."""
STOP_GRACE = 5.0
"""Seconds that writes under way may still take when the process ends."""


class Dispatcher:
    """All parts of one process, wired together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop = asyncio.Event()
        self._synced = False

    def handle_signals(self) -> None:
        """Let SIGTERM and SIGINT end the process clean."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)

    async def run(self) -> None:
        """Run until ``stop`` is set. Raises SettingsError and KubeconfigError before anything is touched."""
        settings = self.settings
        path = settings.kubeconfig
        configuration = await load_kubeconfig_file(path) if path else load_in_cluster()
        availability = Availability()
        api = ApiServer(configuration, observe=availability.observing(metrics.observe_requests("")))
        availability.attach(api)
        try:
            uid, minor = await check_management(api, settings)
            rules = Rules(
                origin=origin_value(uid, settings.managed_by),
                own_namespace=settings.namespace,
                clears_start_time=minor >= 36,
                give_up_after=settings.deletion_give_up_after,
            )
            await self._run(api, configuration, rules, uid, availability)
        finally:
            await availability.stop()
            await api.close()

    async def _run(
        self, api: ApiServer, configuration: Any, rules: Rules, uid: str, availability: Availability
    ) -> None:
        settings = self.settings
        world = World(
            rules,
            wake=lambda key: queue.add(key),
            wake_within=lambda key, seconds: queue.add_after(key, seconds),
        )
        recorder = Recorder(self._sink(api), busy=lambda: queue.load > FEW_JOBS)
        secrets = ObjectCache()
        fleet = Fleet(
            settings=settings,
            world=world,
            management=api,
            management_uid=uid,
            local_api=lambda: ApiServer(configuration, observe=metrics.observe_requests("")),
            secrets=secrets,
        )
        gate = WriteGate(lambda uid: leases is None or leases.owns(uid), CrashPoint.from_environment())
        mirrors = MirrorWriter(world=world, gate=gate, workers=fleet.get, wake=lambda key: queue.add(key))
        fleet.is_writing = mirrors.writing
        job_writer = JobWriter(
            api,
            world=world,
            gate=gate,
            recorder=recorder,
            wake=lambda key: queue.add(key),
            availability=availability,
        )
        executor = Executor(gate=gate, jobs=job_writer, mirrors=mirrors)
        survey = Survey(wanted=lambda: world.policies.ask_for_room, clusters=lambda: fleet.clusters)
        world.fits = survey.fits
        world.propagation = propagation = Propagation(
            api, origin=rules.origin, wake=lambda key: queue.add(key)
        )
        reconciler = Reconciler(world, executor, looks=lambda key: queue.looks(key))
        queue = KeyQueue(reconciler, concurrency=settings.concurrency, goes_first=world.is_new)
        orphans = OrphanCollector(
            fleet=fleet,
            world=world,
            management=api,
            managed_by=settings.managed_by,
            interval=settings.orphan_interval,
            knows_all_jobs=lambda: self._synced,
        )
        renewal = TokenRenewal(fleet=fleet, management=api, namespace=settings.namespace, now=utc_now)
        drainer = Drainer(management=api, clusters=fleet.clusters, world=world, status=fleet.status)
        leases = self._leases(api, world, fleet, gate) if settings.leader_elect else None
        if leases is not None:
            world.owns = leases.owns
        reflector = Reflector(api, resource_path("v1", "secrets", namespace=settings.namespace), secrets)
        job_watch = management.watch_jobs(api, world, managed_by=settings.managed_by)
        health = Health(queue=queue, management=reflector, echo=world.echo)
        lag = LoopLag()
        state = StateMetrics(
            fleet=fleet,
            queue=queue,
            tally=world.tally,
            health=health,
            lag=lag,
            write_pace=world.write_pace,
        )
        runner = None
        if settings.metrics_address:
            try:
                access = MetricsAccess(api).judge if settings.metrics_authentication else None
                runner = await endpoints.serve(
                    settings.metrics_address,
                    access=access,
                    certificate=self._certificate(),
                    healthy=health.fault,
                    refresh=state.refresh,
                    debug=lambda: describe(
                        queue=queue,
                        fleet=fleet,
                        tally=world.tally,
                        health=health,
                        lag=lag,
                        policies=world.policies.versions,
                    ),
                    ready=lambda: self._unready(leases),
                )
            except OSError as error:
                raise SettingsError(
                    f"--metrics-address {settings.metrics_address} cannot be had: {error.strerror or error}"
                ) from None
        view = self._view(fleet, configuration, rules.origin)
        single: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = [
            ("cluster status", fleet.status.run),
            ("orphans", orphans.run),
            *([("token renewal", renewal.run)] if settings.token_renewal else []),
            ("draining", drainer.run),
        ]
        background = [
            asyncio.create_task(reflector.run(), name="secrets"),
            asyncio.create_task(lag.run(), name="event loop lag"),
            asyncio.create_task(survey.run(), name="free nodes"),
        ]
        if settings.priority_order:
            classes = PriorityClasses(api, world)
            background.append(asyncio.create_task(classes.run(), name="priority classes"))
        if view is not None:  # every replica serves it
            background.append(asyncio.create_task(view.run(), name="view API"))
        with permitted(leases.holds_any if leases else None):
            background.append(asyncio.create_task(recorder.run(), name="events"))
        for name, work in single:
            running = leases.while_primary(work) if leases is not None else work()
            background.append(asyncio.create_task(running, name=name))
        electing: asyncio.Task[None] | None = None
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await first_look.read_clusters(api, world, fleet, reflector)
            background.append(asyncio.create_task(job_watch.run(), name="jobs"))
            settle = asyncio.create_task(first_look.settle(job_watch, world, fleet, survey, settings))
            background.append(settle)
            watch = asyncio.create_task(self._watch(world, fleet, job_watch, configuration))
            background.append(watch)
            if leases is not None:
                electing = asyncio.create_task(leases.run(), name="leases")
                background.append(electing)
            else:
                metrics.LEADER.labels("0").set(1)
            logger.info("started", extra={"managed_by": settings.managed_by, "origin": rules.origin})
            done, _ = await asyncio.wait([stopping, watch, *background], return_when=asyncio.FIRST_COMPLETED)
            while not stopping.done() and settle in done and len(done) == 1:
                background.remove(settle)
                done, _ = await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                if isinstance(task.exception(), LeaseLost):
                    await task
                if task.exception() is not None:
                    raise RuntimeError(f"the task {task.get_name()} ended") from task.exception()
        finally:
            if leases is not None:
                leases.hold_back()
            await availability.stop()
            await queue.stop()
            all_ended = await mirrors.stop(grace=STOP_GRACE)
            with contextlib.suppress(TimeoutError), permitted(leases.holds_any if leases else None):
                async with asyncio.timeout(0.5):
                    await recorder.drain()
            if electing is not None and leases is not None:
                await self._release(leases, electing, clean=all_ended)
            for task in (*background, stopping):
                task.cancel()
            await asyncio.wait([*background, stopping], timeout=STOP_GRACE)
            await propagation.stop()
            await fleet.stop()
            if runner is not None:
                await runner.cleanup()
            logger.info("stopped")

    def _leases(self, api: ApiServer, world: World, fleet: Fleet, gate: WriteGate) -> Leases:
        settings = self.settings
        takeover = Takeover(management=api, fleet=fleet, world=world, managed_by=settings.managed_by)
        book = LeaseBook(
            api,
            namespace=settings.namespace,
            origin=world.rules.origin,
            identity=f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
            times=settings.lease_times,
            shards=settings.shards,
            now=utc_now,
        )
        leases = Leases(
            book,
            times=settings.lease_times,
            prepare=takeover.prepare,
            drained=lambda shard: gate.quiet(lambda job_uid: leases.shard_of(job_uid) == shard),
            woken=lambda _shard: world.wake_all(),
        )
        return leases

    async def _release(self, leases: Leases, electing: asyncio.Task[None], *, clean: bool) -> None:
        """Give the Leases back, unless a write was cut off that may still be carried out."""
        electing.cancel()
        await asyncio.wait([electing])
        if not clean:
            leases.abandon()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await leases.release()

    def _unready(self, leases: Leases | None) -> str:
        """Why this replica is not ready; one that waits for its turn is, if it could take over at once."""
        if not self._synced:
            return "not synced with the management cluster"
        return leases.standing_by if leases is not None else ""

    def _view(self, fleet: Fleet, configuration: Any, origin: str) -> ViewServer | None:
        """The aggregated API, with a connection of its own: its requests are readers', never a leader's writes."""
        settings = self.settings
        if not settings.view_address:
            return None
        host, port = endpoints.split_address(settings.view_address)
        return ViewServer(
            management=ApiServer(configuration, observe=metrics.observe_requests("")),
            places=lambda: {str(name): cluster for name, cluster in fleet.clusters.items()},
            origin=origin,
            managed_by=settings.managed_by,
            namespace=settings.namespace,
            service=settings.view_service,
            host=host,
            port=port,
            now=utc_now,
        )

    def _certificate(self) -> endpoints.ServingCertificate | None:
        settings = self.settings
        if not settings.metrics_tls_certificate:
            return None
        try:
            return endpoints.ServingCertificate(settings.metrics_tls_certificate, settings.metrics_tls_key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"--metrics-tls-certificate {settings.metrics_tls_certificate} and --metrics-tls-key "
                f"{settings.metrics_tls_key} cannot be used: {error.strerror or error}"
            ) from None

    def _sink(self, api: ApiServer) -> Any:
        async def sink(namespace: str, body: dict[str, Any]) -> None:
            reply = await jobs.create_event(api, namespace, body)
            (metrics.EVENT_POSTED if reply.ok else metrics.EVENT_FAILED).inc()
            if not reply.ok:
                logger.info("event not posted", extra={"reason": body["reason"], "answer": str(reply)})

        return sink

    async def _watch(self, world: World, fleet: Fleet, job_watch: Reflector, configuration: Any) -> None:
        ready = asyncio.Event()

        async def note_ready() -> None:
            await ready.wait()
            self.handle_signals()  # kopf has put its own in their place, which end slowly
            await job_watch.synced.wait()
            self._synced = True

        noting = asyncio.create_task(note_ready())
        try:
            await kopf.operator(
                registry=management.build_registry(world=world, fleet=fleet, configuration=configuration),
                settings=management.kopf_settings(),
                clusterwide=True,
                standalone=True,
                # By itself kopf asks for the user's name, and in a container the user has none.
                identity=cast(Any, "job-dispatcher"),
                stop_flag=self.stop,
                ready_flag=ready,
            )
        finally:
            noting.cancel()


async def main(settings: Settings) -> None:
    """Run a dispatcher until SIGTERM or SIGINT."""
    process = Dispatcher(settings)
    process.handle_signals()
    await process.run()


def run(settings: Settings) -> None:
    """:func:`main` in an event loop of its own, set up for many small objects and many small requests."""
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(settings))
