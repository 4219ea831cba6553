import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.names import ClusterName
from dispatcher.core.preferences import EVEN, ClusterPreferences, PreferencesError, parse_preferences

A, B, STAR = ClusterName("A"), ClusterName("B"), ClusterName("*")


def test_all_keys() -> None:
    preferences = parse_preferences(
        '{"rebalance": true, "clusters": {"A": {"minReplicas": 1, "maxReplicas": 5, "weight": 2}, "*": {}}}'
    )
    assert preferences.rebalance
    assert preferences.clusters == {
        A: ClusterPreferences(min_replicas=1, max_replicas=5, weight=2),
        STAR: ClusterPreferences(),
    }


def test_keys_without_regard_to_case_but_names_exact() -> None:
    preferences = parse_preferences(
        '{"REBALANCE": true, "Clusters": {"A": {"MinReplicas": 1, "MAXREPLICAS": 5, "wEIGHT": 2}}}'
    )
    assert preferences.rebalance
    assert preferences.of(A) == ClusterPreferences(min_replicas=1, max_replicas=5, weight=2)
    assert preferences.of(ClusterName("a")) is None


def test_keys_fold_the_long_s_as_go_does() -> None:
    assert parse_preferences('{"cluſters": {"A": {"minReplicaſ": 3}}}').of(A) == ClusterPreferences(
        min_replicas=3
    )


def test_a_name_of_its_own_replaces_the_star_as_a_whole() -> None:
    preferences = parse_preferences(
        '{"clusters": {"*": {"weight": 1, "maxReplicas": 2}, "A": {"minReplicas": 1}}}'
    )
    assert preferences.of(A) == ClusterPreferences(min_replicas=1)
    assert preferences.of(B) == ClusterPreferences(weight=1, max_replicas=2)


@pytest.mark.parametrize("text", ["{}", "null", '{"clusters": null}', '{"clusters": {}}', " \t\r\n{ } "])
def test_nothing_named_leaves_every_cluster_out(text: str) -> None:
    assert parse_preferences(text).of(A) is None


@pytest.mark.parametrize("text", ['{"clusters": {"A": null}}', '{"clusters": {"A": {"weight": null}}}'])
def test_null_is_not_given(text: str) -> None:
    assert parse_preferences(text).of(A) == ClusterPreferences()


def test_unknown_keys_may_hold_anything() -> None:
    text = f'{{"x": 1.5, "clusters": {{"A": {{"weight": 1, "y": [{"9" * 5000}, 1e999, {{}}]}}}}}}'
    assert parse_preferences(text).of(A) == ClusterPreferences(weight=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"weight": 1, "Weight": 2}', ClusterPreferences(weight=2)),
        ('{"Weight": 2, "weight": 1}', ClusterPreferences(weight=1)),
        ('{"weight": 3, "weight": null}', ClusterPreferences(weight=3)),
        ('{"maxReplicas": 3, "maxReplicas": null}', ClusterPreferences()),
    ],
)
def test_the_last_of_equal_keys_counts(text: str, expected: ClusterPreferences) -> None:
    assert parse_preferences(f'{{"clusters": {{"A": {text}}}}}').of(A) == expected


def test_equal_keys_with_objects_add_up_as_in_go() -> None:
    text = '{"clusters": {"A": {"weight": 1, "minReplicas": 1}}, "Clusters": {"B": {}, "A": {"weight": 2}}}'
    preferences = parse_preferences(text)
    assert preferences.clusters == {A: ClusterPreferences(weight=2), B: ClusterPreferences()}
    assert parse_preferences('{"clusters": {"A": {}}, "CLUSTERS": null}').clusters == {}


@pytest.mark.parametrize("number", ["0", "-0", "1", str(2**63 - 1)])
def test_integers(number: str) -> None:
    assert parse_preferences(f'{{"clusters": {{"A": {{"weight": {number}}}}}}}').of(A) == ClusterPreferences(
        weight=int(number)
    )


@pytest.mark.parametrize("field", ["minReplicas", "maxReplicas", "Weight"])
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("1.0", "must be an integer, not 1.0"),
        ("1e3", "must be an integer, not 1e3"),
        ("1E3", "must be an integer, not 1E3"),
        ('"1"', 'must be an integer, not "1"'),
        ("true", "must be an integer, not true"),
        ("{}", "must be an integer, not an object"),
        ("[1]", "must be an integer, not an array"),
        ("-1", "must not be negative, but is -1"),
        (str(2**63), "out of range"),
        ("9" * 5000, "out of range"),
        ("-" + "9" * 5000, "out of range"),
    ],
)
def test_wrong_numbers_are_refused_by_name(field: str, value: str, complaint: str) -> None:
    with pytest.raises(PreferencesError) as raised:
        parse_preferences(f'{{"clusters": {{"A": {{"{field}": {value}}}}}}}')
    assert str(raised.value).startswith(f"clusters.A.{field}: ")
    assert complaint in str(raised.value)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "malformed JSON: Expecting value at line 1, column 1"),
        ("{", "malformed JSON"),
        ("{} {}", "malformed JSON: Extra data at line 1, column 4"),
        ("{'rebalance': true}", "malformed JSON"),
        ('{"rebalance": true,}', "malformed JSON"),
        ('{"x": NaN}', "NaN is not a JSON value"),
        ('{"x": -Infinity}', "-Infinity is not a JSON value"),
        ('{"x": 01}', "malformed JSON"),
        ("\ufeff{}", "malformed JSON"),
        ("[" * 200_000, "nested too deeply"),
        ("[]", "the whole text: must be an object, not an array"),
        ('"x"', 'the whole text: must be an object, not "x"'),
        ("1", "the whole text: must be an object, not 1"),
        ("false", "the whole text: must be an object, not false"),
        ('{"rebalance": "true"}', 'rebalance: must be true or false, not "true"'),
        ('{"rebalance": 1}', "rebalance: must be true or false, not 1"),
        ('{"clusters": []}', "clusters: must be an object, not an array"),
        ('{"Clusters": {"A": 1}}', "Clusters.A: must be an object, not 1"),
        ('{"clusters": {"\\ud800": 1}}', "clusters.\\ufffd: must be an object, not 1"),
    ],
)
def test_malformed_text_says_what_and_where(text: str, complaint: str) -> None:
    with pytest.raises(PreferencesError) as raised:
        parse_preferences(text)
    assert complaint in str(raised.value)
    str(raised.value).encode()


def test_even() -> None:
    assert EVEN.of(A) == ClusterPreferences(weight=1)
    assert not EVEN.rebalance


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["clusters", "A", "weight", "x"]), inner),
)


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(PreferencesError):
        assert all(own.weight >= 0 for own in parse_preferences(text).clusters.values())
