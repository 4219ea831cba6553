"""What the API servers themselves counted (``apiserver_request_total``): a check on the audit logs' figures.

The counters do not tell accounts apart: what the built-in controllers do is taken out by the twin run of the same Jobs
on one plane. That is exact for Jobs with one share; a split Job's further mirrors have a controller of their own each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from hack.bench.audit import Request
from hack.lab import Plane

SAMPLE = "apiserver_request_total"
RESOURCES = frozenset({"jobs", "jobs/status", "events"})
"""Others (Leases, Nodes, Pods) are written by the clock, or by parts that are no concern of this benchmark."""
VERBS = {
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "APPLY": "patch",
    "DELETE": "delete",
    "GET": "get",
}
VERBS["LIST"] = "list"


def served(planes: Iterable[Plane]) -> Counter[Request]:
    """Requests answered since the API servers started."""
    found: Counter[Request] = Counter()
    for plane in planes:
        found += parse(plane.name, plane.api.text("/metrics"))
    return found


def parse(plane: str, text: str) -> Counter[Request]:
    """Of one API server's whole answer; its other metrics, thousands of lines, are not parsed."""
    lines = "\n".join(line for line in text.splitlines() if line.startswith(SAMPLE + "{"))
    found: Counter[Request] = Counter()
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            labels = sample.labels
            resource = "/".join(part for part in (labels["resource"], labels.get("subresource", "")) if part)
            verb = VERBS.get(labels["verb"])
            if verb is not None and resource in RESOURCES:
                found[Request(plane, verb, resource)] += int(sample.value)
    return found
