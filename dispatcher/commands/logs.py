"""``kubectl dispatch logs``: the logs of all of a Job's pods, as one stream."""

import sys
from math import ceil
from typing import IO, Final

import click

from dispatcher.commands import colours
from dispatcher.commands.completing import complete_clusters, complete_jobs
from dispatcher.commands.durations import DURATION
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.log_stream import Follow, once
from dispatcher.commands.management import ManagementCluster, connection_options
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.view_api import explained, view_path

_COLOURS: Final = (
    "cyan",
    "green",
    "yellow",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_magenta",
)


@click.command()
@click.argument("job", type=JOB_NAME, shell_complete=complete_jobs)
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written, until the Job has ended.")
@click.option("--cluster", metavar="CLUSTER", shell_complete=complete_clusters, help="Of this cluster only.")
@click.option("--index", type=click.IntRange(min=0), help="Of this completion index only.")
@click.option("--pod", metavar="POD", help="Of this pod only.")
@click.option("-c", "--container", metavar="CONTAINER", help="Of this container (default: the pod's first).")
@click.option("-p", "--previous", is_flag=True, help="Of the container before its last restart.")
@click.option(
    "--tail", type=click.IntRange(min=-1), default=-1, help="So many last lines of each pod; -1 for all."
)
@click.option(
    "--since", type=DURATION, metavar="DURATION", help="Newer than this, such as 5s, 2m or 3h; 0 for all."
)
@click.option("--timestamps", is_flag=True, help="A timestamp before each line.")
@click.option(
    "--prefix/--no-prefix",
    default=None,
    help="Cluster and pod before each line (default: unless --pod is given).",
)
@connection_options
def logs(
    job: str,
    follow: bool,
    cluster: str | None,
    index: int | None,
    pod: str | None,
    container: str | None,
    previous: bool,
    tail: int,
    since: float | None,
    timestamps: bool,
    prefix: bool | None,
    management: ManagementCluster,
) -> None:
    """Print the logs of a Job's pods on all clusters.

    They are read through the management API server, with your own rights: get on pods/log in the namespace, and on
    jobs/log of view.jobdispatcher.io. What is missing is said on standard error; the exit code is 1 then.
    A follow whose connection breaks goes on where it was; a cluster that was away and came back is not missing.

    \b
    Examples:
      kubectl dispatch logs render
      kubectl dispatch logs render -f --tail 10
      kubectl dispatch logs render --cluster worker-1 --index 3 --timestamps
    """
    if follow and previous:
        raise click.UsageError("only one of --follow and --previous can be given")
    given = {
        "cluster": cluster,
        "index": index,
        "pod": pod,
        "container": container,
        "tailLines": None if tail < 0 else tail,
        "sinceSeconds": max(1, ceil(since)) if since else None,
    }
    parameters: dict[str, str | int] = {key: value for key, value in given.items() if value is not None}
    for key, flag in (("follow", follow), ("previous", previous), ("timestamps", timestamps)):
        if flag:
            parameters[key] = "true"
    parameters["frames"] = "true"
    path = view_path(management, job, "log")
    printer = Printer(
        sys.stdout.buffer, prefix=prefix if prefix is not None else not pod, coloured=colours.are_wanted()
    )
    try:
        if follow:
            frames = Follow(management, path, parameters, timestamps=timestamps).frames()
        else:
            frames = once(management, path, parameters)
        for head, content in frames:
            printer.show(head, content)
    except BrokenPipeError:
        # Whoever reads has enough, as in `logs | head`. Python would complain once more at its end.
        sys.stdout = None
        return
    except ClusterSaysNo as error:
        raise explained(management, error) from None
    if follow and printer.away:
        names = ", ".join(sorted(printer.away))
        click.echo(f"error: the logs of {names} are not complete: away when the Job ended", err=True)
    if printer.away or printer.incomplete:
        raise click.exceptions.Exit(1)


class Printer:
    """Prints blocks of whole lines, each pod in its own colour."""

    def __init__(self, stream: IO[bytes], *, prefix: bool, coloured: bool) -> None:
        self._stream = stream
        self._prefix = prefix
        self._coloured = coloured
        self._before: dict[tuple[str, str, str], bytes] = {}
        self.away: set[str] = set()
        """The clusters that are missing now."""
        self.incomplete = False
        """Whether something else could not be read."""

    def show(self, head: Manifest, content: bytes) -> None:
        """Print one frame; notices go to standard error."""
        if "notice" in head:
            self._note(head)
            word = "error" if head.get("error") else "note"
            self._stream.flush()
            click.echo(f"{word}: {head['notice']}", err=True)
            return
        if self._prefix:
            before = self._prefix_of(head)
            content = before + content[:-1].replace(b"\n", b"\n" + before) + b"\n"
        self._stream.write(content)
        self._stream.flush()

    def _note(self, notice: Manifest) -> None:
        if "missing" in notice:
            self.away.add(notice["missing"])
        elif "back" in notice:
            self.away.discard(notice["back"])
        elif notice.get("anew"):
            self.away.clear()
        else:
            self.incomplete = self.incomplete or bool(notice.get("error"))

    def _prefix_of(self, head: Manifest) -> bytes:
        key = (head["cluster"], head["pod"], head["container"])
        if key not in self._before:
            text = f"[{key[0]}/{key[1]}]"
            if self._coloured:
                text = colours.paint(text, _COLOURS[len(self._before) % len(_COLOURS)])
            self._before[key] = f"{text} ".encode()
        return self._before[key]
