import asyncio
import datetime
import email.utils
import json
import socket

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import JSON_PATCH, ApiServer, resource_of, resource_path
from dispatcher.clusters.kubeconfig import Credentials, KubeconfigError
from dispatcher.clusters.reply import Outcome
from tests.protocol.fake_server import Answer, FakeApiServer, make_job, status, until

JOB = "/apis/batch/v1/namespaces/ns/jobs/a"
OF_NS = "/apis/batch/v1/namespaces/ns/jobs"


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        pytest.param(Answer(200, make_job("a", 1)), Outcome.OK, "", id="ok"),
        pytest.param(Answer(201, make_job("a", 1)), Outcome.OK, "", id="created"),
        pytest.param(status(404, "NotFound", name="a"), Outcome.NOT_FOUND, "NotFound", id="not found"),
        pytest.param(status(404, "NotFound"), Outcome.SERVER_ERROR, "NotServed", id="404 that names nothing"),
        pytest.param(
            Answer(404, raw=b"404 page not found\n"), Outcome.SERVER_ERROR, "NotServed", id="no such group"
        ),
        pytest.param(
            Answer(404, raw=b"default backend"), Outcome.SERVER_ERROR, "NotKubernetes", id="404 of a proxy"
        ),
        pytest.param(Answer(404, {"x": 1}), Outcome.SERVER_ERROR, "NotKubernetes", id="404 in foreign JSON"),
        pytest.param(Answer(200, raw=b"<html>"), Outcome.SERVER_ERROR, "NotKubernetes", id="a login page"),
        pytest.param(
            Answer(302, raw=b"", headers={"Location": "http://127.0.0.1:1/"}),
            Outcome.SERVER_ERROR,
            "NotKubernetes",
            id="a redirect is not followed",
        ),
        pytest.param(
            status(409, "AlreadyExists"), Outcome.ALREADY_EXISTS, "AlreadyExists", id="already exists"
        ),
        pytest.param(status(409, "Conflict"), Outcome.CONFLICT, "Conflict", id="conflict"),
        pytest.param(status(410, "Expired"), Outcome.GONE, "Expired", id="gone"),
        pytest.param(status(400, "BadRequest"), Outcome.INVALID, "BadRequest", id="bad request"),
        pytest.param(status(422, "Invalid"), Outcome.INVALID, "Invalid", id="invalid"),
        pytest.param(
            status(413, "RequestEntityTooLarge"), Outcome.INVALID, "RequestEntityTooLarge", id="too large"
        ),
        pytest.param(status(403, "Forbidden"), Outcome.FORBIDDEN, "Forbidden", id="forbidden"),
        pytest.param(status(401, "Unauthorized"), Outcome.UNAUTHORIZED, "Unauthorized", id="unauthorized"),
        pytest.param(Answer(429, raw=b"slow"), Outcome.THROTTLED, "Throttled", id="throttled in plain text"),
        pytest.param(
            status(500, "InternalError"), Outcome.SERVER_ERROR, "InternalError", id="internal error"
        ),
        pytest.param(
            Answer(503, raw=b"no backend"), Outcome.SERVER_ERROR, "ServerError", id="503 of a proxy"
        ),
        pytest.param(status(504, "Timeout"), Outcome.SERVER_ERROR, "Timeout", id="504"),
        pytest.param(
            Answer(200, make_job("a", 1), cut=True), Outcome.UNREACHABLE, "ConnectionClosed", id="torn"
        ),
    ],
)
async def test_each_answer_has_its_outcome(
    server: FakeApiServer, api: ApiServer, answer: Answer, outcome: Outcome, reason: str
) -> None:
    server.stage("GET", JOB, answer, standing=True)
    reply = await jobs.get_job(api, "ns", "a")
    assert (reply.outcome, reply.reason) == (outcome, reason)
    assert reply.code == (0 if outcome is Outcome.UNREACHABLE else answer.status)
    assert reply.ok == (outcome is Outcome.OK)


async def test_details_of_a_refusal_are_at_hand(server: FakeApiServer, api: ApiServer) -> None:
    server.stage(
        "POST", OF_NS, status(404, "NotFound", 'namespaces "ns" not found', kind="namespaces", name="ns")
    )
    reply = await jobs.create_job(api, "ns", {})
    assert reply.details["kind"] == "namespaces"
    assert reply.message == 'namespaces "ns" not found'


