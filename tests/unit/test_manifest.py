"""A mirror's manifest: what the user wrote, without what belongs to the management cluster."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.job import read_job, timestamp
from dispatcher.core.manifest import make_mirror, recorded_share, suffixed_name
from dispatcher.core.names import ClusterName
from dispatcher.core.placement import Share, read_share

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARE = Share(3, ClusterName("a"), "uid-a", "pi", 2, 4)


def _job(metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    given = {"namespace": "team", "name": "pi", "uid": "u1", "resourceVersion": "7"}
    return {
        "metadata": given | (metadata or {}),
        "spec": {"parallelism": 5, "completions": 9, "template": {"spec": {}}} | spec,
        "status": {"startTime": timestamp(NOW - timedelta(seconds=20))},
    }


def _mirror(manifest: dict[str, Any], share: Share = SHARE, *, seeded: bool = True) -> dict[str, Any]:
    return make_mirror(read_job(manifest), share, origin="o", now=NOW, backoff_limit=1, seeded=seeded)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("managedBy", "jobdispatcher.io/dispatcher"),
        ("ttlSecondsAfterFinished", 5),
        ("selector", {"matchLabels": {"controller-uid": "u1"}}),
        ("successPolicy", {"rules": [{"succeededCount": 1}]}),
    ],
)
def test_fields_that_belong_to_the_management_cluster_are_left_out(field: str, value: Any) -> None:
    assert field not in _mirror(_job(**{field: value}))["spec"]


def test_only_the_users_metadata_and_our_labels_go_along() -> None:
    metadata = {
        "labels": {"team": "x", "controller-uid": "u1", "job-name": "pi"},
        "annotations": {"note": "n", names.PLACEMENT_ANNOTATION: "{}"},
        "finalizers": ["f"],
        "ownerReferences": [{}],
        "generateName": "p",
    }
    made = _mirror(_job(metadata))["metadata"]
    ours = {names.ORIGIN_LABEL, names.JOB_UID_LABEL, names.SHARE_LABEL, names.BUCKET_LABEL}
    assert set(made) == {"name", "namespace", "labels", "annotations"}
    assert set(made["labels"]) == {"team"} | ours
    assert made["annotations"]["note"] == "n"
    assert names.PLACEMENT_ANNOTATION not in made["annotations"]


def test_generated_labels_leave_the_template_too() -> None:
    template = {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "u1", "app": "x"}}, "spec": {}}
    assert _mirror(_job(template=template))["spec"]["template"]["metadata"]["labels"] == {"app": "x"}


def test_a_manual_selector_is_kept_with_its_labels() -> None:
    template = {"metadata": {"labels": {"job-name": "pi"}}, "spec": {}}
    spec = _mirror(_job(template=template, manualSelector=True, selector={"matchLabels": {}}))["spec"]
    assert spec["selector"] == {"matchLabels": {}}
    assert spec["template"]["metadata"]["labels"] == {"job-name": "pi"}


def test_the_share_decides_size_and_deadline_is_what_remains() -> None:
    spec = _mirror(_job(activeDeadlineSeconds=60))["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (2, 4, 1)
    assert spec["activeDeadlineSeconds"] == 40


def test_an_indexed_mirror_has_all_indexes_and_waits_for_its_seed() -> None:
    share = Share(0, ClusterName("a"), "uid-a", "pi", 2, 4, (0, 3))
    made = _mirror(_job(completionMode="Indexed"), share, seeded=False)
    assert made["spec"]["completions"] == 9
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["annotations"][names.SEEDED_ANNOTATION] == "false"


def test_the_mirror_carries_its_shares_record() -> None:
    record = recorded_share(_mirror(_job()))
    assert record is not None
    assert read_share(record) == SHARE


@pytest.mark.parametrize("text", ["", "x", "[]", "3"])
def test_a_broken_record_is_none(text: str) -> None:
    assert recorded_share({"metadata": {"annotations": {names.SHARE_ANNOTATION: text}}}) is None


@pytest.mark.parametrize(("name", "completions"), [("x" * 63, 100), ("x" * 52 + "-.y", 100_000), ("pi", 1)])
def test_a_suffixed_name_leaves_room_for_the_pods_index(name: str, completions: int) -> None:
    job = read_job(_job({"name": name}, completionMode="Indexed", completions=completions))
    made = suffixed_name(job, 1)
    assert len(f"{made}-{completions - 1}") <= 63
    assert made != suffixed_name(job, 2)
