"""A placement that is gone is rebuilt from the mirrors, and never guessed while a cluster is away."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.job import read_job, timestamp
from dispatcher.core.manifest import make_mirror
from dispatcher.core.mirror import Mirror, read_mirror
from dispatcher.core.observation import Cluster, Observation, Rules
from dispatcher.core.placement import Counts, Placement, Share, ShareState, format_placement
from dispatcher.core.recovery import UNKNOWN_CLUSTER, recover

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A = names.ClusterName("a")
SHARE = Share(4, A, "uid-a", "pi", 2, 4, mirror_uid="m1")


def _job(text: str | None = None, **status: Any) -> dict[str, Any]:
    annotations = {} if text is None else {names.PLACEMENT_ANNOTATION: text}
    return {
        "metadata": {"namespace": "team", "name": "pi", "uid": "u1", "annotations": annotations},
        "spec": {"parallelism": 2, "completions": 6, "template": {"spec": {}}},
        "status": status,
    }


def _mirror(**status: Any) -> Mirror:
    made = make_mirror(read_job(_job()), SHARE, origin="o", now=NOW, backoff_limit=6, seeded=True)
    metadata = made["metadata"] | {"uid": "m1"}
    return read_mirror(made | {"metadata": metadata, "status": status}, A)


def _observe(job: dict[str, Any], *mirrors: Mirror, ready: bool = True) -> Observation:
    known = {A: Cluster(A, "uid-a", ready)}
    return Observation(job=read_job(job), now=NOW, rules=Rules("o"), mirrors=mirrors, clusters=known)


def test_a_readable_placement_of_this_job_is_taken_as_it_is() -> None:
    placement = Placement("u1", (SHARE,), 5)
    recovered = recover(_observe(_job(format_placement(placement)), ready=False))
    assert (recovered.placement, recovered.events) == (placement, ())


def test_a_new_job_has_none() -> None:
    recovered = recover(_observe(_job(), ready=False))
    assert recovered.placement is None
    assert recovered.waits_for == ()


@pytest.mark.parametrize(
    "text",
    [None, "{", "{}", format_placement(Placement("another", (SHARE,), 5))],
    ids=["removed", "garbled", "empty", "copied"],
)
def test_it_is_rebuilt_with_uid_state_and_counts(text: str | None) -> None:
    complete = [{"type": "Complete", "status": "True"}]
    mirror = _mirror(succeeded=4, conditions=complete)
    recovered = recover(_observe(_job(text, startTime=timestamp(NOW), succeeded=5, failed=1), mirror))
    assert recovered.placement is not None
    (share,) = recovered.placement.shares
    assert (share.id, share.mirror_uid, share.state) == (4, "m1", ShareState.FINISHED)
    assert recovered.placement.next_id == 5
    assert recovered.placement.retired == {UNKNOWN_CLUSTER: Counts(1, 1)}
    assert [event.reason for event in recovered.events] == ["PlacementRebuilt"]


def test_it_waits_while_a_cluster_cannot_be_seen() -> None:
    recovered = recover(_observe(_job(startTime=timestamp(NOW)), ready=False))
    assert recovered.placement is None
    assert recovered.waits_for == ("a",)


def test_a_mirror_with_a_broken_record_is_no_share() -> None:
    mirror = _mirror()
    mirror.manifest["metadata"]["annotations"][names.SHARE_ANNOTATION] = "x"
    recovered = recover(_observe(_job(), mirror))
    assert recovered.placement is not None
    assert recovered.placement.shares == ()
