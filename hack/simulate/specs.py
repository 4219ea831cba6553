"""Random Jobs."""

import random

from hack.simulate.process import MANAGED_BY
from hack.simulate.server import Manifest


def random_spec(rng: random.Random) -> Manifest:
    """A Job of any kind that is dispatched."""
    spec: Manifest = {
        "managedBy": MANAGED_BY,
        "parallelism": rng.choice([0, 1, 1, 2, 3, 4, 6]),
        "template": {"metadata": {}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}},
        "suspend": rng.random() < 0.15,
        "backoffLimit": rng.choice([0, 1, 2, 6, 6, 6]),
    }
    kind = rng.choice(["NonIndexed", "NonIndexed", "Indexed", "Indexed", "elastic", "queue"])
    if kind in ("NonIndexed", "Indexed"):
        spec["completions"] = rng.choice([0, 1, 2, 3, 5, 7, 9])
    if kind == "elastic":
        spec["completions"] = spec["parallelism"]
    if kind in ("Indexed", "elastic"):
        spec["completionMode"] = "Indexed"
        if rng.random() < 0.3:
            spec |= {"backoffLimitPerIndex": rng.choice([0, 1]), "backoffLimit": 2**31 - 1}
            if rng.random() < 0.4:
                spec["maxFailedIndexes"] = rng.choice([0, 1, 2])
        elif rng.random() < 0.3 and spec["completions"]:
            spec["successPolicy"] = {"rules": [{"succeededCount": rng.randint(1, spec["completions"])}]}
    if rng.random() < 0.15:
        spec["activeDeadlineSeconds"] = rng.choice([5, 60])
    return spec
