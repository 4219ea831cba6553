"""A Lease as a record, the bodies of the requests that change it, and the question before each write."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher.clusters import fencing
from dispatcher.core import names
from dispatcher.operator import lease_record

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
LATER = datetime(2026, 3, 4, 5, 7, 0, 0, tzinfo=UTC)


def lease(**annotations: str) -> dict[str, Any]:
    made = lease_record.new_lease(
        namespace="system", origin="abc", shard=0, shards=3, holder="one", duration=10, now=NOW
    )
    made["metadata"]["resourceVersion"] = "7"
    made["metadata"]["annotations"] |= annotations
    return made


def test_a_new_lease_is_held_and_only_shard_0_has_the_number_that_all_agree_on() -> None:
    first = lease_record.new_lease(
        namespace="system", origin="abc", shard=0, shards=3, holder="one", duration=10, now=NOW
    )
    assert first == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": "job-dispatcher-abc",
            "namespace": "system",
            "labels": {names.ORIGIN_LABEL: "abc"},
            "annotations": {names.SHARDS_ANNOTATION: "3", names.AGREED_SHARDS_ANNOTATION: "3"},
        },
        "spec": {
            "holderIdentity": "one",
            "leaseDurationSeconds": 10,
            "acquireTime": "2026-03-04T05:06:07.000089Z",
            "renewTime": "2026-03-04T05:06:07.000089Z",
            "leaseTransitions": 0,
        },
    }
    second = lease_record.new_lease(
        namespace="system", origin="abc", shard=1, shards=3, holder="one", duration=10, now=NOW
    )
    assert second["metadata"]["name"] == "job-dispatcher-abc-1"
    assert names.AGREED_SHARDS_ANNOTATION not in second["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("text", "shards"),
    [("4", 4), ("", 1), ("-2", 1), ("four", 1), ("1e3", 1), ("0", 1), ("999999", 1)],
    ids=str,
)
def test_a_number_that_somebody_made_up_counts_as_not_set(text: str, shards: int) -> None:
    assert lease_record.read_lease(lease(**{names.SHARDS_ANNOTATION: text})).shards == shards


def test_a_lease_without_anything_has_no_holder() -> None:
    record = lease_record.read_lease({"metadata": {"name": "job-dispatcher-abc"}})
    assert (record.holder, record.duration, record.transitions, record.shards) == ("", 0, 0, 1)
    assert (record.agreed_shards, record.wanted_by, record.version) == (None, "", "")


def test_every_change_is_guarded_by_the_version_that_was_read_and_leaves_the_record_alone() -> None:
    manifest = lease()
    record = lease_record.read_lease(manifest)
    bodies = [
        lease_record.acquired(record, holder="two", duration=10, shards=3, now=LATER),
        lease_record.renewed(record, duration=10, now=LATER),
        lease_record.released(record, now=LATER),
        lease_record.wanted(record, "two"),
        lease_record.recounted(record, 5),
    ]
    assert [body["metadata"]["resourceVersion"] for body in bodies] == ["7"] * len(bodies)
    assert manifest == lease()


def test_whoever_takes_a_lease_counts_a_transition_and_answers_the_request() -> None:
    record = lease_record.read_lease(lease(**{names.WANTED_BY_ANNOTATION: "two"}))
    taken = lease_record.read_lease(
        lease_record.acquired(record, holder="two", duration=12, shards=4, now=LATER)
    )
    assert (taken.holder, taken.duration, taken.transitions, taken.shards) == ("two", 12, 1, 4)
    assert taken.wanted_by == ""
    assert taken.agreed_shards == 3, "the number for all replicas is changed by its own request only"


def test_a_release_keeps_who_asked_and_has_no_holder() -> None:
    record = lease_record.read_lease(lease(**{names.WANTED_BY_ANNOTATION: "two"}))
    given_back = lease_record.read_lease(lease_record.released(record, now=LATER))
    assert (given_back.holder, given_back.duration, given_back.wanted_by) == ("", 1, "two")


def test_another_number_of_shards_changes_nothing_else() -> None:
    changed = lease_record.read_lease(lease_record.recounted(lease_record.read_lease(lease()), 5))
    assert (changed.agreed_shards, changed.shards, changed.holder) == (5, 3, "one")


class Transport:
    """What was handed over."""

    def __init__(self) -> None:
        self.sent = b""

    async def write(self, chunk: bytes) -> None:
        self.sent += chunk


@pytest.mark.parametrize("whole", [True, False], ids=["write", "write_with_length"])
async def test_a_body_asks_when_it_is_sent_and_not_when_it_is_made(whole: bool) -> None:
    allowed = True
    transport: Any = Transport()

    async def send(body: fencing.FencedBody) -> None:
        await (body.write(transport) if whole else body.write_with_length(transport, None))

    first, second = (fencing.FencedBody(b"{}", lambda: allowed) for _ in range(2))
    await send(first)
    assert (transport.sent, first.refused) == (b"{}", False)
    allowed = False
    with pytest.raises(fencing.NotPermitted):
        await send(second)
    assert (transport.sent, second.refused) == (b"{}", True)


def test_a_permit_ends_with_its_block() -> None:
    def never() -> bool:
        return False

    def fail() -> None:
        assert fencing.WRITE_PERMIT.get() is never
        raise RuntimeError

    with pytest.raises(RuntimeError), fencing.permitted(never):
        fail()
    assert fencing.WRITE_PERMIT.get() is None
