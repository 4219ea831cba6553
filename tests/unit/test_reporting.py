"""Counters alone wait until the last write is a second old; what is decided waits for nothing."""

from datetime import timedelta
from typing import Any

import pytest

from dispatcher.core import reporting
from dispatcher.core.actions import Decision, WriteJob
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
    assert decision.look_again == pytest.approx((reporting.REPORT_INTERVAL - MOMENT).total_seconds())
    scene.fields["written_at"] = NOW - reporting.REPORT_INTERVAL
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