async def test_retry_after_comes_from_header_or_status(server: FakeApiServer, api: ApiServer) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    server.stage(
        "GET",
        JOB,
        Answer(429, raw=b"", headers={"Retry-After": "7"}),
        status(429, "TooManyRequests", retryAfterSeconds=3),
        Answer(503, raw=b"", headers={"Retry-After": email.utils.format_datetime(later, usegmt=True)}),
        Answer(503, raw=b"", headers={"Retry-After": "soon"}),
    )
    waits = [(await jobs.get_job(api, "ns", "a")).retry_after for _ in range(4)]
    assert waits[:2] == [7.0, 3.0]
    assert waits[2] == pytest.approx(29.5, abs=1.5)
    assert waits[3] is None


async def test_a_refused_connection_is_data() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        api = ApiServer.from_credentials(Credentials(server=url, token="t"), allow_http=True)
        reply = await jobs.get_job(api, "ns", "a")
        await api.close()
    assert (reply.outcome, reply.reason, reply.code) == (Outcome.UNREACHABLE, "ConnectionRefused", 0)
    assert url in reply.message


async def test_a_name_that_does_not_resolve_is_data() -> None:
    credentials = Credentials(server="https://no-such-host.invalid", token="t")
    api = ApiServer.from_credentials(credentials)
    reply = await jobs.get_job(api, "ns", "a")
    await api.close()
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "NameNotResolved")


async def test_silence_ends_with_the_time_limit(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOB, Answer(hang=True), standing=True)
    reply = await api.get(JOB, timeout=0.05)
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "Timeout")


async def test_a_hung_server_does_not_outlast_the_pool(server: FakeApiServer) -> None:
    api = ApiServer.from_credentials(Credentials(server=server.url, token="t"), limit=2, allow_http=True)
    server.stage("GET", JOB, Answer(hang=True), standing=True)
    replies = await asyncio.gather(*(api.get(JOB, timeout=0.1) for _ in range(10)))
    await api.close()
    assert {reply.reason for reply in replies} == {"Timeout"}


async def test_cancelling_is_not_swallowed(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOB, Answer(hang=True), standing=True)
    task = asyncio.create_task(api.get(JOB))
    await until(lambda: server.count("GET", JOB) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_answer_without_end_is_not_read(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOB, Answer(raw=b"x" * 10_000))
    reply = await api.request("GET", JOB, max_bytes=5_000)
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "ReplyTooLarge")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/status", "../../../../api/v1/namespaces/x", "a%2fb", "a?b", "é"]
)
async def test_a_hostile_name_is_refused_and_nothing_is_sent(
    server: FakeApiServer, api: ApiServer, name: str
) -> None:
    for reply in (
        await jobs.delete_job(api, "ns", name, "uid"),
        await jobs.get_job(api, name, "a"),
        await jobs.patch_job(api, "ns", name, {}),
        await jobs.create_job(api, name, {}),
    ):
        assert (reply.outcome, reply.reason) == (Outcome.INVALID, "InvalidName")
    assert server.seen == []


async def test_requests_carry_what_the_server_needs(server: FakeApiServer, api: ApiServer) -> None:
    manifest = make_job("a", 7, spec={"parallelism": 2})
    for path in (OF_NS, JOB, f"{JOB}/status"):
        for method in ("POST", "PATCH", "PUT", "DELETE"):
            server.stage(method, path, Answer(body=manifest), standing=True)
    await jobs.create_job(api, "ns", manifest, dry_run=True)
    await jobs.patch_job(api, "ns", "a", [], content_type=JSON_PATCH, subresource="status")
    await jobs.replace_job_status(api, "ns", "a", manifest)
    await jobs.delete_job(api, "ns", "a", "uid-a")
    post, patch, put, delete = server.seen
    assert (post.path, post.query) == (OF_NS, {"dryRun": "All"})
    assert "resourceVersion" not in json.loads(post.body)["metadata"], "a POST with one is answered 500"
    assert manifest["metadata"]["resourceVersion"] == "7", "the caller's manifest is left as it is"
    assert (patch.path, patch.headers["Content-Type"]) == (f"{JOB}/status", "application/json-patch+json")
    assert json.loads(patch.body) == []
    assert json.loads(put.body) == manifest
    assert json.loads(delete.body) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "uid-a"},
    }
    assert {seen.headers["Authorization"] for seen in server.seen} == {"Bearer secret-token"}
    assert all(seen.headers["User-Agent"].startswith("job-dispatcher/") for seen in server.seen)


