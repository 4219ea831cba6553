"""A run's figures, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from hack.chaos.run import Outcome

JSON = dict[str, Any]
SHOWN = 20


def figures(outcome: Outcome) -> JSON:
    """One run. Times in seconds."""
    kinds = Counter(plan.kind for plan in outcome.plans)
    return {
        "seed": outcome.settings.seed,
        "passed": outcome.passed,
        "clusters": outcome.clusters,
        "seconds": round(outcome.seconds, 1),
        "jobs": len(outcome.plans),
        "jobKinds": dict(sorted(kinds.items())),
        "ends": dict(outcome.ends.most_common()),
        "indexes": outcome.indexes,
        "podRuns": len(outcome.runs),
        "reruns": dict(outcome.causes.most_common()),
        "faults": len(outcome.injected),
        "faultKinds": dict(Counter(str(entry.fault.kind) for entry in outcome.injected).most_common()),
        "faultSeconds": round(sum(entry.end - entry.begin for entry in outcome.injected), 1),
        "faultList": [
            {
                "kind": str(entry.fault.kind),
                "target": entry.fault.target,
                "begin": round(entry.begin, 2),
                "end": round(entry.end, 2),
            }
            for entry in outcome.injected
        ],
        "longestStall": {
            "seconds": round(outcome.stall[0], 1),
            "job": outcome.stall[1],
            "during": outcome.stall[2],
        },
        "recovery": round(outcome.recovery, 1),
        "longestUnreported": round(outcome.unreported, 1),
        "longestUnpublished": round(outcome.unpublished, 1),
        "rejectedStatusWrites": max(len(outcome.rejected), int(outcome.rejected_metric)),
        "rejectedStatusWriteList": outcome.rejected,
        "dispatcherEndedByItself": outcome.dispatcher_ended,
        "tracebacksLogged": outcome.tracebacks,
        "violations": [str(violation) for violation in outcome.violations],
    }


def show(console: Console, run: JSON) -> None:
    """Print one run."""
    table = Table(
        "", "", title=f"seed {run['seed']}, {run['clusters']} clusters", box=None, show_header=False
    )
    table.title_justify = "left"
    table.add_row("faults injected", f"{run['faults']} ({run['faultSeconds']:.0f} s together)")
    for kind, count in run["faultKinds"].items():
        table.add_row("", f"{count} {kind}")
    table.add_row("Jobs", f"{run['jobs']} of {len(run['jobKinds'])} kinds")
    for end, count in run["ends"].items():
        table.add_row("", f"{count} {end}")
    table.add_row("indexes and completions", str(run["indexes"]))
    table.add_row("runs of pods", str(run["podRuns"]))
    table.add_row("re-runs", str(sum(run["reruns"].values())))
    for cause, count in run["reruns"].items():
        table.add_row("", f"{count} {cause}")
    stall = run["longestStall"]
    table.add_row("longest stall", f"{stall['seconds']:.1f} s: {stall['job']}, during: {stall['during']}")
    table.add_row("last pod's end → the Job's, longest", f"{run['longestUnreported']:.1f} s")
    table.add_row("last mirror's end → the Job's, longest", f"{run['longestUnpublished']:.1f} s")
    table.add_row("last fault's end → the last Job's", f"{run['recovery']:.1f} s")
    table.add_row("rejected status writes", str(run["rejectedStatusWrites"]))
    table.add_row("dispatcher ended by itself", str(run["dispatcherEndedByItself"]))
    table.add_row("lost, doubled or left over", str(len(run["violations"])))
    for text in run["violations"][:SHOWN]:
        table.add_row("", text)
    table.add_row("time", f"{run['seconds']:.0f} s")
    console.print(table, soft_wrap=True)
