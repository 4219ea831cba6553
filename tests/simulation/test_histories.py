"""Random histories of crashes, lost answers, edits and away clusters hold the design's invariants.

The long form is ``python -m hack.simulate``.
"""

from concurrent.futures import ProcessPoolExecutor

import pytest

from hack.simulate.__main__ import run
from hack.simulate.history import STEPS, shrink
from hack.simulate.validation import status_faults

HISTORIES = 10_000


def test_random_histories_hold_the_invariants() -> None:
    results = run(histories=HISTORIES, seed=1, processes=2, steps=STEPS, most_faults=1)
    broken = next((result for result in results if result.fault), None)
    if broken is not None:
        with ProcessPoolExecutor(1) as apart:  # a history replaces parts of the modules that it plays
            short = apart.submit(shrink, broken.seed).result()
        pytest.fail(f"seed {short.seed}: {short.fault}\n" + "\n".join(short.log))
    ends = {kind for result in results for kind in result.seen if kind.startswith("ends")}
    assert ends == {"ends Complete", "ends Failed"}


TRUE = {"status": "True"}


@pytest.mark.parametrize(
    ("spec", "old", "new", "complaint"),
    [
        pytest.param({}, {"failed": 2}, {"failed": 1}, "failed falls", id="failed-falls"),
        pytest.param({}, {"succeeded": 2}, {}, "succeeded falls", id="succeeded-falls"),
        pytest.param({}, {}, {"ready": 2, "active": 1}, "ready above active", id="ready-above-active"),
        pytest.param(
            {}, {"startTime": "a"}, {"startTime": "b"}, "startTime changes while running", id="start-moves"
        ),
        pytest.param(
            {},
            {"conditions": [{"type": "FailureTarget", **TRUE}]},
            {"conditions": []},
            "FailureTarget was turned off",
            id="verdict-taken-back",
        ),
        pytest.param(
            {"completions": 2, "completionMode": "Indexed"},
            {},
            {"completedIndexes": "2"},
            "completedIndexes 2 not below completions 2",
            id="index-out-of-range",
        ),
    ],
)
def test_the_model_refuses_what_an_api_server_refuses(
    spec: dict[str, object], old: dict[str, object], new: dict[str, object], complaint: str
) -> None:
    assert complaint in status_faults(spec, old, new)
