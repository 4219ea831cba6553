"""What commands read: durations, kubeconfigs, files of manifests."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dispatcher.commands.durations import parse_duration
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.kubeconfigs import read_contexts, read_identity
from dispatcher.commands.manifests import parse_manifests, read_manifests
from dispatcher.commands.refusals import ClusterSaysNo, WrongInput
from dispatcher.commands.submitting import check_clusters, prepare
from dispatcher.core.names import DEFAULT_MANAGED_BY, PREFERENCES_ANNOTATION
from dispatcher.core.preferences import parse_preferences


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30", 30), ("90s", 90), ("1h5m", 3900), ("1.5s", 1.5), (".5m", 30), ("100ms", 0.1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "5x", "5 m", "m", "1h-5m", "1.5", "٣", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["render", "job/render", "jobs/render", "Job.batch/render", "jobs.v1.batch/render"]
)
def test_a_job_is_named_as_with_kubectl(text: str) -> None:
    assert JOB_NAME.convert(text, None, None) == "render"


@pytest.mark.parametrize(
    "text", ["", "job/", "pod/render", "a/b/c", "job/a/b", "..", "Render", "a b", "x" * 254]
)
def test_what_is_no_job(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not"):
        JOB_NAME.convert(text, None, None)


def kubeconfig(path: Path, *names: str, current: str | None, namespace: str = "", **user: Any) -> Path:
    document: dict[str, Any] = {
        "clusters": [{"name": n, "cluster": {"server": f"http://{path.stem}-{n}.example"}} for n in names],
        "users": [{"name": n, "user": user or {"token": f"{path.stem}-{n}"}} for n in names],
        "contexts": [
            {
                "name": n,
                "context": {"cluster": n, "user": n} | ({"namespace": namespace} if namespace else {}),
            }
            for n in names
        ],
    }
    if current is not None:
        document["current-context"] = current
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_first_of_several_files_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = kubeconfig(tmp_path / "one", "a", "b", current="b", namespace="team")
    two = kubeconfig(tmp_path / "two", "b", "c", current="c")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/missing:{one}:{two}")
    identity = read_identity()
    assert (identity.configuration.host, identity.namespace) == ("http://one-b.example", "team")
    assert read_identity(context="c").configuration.host == "http://two-c.example"
    assert read_identity(context="c").namespace == "default"
    assert read_identity(kubeconfig=str(two)).configuration.host == "http://two-c.example"
    assert set(read_contexts()) == {"a", "b", "c"}


def test_a_context_of_a_later_file_counts_where_the_first_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = kubeconfig(tmp_path / "one", "a", current=None)
    two = kubeconfig(tmp_path / "two", "b", current="b")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{two}")
    assert read_identity().configuration.host == "http://two-b.example"


def test_who_the_kubeconfig_acts_as(tmp_path: Path) -> None:
    user: dict[str, Any] = {
        "token": "t",
        "as": "eve",
        "as-groups": ["x", "y"],
        "as-user-extra": {"scopes": ["view"]},
    }
    file = kubeconfig(tmp_path / "one", "a", current="a", **user)
    assert read_identity(kubeconfig=str(file)).impersonation == (
        ("Impersonate-User", "eve"),
        ("Impersonate-Group", "x"),
        ("Impersonate-Group", "y"),
        ("Impersonate-Extra-scopes", "view"),
    )


@pytest.mark.parametrize("arguments", [{"kubeconfig": "/nowhere/at/all"}, {}])
def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str]) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterSaysNo, match="give --kubeconfig FILE or set KUBECONFIG"):
        read_identity(**arguments)


JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "pi"}, "spec": {"template": {}}}


def test_lists_are_taken_apart_and_texts_stay_texts() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [JOB, {**JOB, "kind": "CronJob"}]}
    text = f"{json.dumps(listed)}\n---\n---\napiVersion: v1\nkind: X\nmetadata: {{name: 2026-01-01}}\n"
    found = list(parse_manifests(text.encode(), "file"))
    assert [item["kind"] for item in found] == ["Job", "CronJob", "X"]
    assert found[2]["metadata"]["name"] == "2026-01-01"


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    for name in ("b.json", "a.yaml", "notes.txt"):
        (tmp_path / name).write_text(json.dumps({**JOB, "metadata": {"name": name}}))
    found = read_manifests([str(tmp_path)])
    assert [item["metadata"]["name"] for item in found] == ["a.yaml", "b.json"]
    with pytest.raises(WrongInput, match="No such file"):
        read_manifests([str(tmp_path / "missing")])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "file: while parsing"),
        ("- 1", "holds a list"),
        ("kind: Job", "an object without apiVersion"),
        ("{apiVersion: v1, kind: Job}", "a Job without metadata.name"),
        ("{apiVersion: v1, kind: Job, metadata: {name: a, annotations: [1]}}", "annotations is no mapping"),
    ],
)
def test_what_is_no_manifest(text: str, complaint: str) -> None:
    with pytest.raises(WrongInput, match=complaint):
        list(parse_manifests(text.encode(), "file"))


def copied(manifest: dict[str, Any], **changes: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps({**manifest, **changes}))
    return copy


def test_jobs_and_cronjobs_are_made_ours() -> None:
    cron = copied(JOB, kind="CronJob", spec={"schedule": "x", "jobTemplate": {"spec": {"template": {}}}})
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    job = copied(JOB)
    prepare([job, cron, other], managed_by=DEFAULT_MANAGED_BY, clusters=["a", "b"])
    template = cron["spec"]["jobTemplate"]
    assert [job["spec"]["managedBy"], template["spec"]["managedBy"]] == [DEFAULT_MANAGED_BY] * 2
    for metadata in (job["metadata"], template["metadata"]):
        read = parse_preferences(metadata["annotations"][PREFERENCES_ANNOTATION])
        assert {name: it.weight for name, it in read.clusters.items()} == {"a": 1, "b": 1}
    assert other == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        (copied(JOB, kind="Pod"), "no Job and no CronJob"),
        (copied(JOB, spec=None), "Job pi has no spec"),
        (copied(JOB, kind="CronJob"), "CronJob pi has no jobTemplate"),
        (copied(JOB, spec={"managedBy": "a/b"}), "its spec.managedBy is a/b"),
        (copied(JOB, metadata={"name": "pi", "annotations": {PREFERENCES_ANNOTATION: "{}"}}), "leave out --clusters"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted(manifest: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongInput, match=complaint):
        prepare([manifest], managed_by=DEFAULT_MANAGED_BY, clusters=["a"])


def test_an_unknown_cluster() -> None:
    check_clusters(["a"], ["a", "b"])
    with pytest.raises(ClusterSaysNo, match="no worker cluster c, d; there are a, b"):
        check_clusters(["a", "c", "d"], ["b", "a"])
    with pytest.raises(ClusterSaysNo, match="there are none"):
        check_clusters(["a"], [])
