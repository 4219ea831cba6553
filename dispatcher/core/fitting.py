"""How many pods of a template fit on a cluster's nodes now: requests against what is free, and who may go where.

The scheduler's own rules of filtering, as far as they hold without looking at other pods: nodeSelector, required
node affinity, taints and tolerations, requests. What it also looks at (pod affinity, topology spread, ports,
volumes) is left out, so the number is an upper bound.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from dispatcher.core.job import Manifest

Amounts = Mapping[str, Fraction]
"""By resource: cores, bytes, pods, or a number of an extended resource."""

_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?)(?P<suffix>[a-zA-Z]{1,2})?", re.ASCII
)
_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
PODS: Final = "pods"
_REPELLING: Final = ("NoSchedule", "NoExecute")
MOST: Final = 2**31 - 1
"""No Job has more pods at once."""


@lru_cache(maxsize=4096)
def quantity(text: str) -> Fraction:
    """A Kubernetes quantity such as ``500m``, ``2``, ``1.5Gi`` or ``1e3``. Raises ValueError for anything else."""
    found = _QUANTITY.fullmatch(text)
    if found is None or (found["suffix"] or "") not in _SUFFIXES:
        raise ValueError(f"{text!r} is no quantity")
    return Fraction(found["number"]) * _SUFFIXES[found["suffix"] or ""]


def _amounts(resources: Mapping[str, Any] | None) -> dict[str, Fraction]:
    return {name: quantity(str(value)) for name, value in (resources or {}).items()}


def pod_requests(spec: Manifest) -> dict[str, Fraction]:
    """What the scheduler counts for a pod: the larger of what runs together and each init container, and overhead.

    Init containers that go on running (``restartPolicy: Always``) count with what comes after them. Requests of
    the whole pod (``spec.resources``) take the place of its containers' where they are given.
    """
    sidecars: dict[str, Fraction] = {}
    peak: dict[str, Fraction] = {}
    for container in spec.get("initContainers") or ():
        wanted = _requested(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, wanted)
        else:
            for name, amount in wanted.items():
                peak[name] = max(peak.get(name, Fraction(0)), amount + sidecars.get(name, 0))
    total = dict(sidecars)
    for container in spec.get("containers") or ():
        _add(total, _requested(container))
    for name, amount in peak.items():
        total[name] = max(total.get(name, Fraction(0)), amount)
    total |= _requested(spec)
    _add(total, _amounts(spec.get("overhead")))
    total[PODS] = Fraction(1)
    return total


def _requested(container: Manifest) -> dict[str, Fraction]:
    """Requests; a limit stands for a request that is not given, as admission fills it in."""
    resources = container.get("resources") or {}
    return _amounts(resources.get("limits")) | _amounts(resources.get("requests"))


def _add(total: dict[str, Fraction], more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Fraction(0)) + amount


@dataclass(slots=True)
class Node:
    """A node with what is free on it; ``taints`` are those that keep pods away, a cordon included."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    free: dict[str, Fraction]


def read_node(manifest: Manifest) -> Node | None:
    """A node with all that it has to give; None where it is not Ready. Raises ValueError for broken quantities."""
    metadata, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    if not ready:
        return None
    taints = [taint for taint in spec.get("taints") or () if taint.get("effect") in _REPELLING]
    if spec.get("unschedulable"):
        taints.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    return Node(
        metadata["name"], metadata.get("labels") or {}, tuple(taints), _amounts(status.get("allocatable"))
    )


def take(nodes: Mapping[str, Node], pod: Manifest) -> None:
    """Take from a node what a pod that has not ended holds there."""
    spec = pod["spec"]
    node = nodes.get(spec.get("nodeName") or "")
    if node is None or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return
    for name, amount in pod_requests(spec).items():
        if name in node.free:
            node.free[name] -= amount


def how_many_fit(nodes: Iterable[Node], spec: Manifest) -> int:
    """How many pods of this spec fit on the nodes together, no more than a Job can have.

    Raises ValueError for requests that are no quantities.
    """
    wanted = {name: amount for name, amount in pod_requests(spec).items() if amount > 0}
    total = 0
    for node in nodes:
        if may_run_on(node, spec):
            room = min(node.free.get(name, Fraction(0)) // amount for name, amount in wanted.items())
            total += max(0, int(room))
    return min(total, MOST)


def may_run_on(node: Node, spec: Manifest) -> bool:
    """nodeName, nodeSelector, required node affinity, taints."""
    if spec.get("nodeName") not in (None, "", node.name):
        return False
    selector: Mapping[str, str] = spec.get("nodeSelector") or {}
    if any(node.labels.get(key) != value for key, value in selector.items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None and not any(
        _matches_term(node, term) for term in required.get("nodeSelectorTerms") or ()
    ):
        return False
    tolerations = spec.get("tolerations") or ()
    return all(any(_tolerates(entry, taint) for entry in tolerations) for taint in node.taints)


def _matches_term(node: Node, term: Manifest) -> bool:
    """All of a term's requirements; an empty term matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    named = {"metadata.name": node.name}
    return all(_holds(entry, node.labels) for entry in expressions) and all(
        _holds(entry, named) for entry in fields
    )


def _holds(entry: Manifest, labels: Mapping[str, str]) -> bool:
    value = labels.get(entry.get("key", ""))
    values: Sequence[str] = entry.get("values") or ()
    match entry.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                left, right = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return left > right if operator == "Gt" else left < right
        case _:
            return False


def _tolerates(toleration: Manifest, taint: Mapping[str, str]) -> bool:
    """The rule of ``k8s.io/api/core/v1``, Toleration.ToleratesTaint."""
    effect, key = toleration.get("effect"), toleration.get("key")
    if effect and effect != taint.get("effect"):
        return False
    if key and key != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")
