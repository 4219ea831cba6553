"""Which objects a pod template names, what is written on a worker, and how mirrors wait for it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.actions import CopyDependencies, CreateMirror, ObjectRef, PatchMirror
from dispatcher.core.dependencies import Fault, Provision, Source, Step, make_copy, named_by, step
from dispatcher.core.policy import Policy
from tests.unit.scene import NOW, Scene, clusters, condition

BOTH = frozenset({"ConfigMap", "Secret"})
SETTINGS = ObjectRef("ConfigMap", "settings")
PASSWORD = ObjectRef("Secret", "password")
A = names.ClusterName("a")
Manifest = dict[str, Any]


def container(**fields: Any) -> Manifest:
    return {"name": "c", "image": "i", **fields}


def variable(field: str, name: str, **more: Any) -> Manifest:
    return {"name": "V", "valueFrom": {field: {"name": name, "key": "k", **more}}}


SHAPES: dict[str, tuple[Manifest, dict[tuple[str, str], bool]]] = {
    "nothing": ({"containers": [container()]}, {}),
    "no spec fields": ({}, {}),
    "nulls": ({"containers": None, "volumes": None, "imagePullSecrets": None, "initContainers": None}, {}),
    "env": (
        {"containers": [container(env=[variable("configMapKeyRef", "m"), variable("secretKeyRef", "s")])]},
        {("ConfigMap", "m"): True, ("Secret", "s"): True},
    ),
    "other env": (
        {
            "containers": [
                container(env=[{"name": "A", "value": "1"}, variable("fieldRef", "x"), {"name": "B"}])
            ]
        },
        {},
    ),
    "optional env": (
        {"containers": [container(env=[variable("secretKeyRef", "s", optional=True)])]},
        {("Secret", "s"): False},
    ),
    "optional false": (
        {"containers": [container(env=[variable("secretKeyRef", "s", optional=False)])]},
        {("Secret", "s"): True},
    ),
    "envFrom": (
        {
            "containers": [
                container(
                    envFrom=[{"configMapRef": {"name": "m"}}, {"prefix": "P", "secretRef": {"name": "s"}}]
                )
            ]
        },
        {("ConfigMap", "m"): True, ("Secret", "s"): True},
    ),
    "optional envFrom": (
        {"containers": [container(envFrom=[{"configMapRef": {"name": "m", "optional": True}}])]},
        {("ConfigMap", "m"): False},
    ),
    "init containers": (
        {
            "initContainers": [
                container(env=[variable("configMapKeyRef", "m")]),
                container(restartPolicy="Always", envFrom=[{"secretRef": {"name": "s"}}]),
            ],
            "containers": [container()],
        },
        {("ConfigMap", "m"): True, ("Secret", "s"): True},
    ),
    "volumes": (
        {
            "volumes": [
                {"name": "a", "configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}},
                {"name": "b", "secret": {"secretName": "s", "optional": True}},
                {"name": "c", "emptyDir": {}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
            ]
        },
        {("ConfigMap", "m"): True, ("Secret", "s"): False},
    ),
    "projected": (
        {
            "volumes": [
                {
                    "name": "p",
                    "projected": {
                        "sources": [
                            {"configMap": {"name": "m"}},
                            {"secret": {"name": "s", "optional": True}},
                            {"serviceAccountToken": {"path": "token"}},
                            {"downwardAPI": {"items": []}},
                            {"configMap": {"name": "kube-root-ca.crt"}},
                        ]
                    },
                }
            ]
        },
        {("ConfigMap", "m"): True, ("Secret", "s"): False},
    ),
    "volumes of storage": (
        {
            "volumes": [
                {"name": "a", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s1"}}},
                {"name": "b", "azureFile": {"secretName": "s2", "shareName": "x"}},
                {"name": "c", "cephfs": {"monitors": [], "secretRef": {"name": "s3"}}},
                {"name": "d", "rbd": {"secretRef": None}},
                {"name": "e", "csi": {"driver": "d"}},
            ]
        },
        {("Secret", "s1"): True, ("Secret", "s2"): True, ("Secret", "s3"): True},
    ),
    "pull secrets": (
        {"imagePullSecrets": [{"name": "registry"}, {"name": ""}, {}]},
        {("Secret", "registry"): True},
    ),
    "optional here, needed there": (
        {
            "containers": [
                container(envFrom=[{"configMapRef": {"name": "m", "optional": True}}]),
                container(envFrom=[{"configMapRef": {"name": "m"}}]),
            ],
            "volumes": [{"name": "v", "configMap": {"name": "m", "optional": True}}],
        },
        {("ConfigMap", "m"): True},
    ),
    "one name, two kinds": (
        {"containers": [container(envFrom=[{"configMapRef": {"name": "x"}}, {"secretRef": {"name": "x"}}])]},
        {("ConfigMap", "x"): True, ("Secret", "x"): True},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_template_names(shape: str) -> None:
    spec, expected = SHAPES[shape]
    wanted = {ObjectRef(*key): required for key, required in expected.items()}
    assert named_by({"spec": spec}, BOTH) == wanted
    for kind in BOTH:
        assert named_by({"spec": spec}, {kind}) == {k: v for k, v in wanted.items() if k.kind == kind}
    assert named_by({"spec": spec}, ()) == {}
    assert named_by({}, BOTH) == {}


def existing(**metadata: Any) -> Manifest:
    return {
        "name": "settings",
        "uid": "copy",
        "resourceVersion": "9",
        "labels": {names.ORIGIN_LABEL: "origin"},
        "annotations": {names.SOURCE_ANNOTATION: "s/5"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "pi", "uid": "m1"}],
        **metadata,
    }


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, Step.CREATE),
        (existing(), Step.KEEP),
        (existing(labels=None), Step.FOREIGN),
        (existing(labels={names.ORIGIN_LABEL: "another"}), Step.FOREIGN),
        (existing(labels=None, deletionTimestamp="2026-01-01T00:00:00Z"), Step.FOREIGN),
        (existing(deletionTimestamp="2026-01-01T00:00:00Z"), Step.WAIT),
        (existing(annotations={names.SOURCE_ANNOTATION: "s/4"}), Step.UPDATE),
        (existing(annotations=None), Step.UPDATE),
        (existing(ownerReferences=None), Step.UPDATE),
        (existing(ownerReferences=[{"uid": "m2"}]), Step.UPDATE),
    ],
)
def test_what_is_to_be_written(metadata: Manifest | None, expected: Step) -> None:
    assert step(metadata, origin="origin", version="s/5", owner_uid="m1") is expected


def source(**fields: Any) -> Manifest:
    metadata = {
        "name": "settings",
        "namespace": "team",
        "uid": "s",
        "resourceVersion": "5",
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "ownerReferences": [{"uid": "other"}],
    }
    return {"metadata": metadata, **fields}


def copy_of(body: Manifest, *, over: Manifest | None = None, kind: str = "ConfigMap") -> Manifest:
    return make_copy(body, kind=kind, origin="origin", mirror="pi", mirror_uid="m1", existing=over)


def test_a_copy_has_the_content_and_an_owner_and_nothing_else() -> None:
    body = source(data={"a": "1"}, binaryData={"b": "AA=="}, immutable=True)
    assert copy_of(body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "settings",
            "namespace": "team",
            "labels": {names.ORIGIN_LABEL: "origin"},
            "annotations": {names.SOURCE_ANNOTATION: "s/5"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "pi", "uid": "m1"}],
        },
        "data": {"a": "1"},
        "binaryData": {"b": "AA=="},
    }
    secret = copy_of(source(data={"a": "MQ=="}, type="kubernetes.io/tls"), kind="Secret")
    assert (secret["kind"], secret["type"], secret["data"]) == ("Secret", "kubernetes.io/tls", {"a": "MQ=="})


def test_a_second_owner_joins_and_the_first_stays() -> None:
    other = {"apiVersion": "batch/v1", "kind": "Job", "name": "e", "uid": "m2"}
    made = copy_of(source(data={"a": "2"}), over=existing(ownerReferences=[other]))
    assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == ["m2", "m1"]
    assert (made["metadata"]["uid"], made["metadata"]["resourceVersion"]) == ("copy", "9")
    assert step(made["metadata"], origin="origin", version="s/5", owner_uid="m1") is Step.KEEP
    assert step(made["metadata"], origin="origin", version="s/5", owner_uid="m2") is Step.KEEP


def scene(*, spec: Manifest | None = None, propagate: frozenset[str] = BOTH, **fields: Any) -> Scene:
    pod = spec or {
        "containers": [
            container(envFrom=[{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "password"}}])
        ]
    }
    made = Scene(template={"spec": pod})
    made.fields = {
        "clusters": clusters("a"),
        "policy": Policy(name="default", propagate=propagate),
        "sources": {SETTINGS: Source("s/5"), PASSWORD: Source("p/1")},
        "provided": {},
        **fields,
    }
    return made


def run(made: Scene) -> list[CopyDependencies]:
    """Play on until nothing but copies is asked for; gives those."""
    for _ in range(10):
        decision = made.decide()
        copies = [action for action in decision.actions if isinstance(action, CopyDependencies)]
        rest = [action for action in decision.actions if not isinstance(action, CopyDependencies)]
        if not rest:
            return copies
        for action in rest:
            made.actions.append(action)
            made._carry_out(action)
    raise AssertionError("never settles")


def provide(made: Scene, **versions: Provision) -> None:
    refs = {"settings": SETTINGS, "password": PASSWORD}
    made.fields["provided"] = {(A, "a-pi"): {refs[name]: done for name, done in versions.items()}}


def suspended(made: Scene) -> bool:
    (mirror,) = made.mirrors.values()
    return bool(mirror["spec"]["suspend"])


def test_a_mirror_is_made_suspended_and_resumed_when_all_is_there() -> None:
    made = scene()
    (copy,) = run(made)
    assert suspended(made)
    assert (copy.cluster, copy.name, copy.uid, set(copy.objects)) == ("a", "pi", "a-pi", {SETTINGS, PASSWORD})
    provide(made, settings=Provision("s/5"))
    (copy,) = run(made)
    assert suspended(made)
    assert copy.objects == (PASSWORD,)
    provide(made, settings=Provision("s/5"), password=Provision("p/1"))
    assert run(made) == []
    assert not suspended(made)


def test_off_by_default_and_where_nothing_is_named() -> None:
    for made in (
        scene(propagate=frozenset()),
        scene(spec={"containers": [container()]}),
        scene(clusters={A: replace(clusters("a")[A], local=True)}),
    ):
        assert run(made) == []
        assert not suspended(made)
        creates = [action for action in made.actions if isinstance(action, CreateMirror)]
        assert [action.manifest["spec"]["suspend"] for action in creates] == [False]


def test_a_missing_source_waits_with_a_reason_and_begins_when_it_appears() -> None:
    made = scene(sources={SETTINGS: Source(), PASSWORD: Source("p/1")})
    (copy,) = run(made)
    assert copy.objects == (PASSWORD,)
    provide(made, password=Provision("p/1"))
    assert run(made) == []
    assert suspended(made)
    found = condition(made.job, names.DISPATCHED)
    assert (found["status"], found["reason"]) == ("False", "DependencyMissing")
    assert found["message"] == "There is no ConfigMap settings in namespace team; create it"
    made.fields["sources"] = {SETTINGS: Source("s/5"), PASSWORD: Source("p/1")}
    (copy,) = run(made)
    assert copy.objects == (SETTINGS,)
    provide(made, settings=Provision("s/5"), password=Provision("p/1"))
    assert run(made) == []
    assert not suspended(made)
    assert condition(made.job, names.DISPATCHED)["status"] == "True"


def test_an_optional_one_that_is_missing_is_not_waited_for() -> None:
    spec = {"containers": [container(envFrom=[{"configMapRef": {"name": "settings", "optional": True}}])]}
    made = scene(spec=spec, sources={SETTINGS: Source()})
    assert run(made) == []
    assert not suspended(made)
    made.fields["sources"] = {SETTINGS: Source("s/1")}  # it comes later, and follows
    (copy,) = run(made)
    assert copy.objects == (SETTINGS,)


def test_an_optional_one_that_is_there_is_waited_for() -> None:
    spec = {"containers": [container(envFrom=[{"configMapRef": {"name": "settings", "optional": True}}])]}
    made = scene(spec=spec, sources={SETTINGS: Source("s/1")})
    assert len(run(made)) == 1
    assert suspended(made)


def test_what_is_not_known_yet_is_waited_for_in_silence() -> None:
    made = scene(sources={})
    assert run(made) == []
    assert suspended(made)
    assert condition(made.job, names.DISPATCHED).get("reason") != "DependencyMissing"


def running() -> Scene:
    made = scene()
    run(made)
    provide(made, settings=Provision("s/5"), password=Provision("p/1"))
    run(made)
    assert not suspended(made)
    return made


def test_a_source_that_goes_later_stops_nothing() -> None:
    made = running()
    for gone in (Source(), Source(fault="not allowed")):
        made.fields["sources"] = {SETTINGS: gone, PASSWORD: Source("p/1")}
        assert run(made) == []
        assert not suspended(made)
        assert condition(made.job, names.DISPATCHED)["status"] == "True"
    made.fields["provided"] = {}  # after a restart
    run(made)
    assert not suspended(made)
    assert condition(made.job, names.DISPATCHED)["status"] == "True"


def test_an_update_follows_while_the_job_runs() -> None:
    made = running()
    made.fields["sources"] = {SETTINGS: Source("s/6"), PASSWORD: Source("p/1")}
    (copy,) = run(made)
    assert copy.objects == (SETTINGS,)
    assert not suspended(made)
    provide(made, settings=Provision("s/6"), password=Provision("p/1"))
    assert run(made) == []


@pytest.mark.parametrize("fault", list(Fault))
def test_a_copy_that_fails_is_reported_and_tried_again_later(fault: Fault) -> None:
    made = scene()
    run(made)
    later = NOW + timedelta(seconds=8)
    provide(made, settings=Provision("", fault, "why", later), password=Provision("p/1"))
    assert run(made) == []
    assert suspended(made)
    found = condition(made.job, names.DISPATCHED)
    assert (found["status"], found["reason"], found["message"]) == ("False", fault.value, "why")
    assert made.decide().look_again == 8
    provide(made, settings=Provision("", fault, "why", NOW), password=Provision("p/1"))
    (copy,) = run(made)
    assert copy.objects == (SETTINGS,)


def test_sources_that_may_not_be_read_are_reported() -> None:
    made = scene(sources={SETTINGS: Source(fault="ask for it"), PASSWORD: Source("p/1")})
    run(made)
    found = condition(made.job, names.DISPATCHED)
    assert found["reason"] == "DependencyUnreadable"
    assert found["message"] == "ConfigMap settings cannot be read: ask for it"


def test_a_suspended_job_copies_nothing_and_a_resumed_one_waits_again() -> None:
    made = running()
    made.job = {**made.job, "spec": {**made.job["spec"], "suspend": True}}
    made.fields["sources"] = {SETTINGS: Source("s/7"), PASSWORD: Source("p/1")}
    made.fields["provided"] = {}
    assert run(made) == []
    assert suspended(made)
    made.job = {**made.job, "spec": {**made.job["spec"], "suspend": False}}
    (copy,) = run(made)
    assert suspended(made)
    assert set(copy.objects) == {SETTINGS, PASSWORD}
    provide(made, settings=Provision("s/7"), password=Provision("p/1"))
    run(made)
    assert not suspended(made)


def test_an_indexed_mirror_is_seeded_while_it_waits() -> None:
    pod = {"containers": [container(envFrom=[{"configMapRef": {"name": "settings"}}])]}
    made = Scene(completionMode="Indexed", template={"spec": pod})
    made.fields = {
        "clusters": clusters("a", "b"),
        "policy": Policy(name="default", propagate=BOTH),
        "sources": {SETTINGS: Source("s/5")},
        "provided": {},
    }
    assert len(run(made)) == 2
    assert all(mirror["spec"]["suspend"] for mirror in made.mirrors.values())
    seeds = [action for action in made.actions if isinstance(action, PatchMirror) and action.subresource]
    assert len(seeds) == 2
    made.fields["provided"] = {(A, "a-pi"): {SETTINGS: Provision("s/5")}}
    run(made)
    assert {key[0]: mirror["spec"]["suspend"] for key, mirror in made.mirrors.items()} == {
        "a": False,
        "b": True,
    }


def test_a_missing_namespace_is_made_where_the_cluster_says_so() -> None:
    allowed = {A: replace(clusters("a")[A], create_namespace=True)}
    for given, expected in ((allowed, True), (clusters("a"), False)):
        made = scene(propagate=frozenset(), clusters=given)
        run(made)
        creates = [action for action in made.actions if isinstance(action, CreateMirror)]
        assert [action.makes_namespace for action in creates] == [expected]
