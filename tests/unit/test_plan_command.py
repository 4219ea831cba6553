"""``job-dispatcher plan --json``: the contract that scripts rely on."""

import json

import pytest
from click.testing import CliRunner, Result

from dispatcher.commands.main import commands


def plan(text: str | bytes | dict[str, object]) -> Result:
    if isinstance(text, dict):
        text = json.dumps(text)
    return CliRunner().invoke(commands, ["plan", "--json"], input=text)


def test_the_contract() -> None:
    result = plan(
        {
            "key": "ns/name",
            "replicas": 50,
            "preferences": {"clusters": {"*": {"weight": 1}}},
            "clusters": ["A", "B"],
            "existing": {},
            "capacity": {},
        }
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"plan": {"A": 25, "B": 25}, "overflow": {}}
    assert result.stderr == ""


def test_bounds_existing_and_capacity_count() -> None:
    question: dict[str, object] = {
        "replicas": 60,
        "clusters": ["A", "B", "C"],
        "preferences": {"Rebalance": True, "clusters": {"A": {"weight": 1}, "B": {"Weight": 2}}},
        "capacity": {"B": 10, "elsewhere": 1},
        "existing": {"C": 60},
    }
    assert json.loads(plan(question).stdout) == {"plan": {"A": 50, "B": 10, "C": 0}, "overflow": {"B": 30}}


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        ({}, {"A": 1, "B": 2}),
        ({"preferences": None}, {"A": 0, "B": 0}),
        ({"preferences": {}}, {"A": 0, "B": 0}),
    ],
)
def test_no_preferences_are_even_but_null_names_no_cluster(
    preferences: dict[str, object], expected: dict[str, int]
) -> None:
    result = plan({"replicas": 3, "clusters": ["A", "B"], "existing": None, "key": None, **preferences})
    assert json.loads(result.stdout)["plan"] == expected


def test_half_a_surrogate_pair_in_a_name_is_read_as_go_reads_it() -> None:
    result = plan('{"replicas": 1, "clusters": ["\\ud800", "\\ud83d\\ude00"], "key": "\\udfff"}')
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)["plan"]) == {"\ufffd", "😀"}


def test_an_unknown_key_is_told_but_ignored() -> None:
    result = plan({"replicas": 1, "clusters": ["A"], "prefrences": {}})
    assert result.exit_code == 0
    assert json.loads(result.stdout)["plan"] == {"A": 1}
    assert result.stderr == "Warning: unknown key prefrences is ignored\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "malformed JSON"),
        ("{", "malformed JSON"),
        ("[]", "must be an object, not an array"),
        ("null", "must be an object, not null"),
        (b"\xff{}", "standard input is not UTF-8"),
        ('{"clusters": []}', "replicas: is missing"),
        ('{"replicas": 1}', "clusters: is missing"),
        ('{"replicas": null, "clusters": []}', "replicas: must be an integer, not null"),
        ('{"replicas": 1.0, "clusters": []}', "replicas: must be an integer, not 1.0"),
        ('{"replicas": -1, "clusters": []}', "replicas: must not be negative, but is -1"),
        ('{"replicas": 1, "clusters": null}', "clusters: must be an array, not null"),
        ('{"replicas": 1, "clusters": ["A", 1]}', "clusters[1]: must be a string, not 1"),
        ('{"replicas": 1, "clusters": ["A", "B", "A"]}', "clusters: 'A' is named twice"),
        ('{"replicas": 1, "clusters": [], "key": 1}', "key: must be a string, not 1"),
        ('{"replicas": 1, "clusters": [], "existing": {"A": -1}}', "existing.A: must not be negative"),
        (
            '{"replicas": 1, "clusters": [], "capacity": {"A": "1"}}',
            'capacity.A: must be an integer, not "1"',
        ),
        ('{"replicas": 1, "clusters": [], "capacity": []}', "capacity: must be an object, not an array"),
        (
            '{"replicas": 1, "clusters": [], "preferences": {"clusters": {"A": {"Weight": 1e3}}}}',
            "preferences.clusters.A.Weight: must be an integer, not 1e3",
        ),
        (
            '{"replicas": 1, "clusters": [], "preferences": []}',
            "preferences: must be an object, not an array",
        ),
    ],
)
def test_malformed_input_names_the_key(text: str | bytes, complaint: str) -> None:
    result = plan(text)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert complaint in result.stderr


def test_without_the_flag_it_says_what_to_give() -> None:
    result = CliRunner().invoke(commands, ["plan"])
    assert result.exit_code == 2
    assert "give --json" in result.stderr
