"""Jobs as a worker that means harm sends them: refused, or cut down to what cannot harm."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.clusters import foreign_jobs
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.foreign_jobs import ForeignJobError, check, kept, weight
from dispatcher.core import names
from dispatcher.core.actions import CreateMirror, DeleteMirror, PatchMirror, WriteJob
from dispatcher.core.mirror import read_mirror
from dispatcher.core.mirroring import MOST_STRAYS
from dispatcher.core.recovery import rebuild
from tests.unit.scene import Manifest, Scene, observe

MISSING = object()


def mirror(**spec: Any) -> Manifest:
    """A mirror as a worker shows it while it runs."""
    scene = Scene(completionMode="Indexed", **spec).settle()
    found = copy.deepcopy(next(iter(scene.mirrors.values())))
    found["metadata"]["resourceVersion"] = "7"
    found["status"] = {
        "active": 1,
        "ready": 1,
        "terminating": 0,
        "startTime": "2026-01-01T12:00:00Z",
        "completedIndexes": "2,3",
        "uncountedTerminatedPods": {},
        "conditions": [
            {"type": "Suspended", "status": "False", "reason": "JobResumed", "message": "Job resumed"}
        ],
    }
    return found


def changed(path: str, value: Any) -> Manifest:
    """That mirror with one field changed; MISSING takes it away."""
    found = mirror()
    *way, last = path.split(".")
    place = found
    for key in way:
        place = place.setdefault(key, {})
    if value is MISSING:
        place.pop(last, None)
    else:
        place[last] = value
    return found


def test_what_decisions_read_is_kept_and_the_rest_is_not() -> None:
    found = kept(mirror())
    assert found["status"] == mirror()["status"]
    assert found["spec"] == {k: v for k, v in mirror()["spec"].items() if k != "template"}
    assert found["metadata"] == mirror()["metadata"]
    grown = changed("metadata.managedFields", [{"manager": "x"}])
    grown["spec"]["podFailurePolicy"] = {"rules": [{"action": "Ignore"}] * 20}
    assert kept(grown) == found


REFUSED = [
    ("metadata", ["x"], "metadata"),
    ("metadata.name", MISSING, "metadata.name"),
    ("metadata.name", "a/../b", "metadata.name"),
    ("metadata.name", "x" * 300, "metadata.name"),
    ("metadata.namespace", "", "metadata.namespace"),
    ("metadata.namespace", 5, "metadata.namespace"),
    ("metadata.uid", "", "metadata.uid"),
    ("metadata.uid", "a b", "metadata.uid"),
    ("metadata.resourceVersion", "many", "metadata.resourceVersion"),
    ("metadata.resourceVersion", "9" * 30, "metadata.resourceVersion"),
    ("metadata.labels", ["a"], "metadata.labels"),
    ("metadata.labels", {"a": {"b": "c"}}, "metadata.labels"),
    ("metadata.annotations", {"a": 1}, "metadata.annotations"),
    ("metadata.annotations", {f"a{i}": "" for i in range(5000)}, "entries"),
    ("metadata.deletionTimestamp", "now", "deletionTimestamp"),
    ("spec", MISSING, "spec"),
    ("spec", "text", "spec"),
    ("spec.parallelism", -1, "spec.parallelism"),
    ("spec.parallelism", "2", "spec.parallelism"),
    ("spec.completions", 2**31, "spec.completions"),
    ("spec.completions", 1.5, "spec.completions"),
    ("spec.backoffLimit", True, "spec.backoffLimit"),
    ("spec.activeDeadlineSeconds", 2**64, "activeDeadlineSeconds"),
    ("spec.suspend", "no", "spec.suspend"),
    ("status", ["x"], "status"),
    ("status.succeeded", -1, "status.succeeded"),
    ("status.succeeded", "3", "status.succeeded"),
    ("status.failed", 2**31, "status.failed"),
    ("status.active", 1e300, "status.active"),
    ("status.ready", True, "status.ready"),
    ("status.terminating", [], "status.terminating"),
    ("status.startTime", "yesterday", "status.startTime"),
    ("status.completionTime", "2026-01-01T00:00:00", "status.completionTime"),
    ("status.completionTime", 5, "status.completionTime"),
    ("status.completedIndexes", 5, "status.completedIndexes"),
    ("status.completedIndexes", "1," * 2**20, "status.completedIndexes"),
    ("status.failedIndexes", ["1"], "status.failedIndexes"),
    ("status.uncountedTerminatedPods", [], "uncountedTerminatedPods"),
    ("status.uncountedTerminatedPods", {"failed": "all"}, "uncountedTerminatedPods"),
    ("status.uncountedTerminatedPods", {"failed": [{}]}, "uncountedTerminatedPods"),
    ("status.uncountedTerminatedPods", {"failed": ["u"] * 20_000}, "uncountedTerminatedPods"),
    ("status.conditions", {}, "conditions"),
    ("status.conditions", ["Complete"], "conditions"),
    ("status.conditions", [{"status": "True"}], "condition"),
    ("status.conditions", [{"type": "Complete", "status": True}], "condition"),
    ("status.conditions", [{"type": ["Complete"], "status": "True"}], "condition"),
]


@pytest.mark.parametrize(("path", "value", "words"), REFUSED, ids=lambda it: repr(it)[:30])
def test_what_no_api_server_sends_is_refused(path: str, value: Any, words: str) -> None:
    with pytest.raises(ForeignJobError) as refusal:
        kept(changed(path, value))
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("manifest", [None, [], "Job", 3, {}], ids=repr)
def test_an_answer_that_is_no_object(manifest: Any) -> None:
    with pytest.raises(ForeignJobError):
        check(manifest, "team", "pi")


def test_an_answer_about_another_job() -> None:
    check(mirror(), "team", "pi")
    for namespace, name in (("kube-system", "pi"), ("team", "other")):
        with pytest.raises(ForeignJobError, match="answered about team/pi"):
            check(mirror(), namespace, name)


def test_thousands_of_conditions_are_cut_and_the_built_in_ones_kept() -> None:
    """Anyone who may write the status can put them there: that is no fault of the cluster."""
    many = [{"type": f"t{i}", "status": "True", "message": "x" * 9000} for i in range(5000)]
    done = {"type": "Complete", "status": "True", "reason": "R" * 5000, "message": "m" * 5000}
    found = kept(changed("status.conditions", [*many, done]))["status"]["conditions"]
    assert len(found) <= foreign_jobs.MAX_CONDITIONS
    assert found[-1] == {"type": "Complete", "status": "True", "reason": "R" * 1024, "message": "m" * 1024}
    again = kept(changed("status.conditions", [done] * 5000))["status"]["conditions"]
    assert [entry["type"] for entry in again] == ["Complete"]


def test_a_refused_object_changes_nothing_in_the_cache() -> None:
    seen: list[Any] = []
    cache = ObjectCache(
        trim=kept, on_change=lambda *it: seen.append(it), on_delete=lambda *it: seen.append(it)
    )
    cache.put(mirror())
    seen.clear()
    worse = changed("status.succeeded", -5)
    worse["metadata"]["resourceVersion"] = "8"
    other = changed("status.succeeded", -5)
    other["metadata"] |= {"uid": "other", "resourceVersion": "9"}
    for manifest in (worse, other):
        with pytest.raises(ForeignJobError):
            cache.put(manifest)
        with pytest.raises(ForeignJobError):
            cache.delete(manifest)
    assert seen == []
    assert cache.get("team", "pi") == kept(mirror())
    assert cache.put(changed("metadata.resourceVersion", "8"))


def test_a_cache_knows_when_it_is_full_and_what_left_it() -> None:
    cache = ObjectCache(trim=kept, weigh=weight, max_weight=3 * weight(kept(mirror())))
    for number in range(4):
        manifest = mirror()
        manifest["metadata"] |= {"name": f"m{number}", "uid": f"u{number}"}
        assert not cache.is_full
        cache.put(manifest)
    assert cache.is_full
    cache.gone("team", "m0", "u0")
    cache.delete(manifest)
    cache.put(changed("metadata.resourceVersion", "9"))
    cache.put(changed("metadata.resourceVersion", "10"))
    assert cache.weight == sum(map(weight, cache))
    cache.clear()
    assert cache.weight == 0


ODD_TEXTS = st.one_of(
    st.sampled_from(
        ["", "abc", "-1", "1e9", "9" * 400, "null", "[]", "{}", "\u0663", "\x00", "true", "0-", "3-1"]
    ),
    st.sampled_from(
        [
            '{"labels":[{"a":1}],"annotations":[[1]]}',
            '{"labels":"x"}',
            '{"id":0,"cluster":"a","mirror":"pi","indexes":5,"parallelism":"x","epoch":-1}',
            '{"id":[],"indexes":["1"],"epoch":true}',
            "[" * 2000,
            "0-9999999999999999999999",
            "1,1,1",
            "5,4",
        ]
    ),
    st.text(max_size=20),
)
COUNTS = st.one_of(st.integers(0, 5), st.just(2**31 - 1))
TIMES = st.sampled_from(["0000-00-00T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01T12:00:01+14:00"])
ANNOTATIONS = (
    names.SHARE_ANNOTATION,
    names.SEEDED_ANNOTATION,
    names.TEMPLATE_ANNOTATION,
    names.ELAPSED_ANNOTATION,
    names.APPLIED_ANNOTATION,
    names.CREDITED_ANNOTATION,
    names.WOUND_DOWN_ANNOTATION,
    names.JOB_NAME_ANNOTATION,
)
KINDS = ("Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet", "Mine")
LIE = st.fixed_dictionaries(
    {},
    optional={
        "annotations": st.dictionaries(st.sampled_from(ANNOTATIONS), ODD_TEXTS, max_size=3),
        "labels": st.dictionaries(
            st.sampled_from([names.SHARE_LABEL, names.BUCKET_LABEL]), ODD_TEXTS, max_size=2
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "parallelism": COUNTS,
                "completions": COUNTS,
                "suspend": st.booleans(),
                "backoffLimit": COUNTS,
            },
        ),
        "status": st.fixed_dictionaries(
            {},
            optional={
                "active": COUNTS,
                "ready": COUNTS,
                "terminating": COUNTS,
                "succeeded": COUNTS,
                "failed": COUNTS,
                "startTime": TIMES,
                "completionTime": TIMES,
                "completedIndexes": ODD_TEXTS,
                "failedIndexes": ODD_TEXTS,
                "uncountedTerminatedPods": st.just({"succeeded": ["a"], "failed": ["b", "b"]}),
                "conditions": st.lists(
                    st.fixed_dictionaries(
                        {"type": st.sampled_from(KINDS), "status": st.sampled_from(["True", "False", "odd"])},
                        optional={"reason": ODD_TEXTS, "message": ODD_TEXTS},
                    ),
                    max_size=3,
                ),
            },
        ),
    },
)
JOBS: dict[str, Manifest] = {
    "fixed": {},
    "indexed": {"completionMode": "Indexed", "backoffLimitPerIndex": 2},
    "elastic": {"completionMode": "Indexed", "completions": 4, "parallelism": 4},
    "work queue": {"completions": None},
    "with a deadline": {"activeDeadlineSeconds": 60},
}


@pytest.mark.parametrize("spec", JOBS.values(), ids=JOBS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=LIE, second=LIE)
def test_whatever_gets_past_the_check_never_breaks_a_decision(
    spec: Manifest, first: Any, second: Any
) -> None:
    """Nor makes it write a status that the API server would refuse, or go on for ever."""
    scene = Scene(**spec).settle()
    for lie, key in zip((first, second), sorted(scene.mirrors), strict=True):
        told = copy.deepcopy(scene.mirrors[key])
        told["metadata"]["annotations"] |= lie.get("annotations", {})
        told["metadata"]["labels"] |= lie.get("labels", {})
        told["metadata"]["resourceVersion"] = "9"
        told["spec"] |= lie.get("spec", {})
        told["status"] |= lie.get("status", {})
        scene.mirrors[key] = kept(told)
    for gone in ((), tuple(scene.mirrors)):
        for key in gone:
            scene.gone.append((key[0], scene.mirrors.pop(key)))
        decision = scene.decide()
        for action in decision.actions:
            if isinstance(action, WriteJob):
                told = action.manifest["status"]
                for field in ("active", "ready", "terminating", "succeeded", "failed"):
                    assert 0 <= told.get(field, 0) < 2**31
                json.dumps(action.manifest)
    mirrors = tuple(read_mirror(m, names.ClusterName(cluster)) for cluster, m in scene.gone)
    rebuild(observe(scene.job, mirrors=mirrors))


def test_sums_of_lies_fit_into_a_status() -> None:
    scene = Scene(completions=None, parallelism=4).settle()
    for cluster in ("a", "b"):
        scene.report(cluster, active=2**31 - 1, ready=2**31 - 1, failed=2**31 - 1, terminating=2**31 - 1)
    for action in scene.decide().actions:
        if isinstance(action, WriteJob):
            status = action.manifest["status"]
            assert max(status["failed"], status["ready"], status["terminating"]) == 2**31 - 1
            return
    raise AssertionError("no status was written")


def test_mirrors_that_a_cluster_made_up_are_acted_on_in_small_numbers_and_only_there() -> None:
    """With the right Job's UID, in the right namespace, and running."""
    scene = Scene().settle()
    honest = dict(scene.mirrors)
    for number in range(500):
        made_up = copy.deepcopy(honest["a", "pi"])
        made_up["metadata"] |= {"name": f"made-up-{number}", "uid": f"made-up-{number}"}
        made_up["metadata"]["labels"] |= {names.SHARE_LABEL: str(100 + number)}
        made_up["metadata"]["annotations"].pop(names.SHARE_ANNOTATION)
        made_up["status"] |= {"active": 5}
        scene.mirrors["a", f"made-up-{number}"] = made_up
    actions = [
        it for it in scene.decide().actions if isinstance(it, PatchMirror | DeleteMirror | CreateMirror)
    ]
    assert 0 < len(actions) <= MOST_STRAYS
    assert {action.cluster for action in actions} == {"a"}
    assert {action.name for action in actions} <= {f"made-up-{number}" for number in range(500)}
