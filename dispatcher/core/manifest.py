"""The manifest of a mirror: what the user wrote, without what belongs to the management cluster."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from dispatcher.core import names
from dispatcher.core.job import Job, Manifest
from dispatcher.core.placement import Share, compact_json, share_text

MAX_NAME = 63
LONGEST_RECORD = 1000
"""Characters of a share's record on its mirror. Ours are shorter, and what a worker makes up is not remembered."""
LEFT_OUT = frozenset({"managedBy", "ttlSecondsAfterFinished", "selector", "successPolicy"})
"""managedBy would stop the worker's own controller; a mirror that deletes itself by TTL would be run
again; the selector is generated; seeded indexes would count for a success policy."""


def short_hash(*parts: str, length: int = 8) -> str:
    """A short lower-case hash for names and labels; stable over processes."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:length]


def origin_value(management_uid: str, managed_by: str) -> str:
    """The origin label's value: two dispatchers never take each other's mirrors for their own."""
    return short_hash(management_uid, managed_by, length=16)


def bucket(job_uid: str) -> int:
    """0–255, by the Job's UID. Shards and watches select by it."""
    return hashlib.sha256(job_uid.encode()).digest()[0]


def pod_name_room(job: Job) -> int:
    """How long a mirror's name may be: Indexed pods are called ``<name>-<index>`` (a 63-character label)."""
    if job.indexed and job.completions:
        return MAX_NAME - len(str(job.completions - 1)) - 1
    return MAX_NAME


def suffixed_name(job: Job, share_id: int) -> str:
    """Another name for a mirror where the Job's own name is taken."""
    suffix = short_hash(job.uid, str(share_id))
    return f"{job.name[: pod_name_room(job) - len(suffix) - 1].rstrip('-.')}-{suffix}"


def _kept(mapping: Mapping[str, str] | None, generated: frozenset[str]) -> dict[str, str]:
    return {
        key: value
        for key, value in (mapping or {}).items()
        if key not in generated and not key.startswith(names.PREFIX)
    }


def user_labels(job: Job) -> dict[str, str]:
    """The labels a user set on the Job."""
    return _kept(job.manifest["metadata"].get("labels"), names.GENERATED_LABELS)


def user_annotations(job: Job) -> dict[str, str]:
    """The annotations a user set on the Job."""
    return _kept(job.annotations, names.GENERATED_ANNOTATIONS)


def template(job: Job) -> dict[str, Any]:
    """The pod template without the labels that the management API server generated."""
    result: dict[str, Any] = dict(job.spec["template"])
    metadata = dict(result.get("metadata") or {})
    metadata.pop("creationTimestamp", None)
    if not job.spec.get("manualSelector"):
        labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k not in names.GENERATED_LABELS}
        metadata.pop("labels", None)
        if labels:
            metadata["labels"] = labels
    result["metadata"] = metadata
    return result


def template_hash(template: Mapping[str, Any]) -> str:
    """Changes when the pod template changes."""
    return short_hash(json.dumps(template, sort_keys=True), length=16)


def applied_keys(labels: Iterable[str], annotations: Iterable[str]) -> str:
    """The keys of labels and annotations that came from the Job, as kept on the mirror."""
    return _applied_keys(tuple(labels), tuple(annotations))


@lru_cache(maxsize=1024)
def _applied_keys(labels: tuple[str, ...], annotations: tuple[str, ...]) -> str:
    """Most Jobs have the keys of others."""
    return compact_json({"labels": sorted(labels), "annotations": sorted(annotations)})


def elapsed_seconds(job: Job, now: datetime) -> int:
    """Whole seconds since the Job's startTime; 0 before it has one."""
    return max(0, int((now - job.start_time).total_seconds())) if job.start_time else 0


def remaining_deadline(job: Job, elapsed: int) -> int | None:
    """What is left of activeDeadlineSeconds for a mirror that starts ``elapsed`` seconds late."""
    return None if job.active_deadline is None else max(1, job.active_deadline - elapsed)


def mirror_labels(job: Job, share: Share, *, origin: str) -> dict[str, str]:
    """The labels by which a mirror is found and known for what it is."""
    return {
        names.ORIGIN_LABEL: origin,
        names.JOB_UID_LABEL: job.uid,
        names.SHARE_LABEL: str(share.id),
        names.BUCKET_LABEL: str(bucket(job.uid)),
    }


def make_mirror(
    job: Job,
    share: Share,
    *,
    origin: str,
    now: datetime,
    backoff_limit: int,
    seeded: bool,
    held: bool = False,
) -> dict[str, Any]:
    """The whole mirror of a share, ready to be POSTed.

    ``seeded`` False: it is made suspended, and waits for its status to be seeded (Indexed shares).
    ``held``: it is made suspended, and waits for ConfigMaps and Secrets.
    """
    spec = {key: value for key, value in job.spec.items() if key not in LEFT_OUT}
    if job.spec.get("manualSelector"):
        spec["selector"] = job.spec["selector"]
    pods = spec["template"] = template(job)
    labels, annotations = user_labels(job), user_annotations(job)
    spec["parallelism"] = share.parallelism
    if share.completions is not None:
        spec["completions"] = job.completions if share.interval is not None else share.completions
    spec["backoffLimit"] = backoff_limit
    spec["suspend"] = held or not seeded
    annotations |= {
        names.SHARE_ANNOTATION: share_text(share),
        names.JOB_NAME_ANNOTATION: job.name,
        names.TEMPLATE_ANNOTATION: template_hash(pods),
        names.APPLIED_ANNOTATION: applied_keys(labels, annotations),
    }
    if not seeded:
        annotations[names.SEEDED_ANNOTATION] = "false"
    if job.active_deadline is not None:
        elapsed = elapsed_seconds(job, now)
        spec["activeDeadlineSeconds"] = remaining_deadline(job, elapsed)
        annotations[names.ELAPSED_ANNOTATION] = str(elapsed)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": share.mirror,
            "namespace": job.namespace,
            "labels": labels | mirror_labels(job, share, origin=origin),
            "annotations": annotations,
        },
        "spec": spec,
    }


def recorded_share(mirror: Manifest) -> Mapping[str, Any] | None:
    """The share's record that a mirror carries, or None where it is missing or no JSON object."""
    text = (mirror["metadata"].get("annotations") or {}).get(names.SHARE_ANNOTATION)
    if not text:
        return None
    return _known_record(text) if len(text) <= LONGEST_RECORD else read_object(text)


def read_object(text: str) -> Mapping[str, Any] | None:
    """The JSON object in an annotation of ours on a mirror; None where it was edited to something else."""
    try:
        record = orjson.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


_known_record = lru_cache(maxsize=1024)(read_object)
