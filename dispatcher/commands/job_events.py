"""Events of a Job, and of its mirrors where the dispatcher's view API serves them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from dispatcher.commands.management import ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.table import age

VIEW: Final = "view.jobdispatcher.io/v1alpha1"
CLUSTER_LABEL: Final = "jobdispatcher.io/cluster"
"""On an Event that the view API serves: where it was seen."""

HEADERS: Final = ("AGE", "TYPE", "REASON", "CLUSTER", "OBJECT", "MESSAGE")


def job_events(management: ManagementCluster, job: Manifest) -> list[Manifest]:
    """The Events of a Job on the management cluster. Raises ClusterSaysNo."""
    metadata = job["metadata"]
    selector = f"involvedObject.uid={metadata['uid']}"
    return management.get_all(
        f"/api/v1/namespaces/{metadata['namespace']}/events", {"fieldSelector": selector}
    )


def mirror_events(management: ManagementCluster, job: Manifest) -> list[Manifest]:
    """The Events of a Job's mirrors and their pods; none where the view API is not installed.

    Raises:
        ClusterSaysNo: it is, but refuses or does not answer.
    """
    metadata = job["metadata"]
    path = f"/apis/{VIEW}/namespaces/{metadata['namespace']}/jobs/{metadata['name']}/events"
    try:
        return management.get(path).get("items") or []
    except ClusterSaysNo as error:
        # Without the view API any user without a right to it is told 403 rather than 404.
        if error.status == 404 or (error.status == 403 and management.find(f"/apis/{VIEW}") is None):
            return []
        raise


def event_rows(events: Sequence[Manifest], now: datetime) -> list[list[str]]:
    """A row for each Event, the oldest first, as ``kubectl describe`` has them."""
    rows = []
    for event in sorted(events, key=last_seen):
        involved = event.get("involvedObject") or event.get("regarding") or {}
        times = (event.get("series") or {}).get("count") or event.get("count") or 1
        first = event.get("firstTimestamp") or event.get("eventTime")
        seen = age(last_seen(event), now)
        rows.append(
            [
                f"{seen} (x{times} over {age(first, now)})" if times > 1 and first else seen,
                event.get("type") or "",
                event.get("reason") or "",
                cluster_of(event) or "-",
                f"{str(involved.get('kind') or '').lower()}/{involved.get('name') or ''}",
                " ".join(str(event.get("message") or event.get("note") or "").split()),
            ]
        )
    return rows


def last_seen(event: Manifest) -> str:
    """When an Event happened last, as a timestamp of the API."""
    series = event.get("series") or {}
    found = (
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )
    return str(found or "")


def cluster_of(event: Manifest) -> str:
    """The worker cluster of an Event; empty for the management cluster's own."""
    metadata = event["metadata"]
    for names in (metadata.get("labels"), metadata.get("annotations")):
        if cluster := (names or {}).get(CLUSTER_LABEL):
            return str(cluster)
    return ""
