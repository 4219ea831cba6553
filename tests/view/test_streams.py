"""Lines, frames and certificates, without a cluster; and what a slow reader costs."""

import asyncio
import datetime
import json

import pytest
from aiohttp.test_utils import make_mocked_request

from dispatcher.view.access import HeaderNames, user_from_headers
from dispatcher.view.certificates import is_due, issue
from dispatcher.view.lines import Cutter, Output, Stamps
from dispatcher.view.options import read_options
from dispatcher.view.sources import Pod
from dispatcher.view.status import Refused

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


@pytest.mark.parametrize(
    "query",
    [
        {"follow": "perhaps"},
        {"tailLines": "-1"},
        {"sinceSeconds": "0"},
        {"pod": "../x"},
        {"follow": "true", "previous": "true"},
        {"unknown": "1"},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        read_options(query)
    assert refused.value.code == 400


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
