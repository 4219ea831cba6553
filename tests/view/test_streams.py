"""Lines, frames and certificates, without a cluster; and what a slow reader costs."""

import asyncio
import contextlib
import datetime
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from dispatcher.commands import log_stream
from dispatcher.commands.refusals import ClusterSaysNo
from dispatcher.view.access import HeaderNames, user_from_headers
from dispatcher.view.certificates import is_due, issue
from dispatcher.view.lines import Cutter, Output
from dispatcher.view.options import read_options
from dispatcher.view.sources import Pod
from dispatcher.view.stamps import Stamps
from dispatcher.view.status import Refused

if TYPE_CHECKING:
    from dispatcher.commands.management import ManagementCluster

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
POD = Pod("east", {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}})


class Sink:
    """Takes what is written, only when it may."""

    def __init__(self) -> None:
        self.data = b""
        self.may = asyncio.Event()
        self.may.set()

    async def write(self, data: bytes) -> None:
        await self.may.wait()
        self.data += data


def test_blocks_are_cut_at_lines() -> None:
    cutter = Cutter()
    assert cutter.whole(b"a\nb") == b"a\n"
    assert cutter.whole(b"c") == b""
    assert cutter.whole(b"d\ne") == b"bcd\n"
    assert cutter.rest() == b"e\n"
    assert cutter.rest() == b""


def test_a_resumed_log_has_each_line_once() -> None:
    stamps = Stamps(wanted=False)
    assert stamps.new(b"2026-01-01T00:00:00.1Z a\n2026-01-01T00:00:00.25Z b\n") == b"a\nb\n"
    assert stamps.resume() == "2026-01-01T00:00:00Z"
    again = b"2026-01-01T00:00:00.1Z a\n2026-01-01T00:00:00.25Z b\n2026-01-01T00:00:00.3Z c\n"
    assert stamps.new(again) == b"c\n"


def test_lines_of_one_moment_are_counted() -> None:
    stamps = Stamps(wanted=False)
    line = b"2026-01-01T00:00:00.5Z x\n"
    assert stamps.new(line * 2) == b"x\nx\n"
    assert stamps.new(line) == b"x\n"
    for _ in range(2):
        stamps.resume()
        assert stamps.new(line * 2) == b""
        assert stamps.new(line) == b""
    assert stamps.new(line + b"2026-01-01T00:00:00.6Z y\n") == b"x\ny\n"


def test_nodes_write_their_own_time_zone() -> None:
    stamps = Stamps(wanted=False)
    assert stamps.new(b"2026-01-01T02:00:00.5+02:00 a\nunable to go on\n") == b"a\nunable to go on\n"
    assert stamps.resume() == "2026-01-01T00:00:00Z"
    assert stamps.new(b"2026-01-01T02:00:00.5+02:00 a\n2025-12-31T23:00:01-01:00 b\n") == b"b\n"


def test_a_text_that_begins_with_a_time_keeps_it() -> None:
    lines = b"2026-01-01T00:00:00Z 2026-01-01T00:00:00Z a\n2026-01-01T00:00:01Z \n"
    assert Stamps(wanted=False).new(lines) == b"2026-01-01T00:00:00Z a\n\n"
    assert Stamps(wanted=True).new(lines) == lines


async def test_frames_say_whose_lines_they_are() -> None:
    sink = Sink()
    output = Output(sink, frames=True, prefix=False)
    await output.lines(POD, "c", b"one\ntwo\n")
    await output.notice("gone", error=True)
    head, one, two, notice = sink.data.splitlines()
    assert json.loads(head) == {"cluster": "east", "pod": "p", "container": "c", "index": "", "bytes": 8}
    assert (one, two) == (b"one", b"two")
    assert json.loads(notice) == {"notice": "gone", "error": True}


async def test_prefixes_are_before_each_line() -> None:
    sink = Sink()
    await Output(sink, frames=False, prefix=True).lines(POD, "c", b"one\ntwo\n")
    assert sink.data == b"[east/p/c] one\n[east/p/c] two\n"


def as_sent(query: dict[str, str] | list[tuple[str, str]]) -> Mapping[str, str]:
    """A request's query."""
    return make_mocked_request("GET", f"/?{urllib.parse.urlencode(query)}").query


