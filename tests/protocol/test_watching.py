"""Following objects over what goes wrong, against a server that does so on purpose."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.commands import watching
from dispatcher.commands.connection import Connection
from dispatcher.commands.refusals import ClusterSaysNo
from dispatcher.commands.watching import Change, Followed
from tests.protocol.test_management import Answer, FakeServer, Query, failure, kubeconfig, server

__all__ = ["server"]  # the fixture

PATH = "/apis/batch/v1/jobs"
SECONDS = 30.0


def item(name: str, version: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team", "resourceVersion": str(version), "managedFields": []}
    }


def listed(version: int, *items: dict[str, Any]) -> Answer:
    return 200, {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def events(*lines: dict[str, Any]) -> Answer:
    return 200, "".join(json.dumps(line) + "\n" for line in lines)


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": item(name, version)}


GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}


class Script:
    """Answers lists and watches in this order; the last of each goes on being given."""

    def __init__(self, lists: list[Answer], watches: list[Answer]) -> None:
        self._lists = lists
        self._watches = watches
        self.versions: list[str] = []

    def __call__(self, path: str, query: Query) -> Answer:
        if "watch" not in query:
            return self._lists.pop(0) if len(self._lists) > 1 else self._lists[0]
        self.versions += query["resourceVersion"]
        if not self._watches:
            # Nothing happens for a while.
            time.sleep(0.2)
            return events()
        return self._watches.pop(0)


@pytest.fixture
def follow(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Script], Followed]:
    monkeypatch.setattr(watching, "_PAUSES", (0.01,))
    file = kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_port}")

    def start(script: Script) -> Followed:
        server.answer = script
        return Followed(Connection(kubeconfig=file), PATH)

    return start


def changes_until(followed: Followed, condition: Callable[[list[str]], bool]) -> list[str]:
    """What has changed, in short, once it meets a condition."""
    seen: list[str] = []
    end = time.monotonic() + SECONDS
    while not condition(seen):
        assert time.monotonic() < end, seen
        seen += [short(change) for change in followed.changes(0.1)]
    return seen


def short(change: Change) -> str:
    assert "managedFields" not in change.manifest["metadata"]
    return f"{change.kind} {change.manifest['metadata']['name']}"


def test_a_watch_goes_on_where_the_last_one_ended(follow: Callable[[Script], Followed]) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}
    script = Script(
        [listed(1, item("a", 1))],
        [events(event("ADDED", "b", 2), bookmark), events(event("DELETED", "a", 8))],
    )
    followed = follow(script)
    assert changes_until(followed, lambda seen: len(seen) == 3) == ["ADDED a", "ADDED b", "DELETED a"]
    assert script.versions[:2] == ["1", "7"]
    assert list(followed.objects) == [("team", "b")]


def test_after_an_expired_version_only_differences_are_told(follow: Callable[[Script], Followed]) -> None:
    script = Script(
        [
            listed(1, item("a", 1), item("b", 1), item("c", 1)),
            listed(9, item("b", 5), item("c", 1), item("d", 6)),
        ],
        [events(GONE)],
    )
    followed = follow(script)
    seen = changes_until(followed, lambda seen: len(seen) == 6)
    assert seen == ["ADDED a", "ADDED b", "ADDED c", "DELETED a", "MODIFIED b", "ADDED d"]


def test_trouble_passes(follow: Callable[[Script], Followed]) -> None:
    script = Script([listed(1, item("a", 1))], [(503, "<html>"), events(event("ADDED", "b", 2))])
    followed = follow(script)
    assert changes_until(followed, lambda seen: len(seen) == 2) == ["ADDED a", "ADDED b"]
    assert followed.trouble == ""


@pytest.mark.parametrize("lists", [[failure(403, "cannot list")], [(503, "<html>")]])
def test_what_cannot_be_listed_is_told(follow: Callable[[Script], Followed], lists: list[Answer]) -> None:
    followed = follow(Script(lists, []))
    with pytest.raises(ClusterSaysNo):
        followed.changes(SECONDS)


def test_a_right_that_is_taken_away_is_told(follow: Callable[[Script], Followed]) -> None:
    followed = follow(Script([listed(1)], [failure(403, "cannot watch")]))
    with pytest.raises(ClusterSaysNo, match="cannot watch"):
        changes_until(followed, lambda seen: False)
