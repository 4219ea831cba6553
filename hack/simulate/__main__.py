"""``python -m hack.simulate --histories N --seed S --processes 2``: random histories, a table, a JSON file."""

import json
import multiprocessing
import sys
from collections import Counter
from pathlib import Path
from time import monotonic

import click

from hack.simulate.history import STEPS, Result, play, shrink


def _one(task: tuple[int, int]) -> Result:
    seed, steps = task
    result = play(seed, steps=steps)
    if not result.fault:
        result.log = []
    return result


def run(*, histories: int, seed: int, processes: int, steps: int, most_faults: int = 20) -> list[Result]:
    """Play histories seed … seed + histories - 1; ends early after many faults."""
    tasks = ((number, steps) for number in range(seed, seed + histories))
    results: list[Result] = []
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for result in pool.imap_unordered(_one, tasks, chunksize=20):
            results.append(result)
            if sum(bool(r.fault) for r in results) >= most_faults:
                pool.terminate()
                break
    return results


@click.command()
@click.option("--histories", default=10_000, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Seed of the first history; the others follow it.")
@click.option("--processes", default=2, show_default=True)
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--output", default="build/simulate.json", show_default=True)
def main(histories: int, seed: int, processes: int, steps: int, output: str) -> None:
    """Check the design's invariants over random histories."""
    started = monotonic()
    results = run(histories=histories, seed=seed, processes=processes, steps=steps)
    seconds = monotonic() - started
    faults = [result for result in results if result.fault]
    seen: Counter[str] = sum((result.seen for result in results), Counter())
    report = {
        "histories": len(results),
        "steps": steps,
        "seconds": round(seconds, 1),
        "perSecond": round(len(results) / seconds, 1),
        "faults": [{"seed": r.seed, "fault": r.fault} for r in faults],
        "seen": dict(seen.most_common()),
    }
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(report, indent=2) + "\n")
    for name, count in seen.most_common():
        click.echo(f"{name:<20} {count:>8}")
    click.echo(f"{len(results)} histories of {steps} steps, {len(faults)} faults, {seconds:.1f} s")
    for result in sorted(faults, key=lambda r: r.seed)[:10]:
        click.echo(f"seed {result.seed}: {result.fault[:300]}")
    if faults:
        shortest = min((shrink(r.seed, steps=steps) for r in faults[:3]), key=lambda r: len(r.log))
        click.echo(f"\nseed {shortest.seed}, shortened: {shortest.fault}\n" + "\n".join(shortest.log))
        sys.exit(1)


if __name__ == "__main__":
    main()