async def test_a_put_without_precondition_is_an_error_of_ours(api: ApiServer) -> None:
    with pytest.raises(ValueError, match="resourceVersion"):
        await jobs.replace_job(api, "ns", "a", {"metadata": {"name": "a"}})


async def test_proxies_of_the_environment_are_not_used(
    server: FakeApiServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.stage("GET", JOB, Answer(body=make_job("a", 1)))
    assert (await jobs.get_job(api, "ns", "a")).ok


async def test_a_proxy_of_the_kubeconfig_is_used_and_its_password_is_not_told(server: FakeApiServer) -> None:
    credentials = Credentials(server=server.url, token="t", proxy_url="http://user:hunter2@127.0.0.1:1")
    api = ApiServer.from_credentials(credentials, allow_http=True)
    reply = await jobs.get_job(api, "ns", "a")
    await api.close()
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "ProxyError")
    assert "hunter2" not in str(reply)
    assert server.seen == []


async def test_every_request_is_observed(server: FakeApiServer) -> None:
    seen: list[tuple[str, str, int]] = []
    api = ApiServer.from_credentials(
        Credentials(server=server.url, token="t"),
        allow_http=True,
        observe=lambda method, resource, code, seconds: seen.append((method, resource, code)),
    )
    server.stage("GET", JOB, Answer(body=make_job("a", 1)))
    await jobs.get_job(api, "ns", "a")
    server.stage("GET", JOB, Answer(hang=True), standing=True)
    await api.get(JOB, timeout=0.02)
    await api.close()
    assert seen == [("GET", "jobs", 200), ("GET", "jobs", 0)]


async def test_closing_lets_requests_end_and_takes_no_more(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOB, Answer(body=make_job("a", 1), hang=True), standing=True)
    under_way = asyncio.create_task(jobs.get_job(api, "ns", "a"))
    await until(lambda: server.count("GET", JOB) == 1)
    closing = asyncio.create_task(api.close(grace=5.0))
    await asyncio.sleep(0)
    assert (await jobs.get_job(api, "ns", "a")).reason == "ClientClosed"
    server.unstage()
    assert (await under_way).ok
    await closing


async def test_a_token_that_can_not_be_read_is_data(server: FakeApiServer, api: ApiServer) -> None:
    def fail(_: object) -> None:
        raise OSError("no such file: /secret/path")

    api._configuration.refresh_api_key_hook = fail  # type: ignore[assignment]
    reply = await jobs.get_job(api, "ns", "a")
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "CredentialsUnavailable")
    assert "secret" not in reply.message


def test_plain_http_needs_a_flag() -> None:
    with pytest.raises(KubeconfigError) as caught:
        ApiServer.from_credentials(Credentials(server="http://127.0.0.1:1", token="t"))
    assert caught.value.reason == "InsecureServer"


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/version", "version"),
        ("/readyz", "readyz"),
        ("/apis/batch/v1/jobs", "jobs"),
        ("/apis/batch/v1/namespaces/a/jobs", "jobs"),
        ("/apis/batch/v1/namespaces/a/jobs/b", "jobs"),
        ("/apis/batch/v1/namespaces/a/jobs/b/status", "jobs/status"),
        ("/api/v1/namespaces", "namespaces"),
        ("/api/v1/namespaces/a", "namespaces"),
        ("/api/v1/namespaces/a/events", "events"),
        ("/apis/jobdispatcher.io/v1alpha1/workerclusters/w/status", "workerclusters/status"),
    ],
)
def test_resources_are_named_for_metrics(path: str, resource: str) -> None:
    assert resource_of(path) == resource


def test_paths() -> None:
    assert resource_path("v1", "namespaces", name="a") == "/api/v1/namespaces/a"
    assert resource_path("batch/v1", "jobs") == "/apis/batch/v1/jobs"
    assert jobs.jobs_path("a", "b", "status") == "/apis/batch/v1/namespaces/a/jobs/b/status"
