"""Jobs of all kinds while their clusters' parts are killed, stopped, cut off and lied to: nothing lost, nothing twice.

The long form is ``python -m hack.chaos``. JOB_DISPATCHER_CHAOS_SEED plays another seed.
"""

import os

from hack.chaos.faults import Kind
from hack.chaos.run import ChaosRun, Settings
from hack.lab import Lab

JOBS = 40
FAULTS = len(Kind)
"""Each kind of fault once."""
SECONDS = 70.0
SEED = int(os.environ.get("JOB_DISPATCHER_CHAOS_SEED", "5"))


async def test_faults_at_random_points_cost_only_time(lab: Lab) -> None:
    settings = Settings(jobs=JOBS, faults=FAULTS, seconds=SECONDS, seed=SEED)
    outcome = await ChaosRun(lab, settings, report=print).play()
    again = f"again: python -m hack.chaos --jobs {JOBS} --faults {FAULTS} --seconds {SECONDS:g} --seed {SEED}"
    assert not outcome.violations, "\n".join([*map(str, outcome.violations), again])
    assert not outcome.rejected, again
    assert outcome.rejected_metric == 0, again
    assert outcome.dispatcher_ended == 0, again
    assert {entry.fault.kind for entry in outcome.injected} == set(Kind)
    assert len(outcome.runs) >= outcome.indexes > 0, "the pods ran, and were seen to"
