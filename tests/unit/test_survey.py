"""What nodes have free: asked for page by page, only while somebody wants to know, and given up where not allowed."""

from dataclasses import dataclass, field
from typing import Any

from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster
from dispatcher.operator.survey import Survey
from tests.unit.scene import Manifest, clusters, job_manifest
from tests.unit.test_fitting import node_manifest

A = ClusterName("a")


@dataclass
class Api:
    """Answers with these pages of nodes and pods, or with a refusal."""

    nodes: list[list[Manifest]] = field(default_factory=list)
    pods: list[list[Manifest]] = field(default_factory=list)
    refusal: Reply | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def request(self, _method: str, path: str, *, params: dict[str, Any], **_: Any) -> Reply:
        self.asked.append({"path": path, **params})
        if self.refusal is not None:
            return self.refusal
        pages = self.nodes if path.endswith("nodes") else self.pods
        number = int(params.get("continue", "0"))
        token = str(number + 1) if number + 1 < len(pages) else ""
        body = {"metadata": {"continue": token}, "items": pages[number] if pages else []}
        return Reply(Outcome.OK, body=body)


@dataclass
class Connection:
    api: Api


@dataclass
class Registered:
    connection: Connection
    view: Cluster = field(default_factory=lambda: clusters("a")[A])


def survey(api: Api, *, wanted: bool = True) -> Survey:
    registered = {A: Registered(Connection(api))}
    return Survey(wanted=lambda: wanted, clusters=lambda: registered)


JOB = job_manifest(template={"spec": {"containers": [{"resources": {"requests": {"cpu": "3"}}}]}})
RUNS = {"spec": {"nodeName": "n1", **JOB["spec"]["template"]["spec"]}, "status": {"phase": "Running"}}


async def test_all_pages_count() -> None:
    api = Api(nodes=[[node_manifest("n1")], [node_manifest("n2")]], pods=[[RUNS], [RUNS]])
    found = survey(api)
    assert found.fits(JOB) == {}
    await found.look()
    assert found.fits(JOB) == {A: 2}
    first = api.asked[0]
    assert (first["path"], first["resourceVersion"]) == ("/api/v1/nodes", "0")
    assert "resourceVersion" not in api.asked[1]
    await found.look()
    assert len(api.asked) == 4, "not asked again before its time"


async def test_nothing_is_asked_while_nobody_wants_to_know() -> None:
    api = Api(nodes=[[node_manifest()]])
    found = survey(api, wanted=False)
    await found.look()
    assert (api.asked, found.fits(JOB)) == ([], {})


async def test_an_account_that_may_not_look() -> None:
    api = Api(refusal=Reply(Outcome.FORBIDDEN, code=403, reason="Forbidden"))
    found = survey(api)
    await found.look()
    assert found.fits(JOB) == {}
    await found.look()
    assert len(api.asked) == 1


async def test_answers_that_make_no_sense() -> None:
    broken = node_manifest()
    broken["status"]["allocatable"]["cpu"] = "many"
    found = survey(Api(nodes=[[broken]]))
    await found.look()
    assert found.fits(JOB) == {}


async def test_requests_that_make_no_sense() -> None:
    found = survey(Api(nodes=[[node_manifest()]]))
    await found.look()
    odd = job_manifest(template={"spec": {"containers": [{"resources": {"requests": {"cpu": "lots"}}}]}})
    assert found.fits(odd) == {}
    assert found.fits(JOB) == {A: 2}
