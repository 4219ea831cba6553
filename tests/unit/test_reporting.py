"""Counters alone wait until the last write is a second old, or longer while writes take long; what is decided waits for
nothing.
"""

from datetime import timedelta
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.actions import Decision, WriteJob
from dispatcher.core.job import timestamp
from dispatcher.core.observation import REPORT_INTERVAL
from dispatcher.core.reporting import FIRST_REPORT_INTERVALS
from tests.unit.scene import NOW, Scene, condition, written

MOMENT = timedelta(milliseconds=200)


def writes(decision: Decision) -> list[WriteJob]:
    return [action for action in decision.actions if isinstance(action, WriteJob)]


def running(**spec: Any) -> Scene:
    """Its mirrors have reported once, and that was written a moment ago."""
    scene = Scene(**spec).settle()
    for cluster, _name in list(scene.mirrors):
        scene.report(cluster, active=1)
    scene.settle()
    scene.fields["written_at"] = NOW - MOMENT
    return scene


def test_new_counters_are_put_off_and_looked_at_again_when_they_are_due() -> None:
    scene = running()
    scene.report("a", active=1, ready=1)
    decision = scene.decide()
    assert not writes(decision)
    assert decision.look_again == pytest.approx((REPORT_INTERVAL - MOMENT).total_seconds())
    scene.fields["written_at"] = NOW - REPORT_INTERVAL
    assert written(scene.decide())["status"]["ready"] == 1


def test_counters_that_did_not_change_are_not_looked_at_again() -> None:
    assert running().decide().look_again is None


def test_a_job_that_another_process_wrote_last_is_not_put_off() -> None:
    scene = running()
    scene.report("a", active=1, ready=1)
    del scene.fields["written_at"]
    assert writes(scene.decide())


def test_the_end_is_not_put_off() -> None:
    scene = running()
    for cluster in ("a", "b"):
        scene.complete(cluster, 2)
    assert condition(written(scene.decide()), "Complete")["status"] == "True"


def test_a_suspension_is_not_put_off() -> None:
    scene = running(suspend=False)
    scene.job = {**scene.job, "spec": scene.job["spec"] | {"suspend": True}}
    scene.settle()
    suspended = [{"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": ""}]
    for cluster in ("a", "b"):
        scene.report(cluster, active=0, conditions=suspended)
    assert condition(written(scene.decide()), "Suspended")["status"] == "True"


def test_the_counts_of_a_mirror_that_is_gone_are_not_put_off() -> None:
    scene = running()
    scene.report("a", succeeded=1)
    scene.lose("a")
    assert written(scene.decide())["status"]["succeeded"] == 1


def test_counters_do_not_wait_for_a_clock_that_was_set_back() -> None:
    scene = running()
    scene.report("a", active=1, ready=1)
    scene.fields["written_at"] = NOW + timedelta(hours=1)
    assert writes(scene.decide())


def placed(**fields: Any) -> Scene:
    """Its mirrors exist, and a moment has passed since it was placed; none has begun."""
    scene = Scene()
    while not scene.mirrors:
        scene.carry_out(scene.decide())
    for mirror in scene.mirrors.values():
        del mirror["status"]["startTime"]
    scene.fields |= {"now": NOW + MOMENT, "written_at": NOW} | fields
    return scene


def begin(scene: Scene) -> None:
    for cluster, _name in list(scene.mirrors):
        scene.report(cluster, startTime=timestamp(NOW), active=1)


def test_dispatched_waits_for_the_first_report() -> None:
    scene = placed()
    decision = scene.decide()
    assert not writes(decision)
    longest = FIRST_REPORT_INTERVALS * REPORT_INTERVAL
    assert decision.look_again == pytest.approx((longest - MOMENT).total_seconds())
    begin(scene)
    assert condition(written(scene.decide()), "Dispatched")["status"] == "True"


def test_dispatched_is_told_where_no_report_comes() -> None:
    scene = placed(now=NOW + FIRST_REPORT_INTERVALS * REPORT_INTERVAL)
    assert condition(written(scene.decide()), "Dispatched")["status"] == "True"


def test_dispatched_does_not_wait_for_a_clock_that_was_set_back() -> None:
    scene = placed(now=NOW - timedelta(hours=1))
    assert condition(written(scene.decide()), "Dispatched")["status"] == "True"


def test_while_writes_take_long_all_news_wait_longer() -> None:
    interval = 3 * REPORT_INTERVAL
    scene = placed(report_interval=interval)
    assert scene.decide().look_again == pytest.approx(
        (FIRST_REPORT_INTERVALS * interval - MOMENT).total_seconds()
    )
    begin(scene)
    decision = scene.decide()
    assert not writes(decision)
    assert decision.look_again == pytest.approx((interval - MOMENT).total_seconds())
    scene.fields["now"] = NOW + interval
    manifest = written(scene.decide())
    assert condition(manifest, "Dispatched")["status"] == "True"
    assert manifest["status"]["active"] == 2


def test_a_job_that_ends_before_its_dispatch_was_told_says_both() -> None:
    scene = placed()
    begin(scene)
    for cluster in ("a", "b"):
        scene.complete(cluster, 2)
    (write,) = writes(scene.decide())
    told = condition(dict(write.manifest), "Dispatched")
    assert told["status"] == "True"
    assert "parallelism 1, completions 2" in told["message"]
    assert [event.reason for event in write.events] == ["Dispatched", "Completed"]


def test_what_is_said_at_the_end_names_what_was_not_followed() -> None:
    scene = placed()
    scene.job["metadata"]["annotations"] |= {names.PREFERENCES_ANNOTATION: "{"}
    begin(scene)
    for cluster in ("a", "b"):
        scene.complete(cluster, 2)
    (write,) = writes(scene.decide())
    told = condition(dict(write.manifest), "Dispatched")["message"]
    assert "completions 2). " in told
    assert names.PREFERENCES_ANNOTATION in told


def test_a_job_that_ends_while_a_mirror_has_not_begun_was_not_dispatched() -> None:
    scene = placed()
    for (cluster, _name), status in zip(
        list(scene.mirrors), ({"startTime": timestamp(NOW)}, {}), strict=True
    ):
        scene.report(cluster, **status)
    scene.job = {**scene.job, "spec": scene.job["spec"] | {"activeDeadlineSeconds": 1}}
    scene.fields["now"] = NOW + timedelta(seconds=5)
    manifest = written(scene.decide())
    assert condition(manifest, "FailureTarget")["reason"] == "DeadlineExceeded"
    assert not condition(manifest, "Dispatched")
