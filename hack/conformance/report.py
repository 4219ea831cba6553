"""The table (feature × scenarios × equal/differs) and build/conformance.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hack.conformance.differential import Result


def table(results: Sequence[Result]) -> str:
    """One line a feature, then what differs."""
    width = max([len(result.scenario.row) for result in results] or [7])
    lines = [
        f"{'FEATURE':<{width}} {'SCENARIOS':>9} {'EQUAL':>6} {'DOCUMENTED':>10} {'DIFFER':>6} {'ERRORS':>6}"
    ]
    rows = list(dict.fromkeys(result.scenario.row for result in results))
    for row in [*rows, ""]:
        of_row = [result for result in results if row in (result.scenario.row, "")]
        counts = {v: sum(r.verdict == v for r in of_row) for v in ("equal", "documented", "differs", "error")}
        lines.append(
            f"{row or 'all':<{width}} {len(of_row):>9} {counts['equal']:>6} {counts['documented']:>10} "
            f"{counts['differs']:>6} {counts['error']:>6}"
        )
    for result in results:
        if not result.passed:
            lines += ["", describe(result)]
    return "\n".join(lines)


def describe(result: Result) -> str:
    """What differs in one scenario, for a person."""
    lines = [f"{result.scenario.id} over {result.clusters} clusters: {result.verdict}"]
    if result.error:
        lines.append(f"  {result.error}")
    for point, fields in result.differences.items():
        for name, (builtin, dispatched) in fields.items():
            lines += [f"  {point}, {name}:", f"    built-in   {builtin}", f"    dispatched {dispatched}"]
    return "\n".join(lines)


def write(path: Path, results: Sequence[Result], *, seconds: float, rejected: float | None) -> None:
    """Everything, for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "seconds": round(seconds, 1),
        "statusWritesRejected": rejected,
        "scenarios": [result.record() for result in results],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
