"""Which mirrors came from a POST that was sent much too late, and what becomes of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.actions import DeleteMirror
from dispatcher.core.mirror import Mirror, read_mirror
from dispatcher.core.names import ClusterName
from dispatcher.core.placement import Placement, Share, with_epochs
from dispatcher.core.progress import is_late, share_mirrors
from tests.unit.scene import Scene, placement_of

A, B = ClusterName("a"), ClusterName("b")
SHARE = Share(0, A, "uid-a", "pi", 2, 4, epoch=50)
PLACEMENT = Placement("u1", (SHARE,), next_id=3)


def mirror(*, share: Any = 0, epoch: Any = 50, uid: str = "m1", cluster: ClusterName = A) -> Mirror:
    """One that carries this share's number and this epoch; None leaves it out."""
    record = {"id": share, **({"epoch": epoch} if epoch is not None else {})}
    labels = {names.JOB_UID_LABEL: "u1", names.ORIGIN_LABEL: "origin"}
    if share is not None:
        labels[names.SHARE_LABEL] = str(share)
    metadata = {
        "namespace": "team",
        "name": "pi",
        "uid": uid,
        "labels": labels,
        "annotations": {names.SHARE_ANNOTATION: json.dumps(record)},
    }
    spec = {"parallelism": 2, "completions": 4, "template": {"spec": {}}}
    return read_mirror({"metadata": metadata, "spec": spec, "status": {}}, cluster)


@pytest.mark.parametrize(
    ("epoch", "late"), [(49, True), (50, False), (51, False), (None, False), (0, False), (-1, False)]
)
def test_an_older_epoch_than_the_shares_is_late_while_the_share_has_no_mirror(
    epoch: int | None, late: bool
) -> None:
    assert is_late(PLACEMENT, mirror(epoch=epoch)) is late


@pytest.mark.parametrize("epoch", ["49", 49.0, True, [49], {}])
def test_an_epoch_that_is_no_number_says_nothing(epoch: Any) -> None:
    assert not is_late(PLACEMENT, mirror(epoch=epoch))


@pytest.mark.parametrize("epoch", [49, 50, 51])
def test_a_share_that_has_its_mirror_needs_no_second_one(epoch: int) -> None:
    taken = PLACEMENT.with_shares([replace(SHARE, mirror_uid="m1")])
    assert not is_late(taken, mirror(epoch=epoch, uid="m1"))
    assert is_late(taken, mirror(epoch=epoch, uid="m2"))
    assert is_late(taken, mirror(epoch=epoch, uid="m2", cluster=B))


@pytest.mark.parametrize(("share", "late"), [(1, True), (2, True), (3, False), (None, False)])
def test_a_share_that_is_over_has_no_mirrors_and_one_that_never_was_is_not_known(
    share: int | None, late: bool
) -> None:
    """A number that no share has had yet: the placement was lost, or somebody made the mirror up."""
    assert is_late(PLACEMENT, mirror(share=share, epoch=40)) is late


def test_a_late_mirror_is_not_taken_for_the_shares() -> None:
    assert share_mirrors(PLACEMENT, (mirror(epoch=49),)) == {}
    assert share_mirrors(PLACEMENT, (mirror(epoch=50),))[0].uid == "m1"


def test_a_share_keeps_its_epoch_while_its_part_stays() -> None:
    other = replace(SHARE, id=1, cluster=B, cluster_uid="uid-b", epoch=0)
    again = with_epochs(PLACEMENT.with_shares([SHARE, other]), PLACEMENT, epoch=70)
    assert [share.epoch for share in again.shares] == [50, 70]
    changed = with_epochs(PLACEMENT.with_shares([replace(SHARE, completions=3)]), PLACEMENT, epoch=80)
    assert [share.epoch for share in changed.shares] == [80], "a POST of the earlier part is late from now on"


def test_a_placement_that_is_rebuilt_keeps_the_epochs_of_mirrors_and_gives_later_ones_to_the_rest() -> None:
    lost = Placement("u1", (replace(SHARE, mirror_uid="m1", epoch=50), replace(SHARE, id=1, epoch=0)))
    assert [share.epoch for share in with_epochs(lost, None, epoch=90).shares] == [50, 90]


@pytest.mark.parametrize("state", ["fresh", "running", "finished"])
def test_a_late_mirror_is_removed_whatever_it_does_and_never_counted(state: str) -> None:
    scene = Scene()
    scene.settle()
    share = next(it for it in placement_of(scene.job).shares if it.cluster == A)
    status: dict[str, Any] = {
        "fresh": {},
        "running": {"startTime": "2026-01-01T12:00:00Z", "active": 2},
        "finished": {
            "startTime": "2026-01-01T12:00:00Z",
            "succeeded": 2,
            "conditions": [{"type": "Complete", "status": "True"}],
        },
    }[state]
    stored = scene.mirrors["a", share.mirror]
    late = {
        **stored,
        "metadata": {**stored["metadata"], "name": "pi-again", "uid": "late"},
        "status": status,
    }
    scene.mirrors["b", "pi-again"] = late
    before = scene.job["status"]
    removed = [it for it in scene.decide().actions if isinstance(it, DeleteMirror)]
    assert [(it.cluster, it.name, it.uid) for it in removed] == [("b", "pi-again", "late")]
    scene.settle()
    assert ("b", "pi-again") not in scene.mirrors
    assert scene.job["status"].get("succeeded", 0) == before.get("succeeded", 0)
