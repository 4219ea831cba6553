"""What a decision asks to be done. Each action is idempotent and guards itself against a stale view."""

from dataclasses import dataclass
from typing import Any

from dispatcher.core import names
from dispatcher.core.job import Manifest


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event on the management Job. ``type`` is Normal or Warning."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WriteJob:
    """One PUT of the Job's ``/status`` with its resourceVersion.

    It carries status, annotations and finalizers together: a status update resets only ``spec``.
    ``manifest`` is the whole object to send. ``events`` are posted once the write was accepted.
    """

    manifest: Manifest
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateMirror:
    """POST a mirror. The name may turn out to be taken, by ours (adopted) or by a foreign Job."""

    cluster: names.ClusterName
    name: str
    manifest: Manifest
    makes_namespace: bool = False
    """Where the namespace is missing, it is made."""


@dataclass(frozen=True, slots=True)
class PatchMirror:
    """PATCH a mirror or its status; ``patch`` names the UID (and resourceVersion where one must hold)."""

    cluster: names.ClusterName
    name: str
    uid: str
    content_type: str
    patch: Any
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class DeleteMirror:
    """DELETE a mirror with background propagation and its UID as precondition."""

    cluster: names.ClusterName
    name: str
    uid: str


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """A ConfigMap or Secret of the Job's namespace."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class CopyDependencies:
    """Bring objects of the management cluster to a mirror that is there, owned by it, as they are now.

    ``name`` and ``uid`` are the mirror's. What is in place already is not written; what is somebody else's is not
    touched.
    """

    cluster: names.ClusterName
    name: str
    uid: str
    objects: tuple[ObjectRef, ...]


@dataclass(frozen=True, slots=True)
class PostEvent:
    """Post an Event on the Job without any other write."""

    event: Event


MirrorAction = CreateMirror | PatchMirror | DeleteMirror
Action = WriteJob | MirrorAction | CopyDependencies | PostEvent

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a Job waits for: so many pods more than it holds, on any of these full clusters."""

    pods: int
    clusters: frozenset[names.ClusterName]

    def __or__(self, other: "Claim | None") -> "Claim":
        if other is None:
            return self
        return Claim(self.pods + other.pods, self.clusters | other.clusters)


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions in order, and in how many seconds to look again even if nothing is seen (None: no need).

    ``claim``: the room that the Job waits for, None if it has all that it can use. ``again``: a write of the Job lets
    more be done, so decide anew once it is accepted; False where it only tells what was seen.
    """

    actions: tuple[Action, ...] = ()
    look_again: float | None = None
    claim: Claim | None = None
    again: bool = True
