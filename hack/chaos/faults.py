"""Which faults a run injects, and when: all of it follows from the seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MANAGEMENT = "management"
DISPATCHER = "dispatcher"


class Kind(StrEnum):
    """What is done; each to one target, for some seconds, then undone."""

    APISERVER_KILLED = "API server killed"
    APISERVER_STOPPED = "API server stopped"
    ETCD_KILLED = "etcd killed"
    ETCD_STOPPED = "etcd stopped"
    CONTROLLERS_KILLED = "controller-manager killed"
    CONTROLLERS_STOPPED = "controller-manager stopped"
    DISPATCHER_KILLED = "dispatcher killed"
    DISPATCHER_STOPPED = "dispatcher stopped"
    TOKEN_REVOKED = "token revoked"
    TOKEN_ROTATED = "token rotated"
    CONNECTIONS_CUT = "connections cut"
    CONNECTIONS_DELAYED = "connections delayed"
    CONNECTIONS_TRUNCATED = "answers truncated"
    CONNECTIONS_HUNG = "connections hung"
    ANSWERS_429 = "answers 429"
    ANSWERS_500 = "answers 500"
    ANSWERS_410 = "answers 410"
    ANSWERS_LOST = "answers lost"


OF_A_PLANE = (
    Kind.APISERVER_KILLED,
    Kind.APISERVER_STOPPED,
    Kind.ETCD_KILLED,
    Kind.ETCD_STOPPED,
    Kind.CONTROLLERS_KILLED,
    Kind.CONTROLLERS_STOPPED,
)
OF_THE_MANAGEMENT_PLANE = (
    Kind.APISERVER_KILLED,
    Kind.APISERVER_STOPPED,
    Kind.ETCD_KILLED,
    Kind.ETCD_STOPPED,
)
OF_THE_DISPATCHER = (Kind.DISPATCHER_KILLED, Kind.DISPATCHER_STOPPED)
OF_A_TOKEN = (Kind.TOKEN_REVOKED, Kind.TOKEN_ROTATED)
OF_A_PROXY = (
    Kind.CONNECTIONS_CUT,
    Kind.CONNECTIONS_DELAYED,
    Kind.CONNECTIONS_TRUNCATED,
    Kind.CONNECTIONS_HUNG,
)
OF_A_GATEWAY = (Kind.ANSWERS_429, Kind.ANSWERS_500, Kind.ANSWERS_410, Kind.ANSWERS_LOST)
HARMLESS = frozenset({Kind.CONTROLLERS_KILLED, Kind.CONTROLLERS_STOPPED, Kind.TOKEN_ROTATED})
"""Of those that concern a worker: the dispatcher still reaches it."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """``at`` and ``seconds`` are seconds; ``at`` counts from the creation of the first Job."""

    at: float
    kind: Kind
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} ({self.target}), {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Injected:
    """What was done, from when to when (seconds since the first Job)."""

    fault: Fault
    begin: float
    end: float


def choices(
    workers: Sequence[str], *, proxied: Sequence[str], gated: Sequence[str]
) -> list[tuple[Kind, str]]:
    """Every fault that can be injected. ``proxied``, ``gated``: the workers behind a proxy or a gateway."""
    found = [(kind, MANAGEMENT) for kind in OF_THE_MANAGEMENT_PLANE]
    found += [(kind, DISPATCHER) for kind in OF_THE_DISPATCHER]
    for kinds, targets in (
        (OF_A_PLANE, workers),
        (OF_A_TOKEN, workers),
        (OF_A_PROXY, proxied),
        (OF_A_GATEWAY, gated),
    ):
        found += [(kind, target) for target in targets for kind in kinds]
    return found


def schedule(
    options: Sequence[tuple[Kind, str]],
    *,
    seed: int,
    count: int,
    seconds: float,
    shortest: float = 1.0,
    longest: float = 6.0,
) -> list[Fault]:
    """``count`` faults at random points of ``seconds``, in order. Every kind comes once before one comes again."""
    rng = random.Random(f"faults {seed}")
    chosen: list[tuple[Kind, str]] = []
    while len(chosen) < count:
        kinds = sorted({kind for kind, _ in options})
        rng.shuffle(kinds)
        chosen += [
            (kind, rng.choice([target for other, target in options if other is kind])) for kind in kinds
        ]
    return sorted(
        Fault(rng.uniform(0.5, seconds), kind, target, rng.uniform(shortest, longest))
        for kind, target in chosen[:count]
    )
