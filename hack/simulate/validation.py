"""The status validation of ``batch/v1`` Jobs (1.36), as far as a controller's writes can meet it."""

from collections.abc import Mapping
from typing import Any

from dispatcher.core.indexes import IndexSet

Manifest = Mapping[str, Any]
IRREVOCABLE = ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet")


def true_conditions(status: Manifest) -> set[str]:
    """The types of the conditions that stand at True."""
    return {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}


def status_faults(spec: Manifest, old: Manifest, new: Manifest) -> list[str]:
    """Why a status update is refused; empty when it is accepted. ``spec`` is the stored one."""
    faults: list[str] = []
    before, after = true_conditions(old), true_conditions(new)
    indexed = spec.get("completionMode") == "Indexed"
    completions = spec.get("completions")
    uncounted = new.get("uncountedTerminatedPods") or {}

    def number(field: str, status: Manifest = new) -> int:
        return int(status.get(field) or 0)

    for field in ("active", "succeeded", "failed", "ready", "terminating"):
        if number(field) < 0:
            faults.append(f"{field} is negative")
    if "SuccessCriteriaMet" in after and after & {"Failed", "FailureTarget"}:
        faults.append("SuccessCriteriaMet with a failure")
    if "Complete" in after and after & {"Failed", "FailureTarget"}:
        faults.append("Complete with a failure")
    faults += [f"{kind} was turned off" for kind in IRREVOCABLE if kind in before and kind not in after]
    if number("failed") < number("failed", old):
        faults.append("failed falls")
    elastic = indexed and completions is not None and completions == spec.get("parallelism")
    if number("succeeded") < number("succeeded", old) and not elastic:
        faults.append("succeeded falls")
    if ("Complete" in after) != ("completionTime" in new):
        faults.append("completionTime without Complete, or the other way")
    if "completionTime" in old and old["completionTime"] != new.get("completionTime"):
        faults.append("completionTime changes")
    if "completionTime" in new and new["completionTime"] < new.get("startTime", ""):
        faults.append("completionTime before startTime")
    if "Failed" in after - before and "FailureTarget" not in after:
        faults.append("Failed without FailureTarget")
    if "Complete" in after - before and "SuccessCriteriaMet" not in after:
        faults.append("Complete without SuccessCriteriaMet")
    if after & {"Complete", "Failed"}:
        if number("active") or number("terminating") or any(uncounted.values()):
            faults.append("finished with pods that run or are not counted")
        if "startTime" not in new and not (spec.get("suspend") and completions == 0):
            faults.append("finished without startTime")
    resumes = "Suspended" in before and any(
        c["type"] == "Suspended" and c.get("status") == "False" for c in new.get("conditions") or ()
    )
    moved = "startTime" in old and old["startTime"] != new.get("startTime")
    if moved and not spec.get("suspend") and not resumes:
        faults.append("startTime changes while running")
    counted = any(number(field) != number(field, old) for field in ("ready", "active"))
    if counted and number("ready") > number("active"):
        faults.append("ready above active")
    faults += _index_faults(spec, old, new, indexed=indexed)
    return faults


def _index_faults(spec: Manifest, old: Manifest, new: Manifest, *, indexed: bool) -> list[str]:
    faults: list[str] = []
    completed = failed = IndexSet()
    for field in ("completedIndexes", "failedIndexes"):
        text = new.get(field)
        try:
            found = IndexSet.parse(text)
        except ValueError as error:
            return [f"{field}: {error}"]
        if field == "completedIndexes":
            completed = found
        else:
            failed = found
        if text == old.get(field):
            continue
        if text and not indexed:
            faults.append(f"{field} on a NonIndexed Job")
        if found.intervals and found.intervals[-1][1] >= (spec.get("completions") or 0):
            faults.append(f"{field} {text} not below completions {spec.get('completions')}")
        if field == "failedIndexes" and text is not None and spec.get("backoffLimitPerIndex") is None:
            faults.append("failedIndexes without backoffLimitPerIndex")
    if len(completed & failed):
        faults.append("completedIndexes and failedIndexes overlap")
    return faults
