"""The model's status validation says the same as a real API server, on random statuses."""

import random
import uuid
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.clusters.reply import Outcome
from hack.lab import Lab
from hack.simulate.validation import status_faults

pytestmark = pytest.mark.lab

WALKS = 12
STEPS = 40
MOMENTS = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z", "2026-01-01T00:00:09Z"]
SHAPES: list[dict[str, Any]] = [
    {"completions": 4, "parallelism": 2},
    {"completions": 4, "parallelism": 4, "completionMode": "Indexed"},
    {"completions": 4, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1},
    {"parallelism": 2},
    {"completions": 0, "parallelism": 1, "suspend": True},
    {"completions": 3, "parallelism": 1, "suspend": True},
]


def changed(rng: random.Random, status: dict[str, Any]) -> dict[str, Any]:
    """A status that differs from this one in one to three fields."""
    new = {**status, "conditions": [dict(entry) for entry in status.get("conditions", ())]}
    for _ in range(rng.randint(1, 3)):
        match rng.choice(["count", "count", "condition", "condition", "time", "indexes", "uncounted"]):
            case "count":
                field = rng.choice(["active", "ready", "terminating", "succeeded", "failed"])
                new[field] = rng.randint(0, 4)
            case "condition":
                kinds = ["SuccessCriteriaMet", "Complete", "FailureTarget", "Failed", "Suspended"]
                kind = rng.choice(kinds)
                new["conditions"] = [entry for entry in new["conditions"] if entry["type"] != kind]
                if rng.random() < 0.8:
                    value = "True" if kind != "Suspended" else rng.choice(["True", "False"])
                    new["conditions"].append(
                        {"type": kind, "status": value, "lastTransitionTime": MOMENTS[0]}
                    )
                if kind == "Complete":
                    new["completionTime"] = rng.choice(MOMENTS)
            case "time":
                field = rng.choice(["startTime", "startTime", "completionTime"])
                if rng.random() < 0.3:
                    new.pop(field, None)
                else:
                    new[field] = rng.choice(MOMENTS)
            case "indexes":
                field = rng.choice(["completedIndexes", "completedIndexes", "failedIndexes"])
                new[field] = rng.choice(["", "0", "1", "0,1", "0-2", "3", "4", "1,0", "2-", "x"])
            case "uncounted":
                new["uncountedTerminatedPods"] = rng.choice([{}, {"succeeded": ["a"]}, {"failed": ["b"]}])
    return new


async def test_the_model_agrees_with_a_real_api_server(lab: Lab) -> None:
    """Walks of accepted statuses, on Jobs that no controller looks at."""
    api = ApiServer(await load_kubeconfig_file(lab.management.kubeconfig))
    disagreements: list[str] = []
    accepted = refused = 0
    for walk in range(WALKS):
        rng = random.Random(walk)
        spec = SHAPES[walk % len(SHAPES)]
        container = {"name": "c", "image": "example.com/none"}
        manifest: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"validation-{uuid.uuid4().hex[:8]}", "namespace": "default"},
            "spec": {
                "managedBy": "example.com/nobody",
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
                **spec,
            },
        }
        created = await jobs.create_job(api, "default", manifest)
        assert created.body is not None, created
        job = created.body
        for _ in range(STEPS):
            status = changed(rng, job["status"])
            expected = status_faults(job["spec"], job["status"], status)
            reply = await jobs.replace_job_status(
                api, "default", manifest["metadata"]["name"], {**job, "status": status}
            )
            assert reply.outcome in (Outcome.OK, Outcome.INVALID), reply
            if reply.ok and reply.body is not None:
                accepted += 1
                job = reply.body
            else:
                refused += 1
            if reply.ok == bool(expected):
                disagreements.append(
                    f"{spec}: {status}: model {expected}, server {reply.message or 'accepts'}"
                )
        deleted = await jobs.delete_job(api, "default", job["metadata"]["name"], job["metadata"]["uid"])
        assert deleted.ok
    await api.close()
    assert not disagreements, "\n".join(disagreements[:5])
    assert min(accepted, refused) > WALKS, "both answers were tried"