@pytest.mark.parametrize(
    "query",
    [
        {"follow": "perhaps"},
        {"tailLines": "-1"},
        {"sinceSeconds": "0"},
        {"pod": "../x"},
        {"follow": "true", "previous": "true"},
        {"unknown": "1"},
        {"after": "east/p"},
        {"after": "east/p=yesterday"},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        read_options(as_sent(query))
    assert refused.value.code == 400


def test_a_resumed_follow_says_where_each_pod_goes_on() -> None:
    query = [("after", "east/p=2026-01-01T00:00:00Z"), ("after", "west/q=2026-01-01T00:00:05Z")]
    after = read_options(as_sent(query)).after
    assert after == {"east/p": "2026-01-01T00:00:00Z", "west/q": "2026-01-01T00:00:05Z"}


def test_a_certificate_is_renewed_at_two_thirds_of_its_life() -> None:
    certificate, _ = issue("a.b.svc", NOW, datetime.timedelta(days=90))
    assert not is_due(certificate, "a.b.svc", NOW + datetime.timedelta(days=59))
    assert is_due(certificate, "a.b.svc", NOW + datetime.timedelta(days=61))
    assert is_due(certificate, "other.b.svc", NOW)
    assert is_due("nothing", "a.b.svc", NOW)


def test_the_user_is_read_with_groups_and_extra() -> None:
    headers = {"X-Remote-User": "jane", "X-Remote-Extra-Scopes%2Fa": "x"}
    request = make_mocked_request("GET", "/", headers=headers)
    several = request.headers.copy()
    several.extend([("X-Remote-Group", "dev"), ("X-Remote-Group", "ops")])
    user = user_from_headers(several, HeaderNames())
    assert user is not None
    assert (user.name, user.groups, user.extra) == ("jane", ("dev", "ops"), (("scopes/a", ("x",)),))


class Broken:
    """A management cluster whose connections break; each takes the next of the answers."""

    def __init__(self, *answers: bytes | ClusterSaysNo) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def stream(self, path: str, parameters: dict[str, Any], *, timeout: float) -> Iterator[Iterator[bytes]]:
        self.asked.append(parameters)
        answer = self._answers.pop(0)
        if isinstance(answer, ClusterSaysNo):
            raise answer
        yield iter([answer])
        if self._answers:
            raise ClusterSaysNo("connection reset")


def frame(pod: str, lines: bytes) -> bytes:
    """A frame of the server."""
    head = {"cluster": "east", "pod": pod, "container": "c", "index": "", "bytes": len(lines)}
    return json.dumps(head).encode() + b"\n" + lines


def test_the_plugin_goes_on_where_a_follow_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "_PAUSES", (0.0,))
    first, second = b"2026-01-01T00:00:00.1Z a\n", b"2026-01-01T00:00:00.2Z b\n"
    third = b"2026-01-01T00:00:03Z c\n"
    management = Broken(
        frame("p", first) + frame("p", second)[:-3],
        ClusterSaysNo("not found", status=404),
        frame("p", first + second) + b'{"alive":true}\n' + b'{"notice":"it stops","again":true}\n',
        frame("q", first) + frame("p", second + third),
    )
    follow = log_stream.Follow(
        cast("ManagementCluster", management), "/log", {"tailLines": 5}, timestamps=False
    )
    shown = [(head.get("pod"), content) for head, content in follow.frames() if "notice" not in head]
    assert shown == [("p", b"a\n"), ("p", b"b\n"), ("q", b"a\n"), ("p", b"c\n")]
    assert management.asked[0] == {"tailLines": 5, "timestamps": "true"}
    again = {"timestamps": "true", "after": ["east/p=2026-01-01T00:00:00Z"]}
    assert management.asked[1:] == [{**again, "sinceTime": "2026-01-01T00:00:00Z"}] * 3


@pytest.mark.parametrize(("message", "status"), [("gone", 0), ("refused", 403)])
def test_a_follow_that_never_began_ends(message: str, status: int) -> None:
    management = cast("ManagementCluster", Broken(ClusterSaysNo(message, status=status)))
    with pytest.raises(ClusterSaysNo, match=message):
        list(log_stream.Follow(management, "/log", {}, timestamps=False).frames())


def test_a_follow_of_a_job_that_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "_PAUSES", (0.0,))
    gone = ClusterSaysNo('jobs.batch "render" not found', status=404)
    management = cast("ManagementCluster", Broken(frame("p", b"2026-01-01T00:00:00Z a\n"), gone))
    with pytest.raises(ClusterSaysNo, match="render"):
        list(log_stream.Follow(management, "/log", {}, timestamps=False).frames())
