"""``kubectl dispatch plan``: what would go where, without creating anything."""

from collections.abc import Iterator

import click

from dispatcher.commands.explain import lines, waits
from dispatcher.commands.management import JOBS, ManagementCluster, connection_options
from dispatcher.commands.manifests import files_option, read_manifests
from dispatcher.commands.observing import observe
from dispatcher.commands.refusals import Manifest, WrongInput
from dispatcher.core import names
from dispatcher.core.actions import WriteJob
from dispatcher.core.decision import decide
from dispatcher.core.explanation import explain
from dispatcher.core.placement import parse_placement


@click.command()
@files_option
@connection_options
def plan(files: tuple[str, ...], management: ManagementCluster) -> None:
    """Show how a file's Jobs would be divided now, without creating anything.

    Clusters, policies and what is free are those of this moment. Objects that are no Jobs are passed over.

    \b
    Examples:
      kubectl dispatch plan -f job.yaml
      kubectl dispatch plan -f - < job.yaml
    """
    jobs = [it for it in read_manifests(files) if (it["apiVersion"], it["kind"]) == (JOBS, "Job")]
    if not jobs:
        raise WrongInput(f"{', '.join(files)}: no Job")
    for number, job in enumerate(jobs):
        click.echo("\n" * bool(number) + "\n".join(_planned(management, job)))


def _planned(management: ManagementCluster, job: Manifest) -> Iterator[str]:
    metadata, spec = job["metadata"], job.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("template"), dict):
        raise WrongInput(f"Job {metadata.get('name')}: spec.template is missing")
    metadata.setdefault("name", metadata.get("generateName", ""))
    job["status"] = {}
    spec.pop("suspend", None)  # a suspended Job is planned as it would be when it is resumed
    observation = observe(management, job)
    write = next((it for it in decide(observation).actions if isinstance(it, WriteJob)), None)
    after = dict(write.manifest) if write is not None else job
    text = (after["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION)
    yield f"Job {observation.job.key}"
    yield from waits(after)
    yield from lines(explain(observation, parse_placement(text) if text else None))
