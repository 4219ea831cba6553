"""A work queue on a real queue server, which pods of both clusters empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import redis
from tests.e2e.work import Work

pytestmark = [pytest.mark.lab, pytest.mark.skipif(redis.PROGRAM is None, reason=redis.NEEDS)]

ITEMS = 20


def test_pods_of_both_clusters_empty_one_queue(work: Work, tmp_path: Path) -> None:
    with redis.server(work.lab, tmp_path, work=ITEMS) as port:
        container = {"env": redis.environment(port, queue="work")}
        work.create("queue", redis.ALL, restart="OnFailure", container=container, parallelism=4)
        kind, _, status = work.ended("queue")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 4, 0)
    lines = work.logs("queue")
    assert sorted(line.split("] ")[1] for line in lines) == sorted(redis.items(ITEMS))
    assert {line.split("/")[0] for line in lines} == {"[worker-1", "[worker-2"}
