"""A Job as a worker cluster sends it: refused where no API server could send it, and cut to what is used of it.

A worker is foreign. What gets past here has the types, signs and bounds that validation of ``batch/v1`` guarantees,
so that nothing it says can break the handling of a Job or of another cluster; and it is small, whatever was sent.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from dispatcher.clusters.reply import Manifest

MAX_COUNT: Final = 2**31 - 1
"""Counters and sizes are int32."""
MAX_INDEXES: Final = 2**20
"""Characters of ``completedIndexes``; 100,000 indexes of which every other one is in it are half as many."""
MAX_UNCOUNTED: Final = 10_000
"""Pods in ``uncountedTerminatedPods``; the Job controller takes up 500 at once."""
MAX_ENTRIES: Final = 2_000
"""Labels or annotations; all annotations together may have 256 KiB."""
MAX_CONDITIONS: Final = 64
"""Conditions that are kept; others than the built-in ones may be there, by whoever may write the status."""
MAX_TEXT: Final = 1024
"""Characters that are kept of a condition's reason or message."""

_BYTES_OF_A_JOB: Final = 2048
_BYTES_OF_A_TEXT: Final = 100
"""Measured with CPython 3.11, rounded up."""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_UID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_WORD: Final = re.compile(r"[A-Za-z0-9._/-]{1,128}")
_SIZES: Final = (
    *("parallelism", "completions", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes"),
    "ttlSecondsAfterFinished",
)
_FLAGS: Final = ("suspend", "manualSelector")
_WORDS: Final = ("completionMode", "podReplacementPolicy", "managedBy")
_COUNTERS: Final = ("active", "ready", "terminating", "succeeded", "failed")
_BUILT_IN: Final = frozenset({"Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"})


class ForeignJobError(ValueError):
    """No API server sends this for a Job. The message names the object, as far as it can be, and the field."""


def kept(manifest: Manifest) -> Manifest:
    """What the dispatcher looks at of a worker's Job: metadata, the plain fields of its spec, its status.

    The pod template is left out: whether it is the Job's is told by an annotation of ours.

    :raises ForeignJobError: it is no Job that an API server could have sent.
    """
    metadata = _mapping(manifest.get("metadata"), "metadata", "a Job")
    what = _who(metadata)
    spec = _mapping(manifest.get("spec"), "spec", what)
    status = _mapping(manifest.get("status") or {}, "status", what)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(metadata, what),
        "spec": _spec(spec, what),
        "status": _status(status, what),
    }


def weight(job: Manifest) -> int:
    """About how many bytes of memory a Job takes that :func:`kept` has cut down."""
    metadata, status = job["metadata"], job["status"]
    size = _BYTES_OF_A_JOB + len(status.get("completedIndexes", "")) + len(status.get("failedIndexes", ""))
    for texts in (metadata.get("labels"), metadata.get("annotations")):
        for key, text in (texts or {}).items():
            size += _BYTES_OF_A_TEXT + len(key) + len(text)
    for uids in status.get("uncountedTerminatedPods", {}).values():
        size += (_BYTES_OF_A_TEXT + 36) * len(uids)
    for condition in status.get("conditions", ()):
        size += 4 * _BYTES_OF_A_TEXT + sum(map(len, condition.values()))
    return size


def check(manifest: Any, namespace: str, name: str) -> None:
    """:raises ForeignJobError: this is no answer to a request about the Job of that name."""
    found = kept(_mapping(manifest, "the answer", f"{namespace}/{name}"))["metadata"]
    if (found["namespace"], found["name"]) != (namespace, name):
        raise ForeignJobError(f"asked about {namespace}/{name}, answered about {_who(found)}")


def _who(metadata: Mapping[str, Any]) -> str:
    return f"{str(metadata.get('namespace'))[:63]}/{str(metadata.get('name'))[:253]}"


