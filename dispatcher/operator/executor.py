"""The hands: carries decisions out, and turns every outcome into something the next decision sees.

Writes to the Job (``job_writes``) are awaited, for what follows rests on them; those to mirrors (``mirror_writes``) run
beside. Every write passes one gate (``write_gate``), which asks whether this process may still act on the key.
"""

from typing import Any

from dispatcher.core.actions import (
    CopyDependencies,
    CreateMirror,
    Decision,
    DeleteMirror,
    PatchMirror,
    PostEvent,
    WriteJob,
)
from dispatcher.operator.job_writes import JobWriter
from dispatcher.operator.mirror_writes import MirrorWriter
from dispatcher.operator.queue import Key
from dispatcher.operator.write_gate import WriteGate


class Executor:
    """Carries out decisions for one management cluster."""

    def __init__(self, *, gate: WriteGate, jobs: JobWriter, mirrors: MirrorWriter) -> None:
        self.gate = gate
        self.jobs = jobs
        self.mirrors = mirrors

    async def carry_out(self, key: Key, job: dict[str, Any], decision: Decision) -> bool:
        """Start all actions in order. Returns whether the Job itself changed, so that it is decided anew;
        what a decision lists after a write of the Job is left to that.
        """
        uid = job["metadata"]["uid"]
        for action in decision.actions:
            if not self.gate.owns(uid):
                return False
            match action:
                case WriteJob():
                    return await self.jobs.write(key, job, action)
                case PostEvent(event=event):
                    self.jobs.record(key, job, event)
                case CreateMirror() | PatchMirror() | DeleteMirror() | CopyDependencies():
                    self.mirrors.start(key, uid, action)
        return False
