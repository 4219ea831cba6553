"""A Job's name on the command line: ``render``, or as kubectl writes it, ``job/render``."""

import re
from typing import Any, Final

import click

_KINDS: Final = frozenset({"job", "jobs", "job.batch", "jobs.batch", "job.v1.batch", "jobs.v1.batch"})
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class JobName(click.ParamType[str]):
    """An argument; its value is the plain name."""

    name = "job"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the kind away. Fails for another kind, and for what no object can be called."""
        kind, slash, rest = str(value).rpartition("/")
        if slash and kind.lower() not in _KINDS:
            self.fail(f"{value!r} is not a Job: give NAME or job/NAME", param, ctx)
        if not _NAME.fullmatch(rest):
            self.fail(f"{rest!r} is not the name of a Job", param, ctx)
        return rest


JOB_NAME: Final = JobName()
