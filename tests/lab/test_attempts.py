from typing import Any

from hack.lab.scripter.attempts import COMPLETION_INDEX, Attempts
from hack.lab.scripter.script import RUN


def pod(uid: str, *, job: str = "job", index: int | None = None, run: str | None = None) -> dict[str, Any]:
    annotations = {} if index is None else {COMPLETION_INDEX: str(index)}
    if run is not None:
        annotations[RUN] = run
    owner = {"kind": "Job", "uid": job, "controller": True}
    return {"uid": uid, "annotations": annotations, "ownerReferences": [owner]}


def test_tries_count_per_index_and_pods_per_job() -> None:
    attempts = Attempts()
    places = [attempts.place(pod(uid, index=index)) for uid, index in (("a", 0), ("b", 1), ("c", 0))]
    assert [(place.nth, place.attempt) for place in places] == [(0, 0), (1, 0), (2, 1)]
    other = attempts.place(pod("d", job="other", index=0))
    assert (other.nth, other.attempt) == (0, 0)


def test_without_an_index_the_job_s_runs_count() -> None:
    attempts = Attempts()
    places = [attempts.place(pod(uid)) for uid in "ab"]
    assert [place.attempt for place in places] == [0, 1]


def test_a_restart_of_the_containers_is_another_try_of_the_same_pod() -> None:
    attempts = Attempts()
    first = attempts.place(pod("a", index=3))
    again = attempts.again(first)
    assert (again.nth, again.attempt, again.index) == (0, 1, 3)
    assert attempts.place(pod("b", index=3)).attempt == 2


def test_a_new_process_goes_on_counting_from_what_the_pods_carry() -> None:
    before = Attempts()
    carried = [before.place(pod(uid, index=0)).annotation() for uid in "ab"]
    after = Attempts()
    known = [after.place(pod(uid, index=0, run=run)) for uid, run in zip("ab", carried, strict=True)]
    assert [(place.nth, place.attempt) for place in known] == [(0, 0), (1, 1)]
    fresh = after.place(pod("c", index=0))
    assert (fresh.nth, fresh.attempt) == (2, 2)