def _mapping(value: Any, field: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ForeignJobError(f"{what}: {field} is no object")
    return value


def _text(value: Any, pattern: re.Pattern[str], field: str, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ForeignJobError(f"{what}: {field} is not what an API server sets")
    return value


def _count(value: Any, field: str, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise ForeignJobError(f"{what}: {field} is no count")
    return value


def _texts(value: Any, field: str, what: str) -> dict[str, str]:
    found = _mapping(value or {}, field, what)
    if len(found) > MAX_ENTRIES:
        raise ForeignJobError(f"{what}: {field} has more than {MAX_ENTRIES} entries")
    if not all(isinstance(text, str) for text in found.values()):
        raise ForeignJobError(f"{what}: {field} holds something that is no text")
    return found


def _metadata(metadata: Mapping[str, Any], what: str) -> Manifest:
    result: Manifest = {
        "name": _text(metadata.get("name"), _NAME, "metadata.name", what),
        "namespace": _text(metadata.get("namespace"), _NAME, "metadata.namespace", what),
        "uid": _text(metadata.get("uid"), _UID, "metadata.uid", what),
    }
    version = metadata.get("resourceVersion", "")
    if not isinstance(version, str) or len(version) > 20 or not (version or "0").isdecimal():
        raise ForeignJobError(f"{what}: metadata.resourceVersion is no number")
    result["resourceVersion"] = version
    for field in ("labels", "annotations"):
        if field in metadata:
            result[field] = _texts(metadata[field], f"metadata.{field}", what)
    for field in ("creationTimestamp", "deletionTimestamp"):
        if metadata.get(field) is not None:
            result[field] = _text(metadata[field], _TIME, f"metadata.{field}", what)
    return result


def _spec(spec: Mapping[str, Any], what: str) -> Manifest:
    result: Manifest = {}
    for field in _SIZES:
        if spec.get(field) is not None:
            result[field] = _count(spec[field], f"spec.{field}", what)
    for field in _FLAGS:
        if spec.get(field) is not None:
            if not isinstance(spec[field], bool):
                raise ForeignJobError(f"{what}: spec.{field} is neither true nor false")
            result[field] = spec[field]
    for field in _WORDS:
        if spec.get(field) is not None:
            result[field] = _text(spec[field], _WORD, f"spec.{field}", what)
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is not None:
        if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 <= seconds < 2**63:
            raise ForeignJobError(f"{what}: spec.activeDeadlineSeconds is no count")
        result["activeDeadlineSeconds"] = seconds
    return result


def _status(status: Mapping[str, Any], what: str) -> Manifest:
    result: Manifest = {}
    for field in _COUNTERS:
        if status.get(field) is not None:
            result[field] = _count(status[field], f"status.{field}", what)
    for field in ("startTime", "completionTime"):
        if status.get(field) is not None:
            result[field] = _text(status[field], _TIME, f"status.{field}", what)
    for field in ("completedIndexes", "failedIndexes"):
        text = status.get(field)
        if text is not None:
            if not isinstance(text, str) or len(text) > MAX_INDEXES:
                raise ForeignJobError(f"{what}: status.{field} is no list of indexes")
            result[field] = text
    if status.get("uncountedTerminatedPods") is not None:
        result["uncountedTerminatedPods"] = _uncounted(status["uncountedTerminatedPods"], what)
    if status.get("conditions") is not None:
        result["conditions"] = _conditions(status["conditions"], what)
    return result


def _uncounted(value: Any, what: str) -> Manifest:
    field = "status.uncountedTerminatedPods"
    result: Manifest = {}
    for outcome in ("succeeded", "failed"):
        uids = _mapping(value, field, what).get(outcome)
        if uids is not None:
            if not isinstance(uids, list) or len(uids) > MAX_UNCOUNTED:
                raise ForeignJobError(f"{what}: {field}.{outcome} is no list of pods")
            result[outcome] = [_text(uid, _UID, f"{field}.{outcome}", what) for uid in uids]
    return result


def _conditions(value: Any, what: str) -> list[Manifest]:
    if not isinstance(value, list):
        raise ForeignJobError(f"{what}: status.conditions is no list")
    result: list[Manifest] = []
    others = 0
    for entry in value:
        condition = _mapping(entry, "status.conditions", what)
        fields = ("type", "status", "reason", "message", "lastTransitionTime")
        texts = {field: condition[field] for field in fields if condition.get(field) is not None}
        if not isinstance(texts.get("type"), str) or not all(isinstance(it, str) for it in texts.values()):
            raise ForeignJobError(f"{what}: a condition is not of texts")
        if texts["type"] not in _BUILT_IN:
            others += 1
            if others > MAX_CONDITIONS - len(_BUILT_IN):
                continue
        result.append({field: text[:MAX_TEXT] for field, text in texts.items()})
    return result if len(result) <= MAX_CONDITIONS else _last_of_each_type(result)


def _last_of_each_type(conditions: list[Manifest]) -> list[Manifest]:
    return list({entry["type"]: entry for entry in conditions}.values())
