import pytest

from hack.lab.scripter.script import SCRIPT, TERMINATION, InvalidScript, Outcome, parse


def outcome(script: str, *, index: int | None = None, attempt: int = 0, nth: int = 0) -> Outcome:
    return parse({SCRIPT: script}).outcome(index=index, attempt=attempt, nth=nth)


CONTRACT = """[{"index": "3-5", "try": "0-1", "nth": "0", "after": "2s", "exit": 42}, {"exit": 0}]"""


def test_first_entry_whose_fields_all_match_decides() -> None:
    assert outcome(CONTRACT, index=4, attempt=1, nth=0) == Outcome(after=2.0, exit=42)
    assert outcome(CONTRACT, index=2, attempt=1, nth=0) == Outcome()
    assert outcome(CONTRACT, index=4, attempt=2, nth=0) == Outcome()
    assert outcome(CONTRACT, index=4, attempt=1, nth=1) == Outcome()
    assert outcome('[{"exit": 1}, {"exit": 2}]').exit == 1


def test_nothing_that_matches_means_success_at_once() -> None:
    assert outcome("[]") == Outcome(after=0.0, exit=0)
    assert outcome('[{"try": "1", "exit": 9}]') == Outcome(after=0.0, exit=0)
    assert parse({}).termination == Outcome(after=0.0, exit=143)


@pytest.mark.parametrize(
    ("numbers", "inside", "outside"),
    [
        ('"3"', [3], [2, 4]),
        ("3", [3], [2, 4]),
        ('"1,3"', [1, 3], [0, 2, 4]),
        ('"3-5"', [3, 4, 5], [2, 6]),
        ('"0-1,7"', [0, 1, 7], [2, 6, 8]),
        ('"2-"', [2, 3, 10_000], [0, 1]),
    ],
)
def test_numbers(numbers: str, inside: list[int], outside: list[int]) -> None:
    script = f'[{{"index": {numbers}, "exit": 7}}]'
    assert [outcome(script, index=index).exit for index in inside] == [7] * len(inside)
    assert [outcome(script, index=index).exit for index in outside] == [0] * len(outside)


def test_a_pod_without_completion_index_matches_no_index() -> None:
    assert outcome('[{"index": "0-", "exit": 7}]', index=None).exit == 0


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("500ms", 0.5), ("2s", 2.0), ("1m30s", 90.0), ("0s", 0.0), ("1.5s", 1.5), ("1h", 3600.0)],
)
def test_durations(duration: str, seconds: float) -> None:
    assert outcome(f'[{{"after": "{duration}"}}]').after == pytest.approx(seconds)


def test_null_never_ends() -> None:
    assert outcome('[{"exit": null}]').exit is None


def test_termination() -> None:
    assert parse({TERMINATION: '{"after": "2s", "exit": 0}'}).termination == Outcome(after=2.0, exit=0)
    assert parse({TERMINATION: '{"after": "2s"}'}).termination == Outcome(after=2.0, exit=143)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("{", "is not JSON"),
        ("{}", "expected a list"),
        ("[1]", "expected an object"),
        ('[{"exits": 1}]', "unknown exits"),
        ('[{"exit": 256}]', "0 to 255"),
        ('[{"exit": true}]', "0 to 255"),
        ('[{"exit": "1"}]', "0 to 255"),
        ('[{"after": 2}]', "expected a duration"),
        ('[{"after": "2"}]', "expected a duration"),
        ('[{"after": "2 s"}]', "expected a duration"),
        ('[{"exit": 0}, {"index": "3-x"}]', r"\[1\]\.index: expected numbers"),
        ('[{"try": -1}]', "expected numbers"),
    ],
)
def test_what_cannot_be_understood_is_named(script: str, says: str) -> None:
    with pytest.raises(InvalidScript, match=says):
        parse({SCRIPT: script})
