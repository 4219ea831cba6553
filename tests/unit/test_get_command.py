"""``kubectl dispatch get``: what it makes of Jobs. The way to the cluster is tested under tests/protocol."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.commands.dispatched_job import completions, message, phase, shares
from dispatcher.commands.get import table
from dispatcher.commands.output import document
from dispatcher.commands.table import format_table, short_duration
from dispatcher.core.names import DEFAULT_MANAGED_BY, PLACEMENT_ANNOTATION, ClusterName
from dispatcher.core.placement import Counts, Placement, Share, format_placement

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(
    *conditions: tuple[str, str], placement: Placement | str | None = None, **status: object
) -> dict[str, Any]:
    annotations = {}
    if placement is not None:
        annotations[PLACEMENT_ANNOTATION] = (
            placement if isinstance(placement, str) else format_placement(placement)
        )
    return {
        "metadata": {
            "namespace": "default",
            "name": "pi",
            "uid": "job-uid",
            "creationTimestamp": "2026-01-01T11:55:00Z",
            "annotations": annotations,
            "managedFields": [{}],
        },
        "spec": {"completions": 10, "parallelism": 4, "managedBy": DEFAULT_MANAGED_BY},
        "status": {
            "conditions": [
                {"type": kind, "status": value, "reason": f"{kind}Reason", "message": "two\nlines"}
                for kind, value in conditions
            ],
            **status,
        },
    }


def share(number: int, cluster: str, completions: int | None, succeeded: int = 0) -> Share:
    return Share(number, ClusterName(cluster), "uid", "pi", 2, completions, counts=Counts(succeeded))


TWO = Placement("job-uid", (share(0, "worker-2", 4, 2), share(1, "worker-1", 6, 3)), 2)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "Pending"),
        ([("FullyPlaced", "False")], "Pending"),
        ([("Dispatched", "True")], "Running"),
        ([("Dispatched", "False")], "Waiting"),
        ([("Dispatched", "True"), ("Suspended", "True")], "Suspended"),
        ([("Dispatched", "True"), ("Suspended", "False")], "Running"),
        ([("Dispatched", "True"), ("SuccessCriteriaMet", "True")], "Running"),
        ([("Dispatched", "True"), ("SuccessCriteriaMet", "True"), ("Complete", "True")], "Complete"),
        ([("Dispatched", "True"), ("FailureTarget", "True"), ("Failed", "True")], "Failed"),
        ([("Suspended", "True"), ("Failed", "True")], "Failed"),
    ],
)
def test_phase(conditions: list[tuple[str, str]], expected: str) -> None:
    assert phase(job(*conditions)) == expected


def test_phase_of_a_job_that_was_created_suspended_or_is_being_deleted() -> None:
    suspended = job()
    suspended["spec"]["suspend"] = True
    del suspended["status"]
    assert phase(suspended) == "Suspended"
    suspended["metadata"]["deletionTimestamp"] = "2026-01-01T11:56:00Z"
    assert phase(suspended) == "Terminating"


@pytest.mark.parametrize(
    ("spec", "succeeded", "expected"),
    [
        ({"completions": 10, "parallelism": 2}, 3, "3/10"),
        ({"completions": 0}, None, "0/0"),
        ({"parallelism": 3}, None, "0/1 of 3"),
        ({"parallelism": 1}, 1, "1/1"),
    ],
)
def test_completions(spec: dict[str, int], succeeded: int | None, expected: str) -> None:
    assert completions({"spec": spec, "status": {"succeeded": succeeded}}) == expected


def test_shares_by_cluster() -> None:
    assert shares(job(placement=TWO)) == "worker-1:3/6,worker-2:2/4"


def test_shares_of_one_cluster_are_added_with_what_was_done_there_before() -> None:
    placement = Placement(
        "job-uid",
        (share(0, "worker-1", 4, 2), share(3, "worker-1", 3)),
        4,
        {"worker-1": Counts(1), "worker-9": Counts(2)},
    )
    assert shares(job(placement=placement)) == "worker-1:3/8,worker-9:2/2"


def test_shares_of_a_work_queue() -> None:
    manifest = job(placement=Placement("job-uid", (share(0, "worker-1", None, 1),), 1))
    del manifest["spec"]["completions"]
    assert shares(manifest) == "worker-1:1"


@pytest.mark.parametrize(
    ("placement", "expected"),
    [(None, ""), ("{}", "<unreadable>"), (Placement("another", TWO.shares, 2), "")],
)
def test_shares_without_a_placement_of_its_own(placement: Placement | str | None, expected: str) -> None:
    assert shares(job(placement=placement)) == expected


def test_the_table() -> None:
    running = job(("Dispatched", "True"), placement=TWO, active=3, succeeded=5)
    assert format_table(*table([running, job()], now=NOW)).splitlines() == [
        "NAME   PHASE     COMPLETIONS   ACTIVE   AGE   SHARES",
        "pi     Running   5/10          3        5m    worker-1:3/6,worker-2:2/4",
        "pi     Pending   0/10          0        5m    <none>",
    ]


def test_the_wide_table_with_namespaces_and_no_headers() -> None:
    headers, rows = table([job(("Dispatched", "False"), failed=2)], now=NOW, with_namespace=True, wide=True)
    assert headers[0] == "NAMESPACE"
    assert format_table(headers, rows, with_headers=False) == (
        "default   pi   Waiting   0/10   0   5m   <none>   2   DispatchedReason: two lines"
    )


def test_the_message_of_a_failure_comes_first() -> None:
    assert message(job(("Dispatched", "True"), ("Failed", "True"))).startswith("FailedReason")
    assert message(job(("Dispatched", "True"), ("Failed", "False"))).startswith("DispatchedReason")
    assert message(job()) == ""


def test_objects_are_printed_as_kubectl_does() -> None:
    of_jobs: dict[str, Any] = {"api_version": "batch/v1", "kind": "Job"}
    printed = json.loads(document([job()], single=False, form="json", **of_jobs))
    assert printed["kind"] == "List"
    [item] = printed["items"]
    assert (item["apiVersion"], item["kind"]) == ("batch/v1", "Job")
    assert "managedFields" not in item["metadata"]
    text = document([job()], single=True, form="yaml", **of_jobs)
    assert text.startswith("apiVersion: batch/v1\nkind: Job\n")


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(seconds=-1), "0s"),
        (timedelta(seconds=-10), "<invalid>"),
        (timedelta(seconds=119), "119s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(minutes=9, seconds=59), "9m59s"),
        (timedelta(minutes=10, seconds=59), "10m"),
        (timedelta(hours=2, minutes=59), "179m"),
        (timedelta(hours=3), "3h"),
        (timedelta(hours=7, minutes=59), "7h59m"),
        (timedelta(hours=8, minutes=59), "8h"),
        (timedelta(hours=47), "47h"),
        (timedelta(days=2, hours=1), "2d1h"),
        (timedelta(days=7, hours=23), "7d23h"),
        (timedelta(days=8, hours=23), "8d"),
        (timedelta(days=729), "729d"),
        (timedelta(days=730), "2y"),
        (timedelta(days=2919), "7y364d"),
        (timedelta(days=2920), "8y"),
    ],
)
def test_ages_are_kubectls(duration: timedelta, expected: str) -> None:
    assert short_duration(duration) == expected
