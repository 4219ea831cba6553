"""The way of a command to the management cluster, against a server that answers what a test wants.

A real API server serves neither an expired list nor a proxy's error page on demand.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from click.testing import CliRunner, Result

from dispatcher.commands.kubectl import commands
from dispatcher.core.names import DEFAULT_MANAGED_BY

Answer = tuple[int, Any]
Query = dict[str, list[str]]


class FakeServer(ThreadingHTTPServer):
    """Answers every GET by ``answer(path, query)``; a text body is sent as it is, anything else as JSON."""

    answer: Callable[[str, Query], Answer]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, Query, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self.server.requests.append((url.path, query, self.headers.get("Authorization")))
        status, body = self.server.answer(url.path, query)
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def kubeconfig(folder: Path, address: str, **context: str) -> str:
    path = folder / "kubeconfig"
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", **context}}],
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def get(server: FakeServer, tmp_path: Path) -> Callable[..., Result]:
    file = kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_port}", namespace="team")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(commands, ["get", "--kubeconfig", file, *arguments])

    return run


def job(name: str, managed_by: str | None = DEFAULT_MANAGED_BY) -> dict[str, Any]:
    spec = {"completions": 1} | ({"managedBy": managed_by} if managed_by else {})
    return {"metadata": {"name": name, "namespace": "team", "uid": name}, "spec": spec, "status": {}}


def failure(status: int, message: str) -> Answer:
    reason = {403: "Forbidden", 401: "Unauthorized", 410: "Expired"}[status]
    return status, {
        "kind": "Status",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": status,
    }


def test_only_our_jobs_of_the_contexts_namespace(server: FakeServer, get: Callable[..., Result]) -> None:
    server.answer = lambda path, query: (200, {"items": [job("ours"), job("local", None), job("x", "a/b")]})
    result = get("-l", "app=x", "-o", "json")
    assert result.exit_code == 0, result.output
    assert [item["metadata"]["name"] for item in json.loads(result.stdout)["items"]] == ["ours"]
    [(path, query, authorization)] = server.requests
    assert path == "/apis/batch/v1/namespaces/team/jobs"
    assert query == {"limit": ["500"], "labelSelector": ["app=x"]}
    assert authorization == "Bearer secret"


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["-A"], "/apis/batch/v1/jobs"),
        (["-n", "other"], "/apis/batch/v1/namespaces/other/jobs"),
        (["-n", "../x"], "/apis/batch/v1/namespaces/..%2Fx/jobs"),
    ],
)
def test_nothing_found(
    server: FakeServer, get: Callable[..., Result], arguments: list[str], path: str
) -> None:
    server.answer = lambda path, query: (200, {"items": None})
    result = get(*arguments)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "No dispatched Jobs found" in result.stderr
    assert server.requests[0][0] == path


def test_all_pages(server: FakeServer, get: Callable[..., Result]) -> None:
    def answer(path: str, query: Query) -> Answer:
        page = int(query.get("continue", ["0"])[0])
        following = {"continue": str(page + 1)} if page < 2 else {}
        return 200, {"metadata": following, "items": [job(f"job-{page}")]}

    server.answer = answer
    assert [line.split()[0] for line in get("--no-headers").stdout.splitlines()] == [
        "job-0",
        "job-1",
        "job-2",
    ]


def test_a_list_that_expires_on_the_way_is_asked_for_in_one_piece(
    server: FakeServer, get: Callable[..., Result]
) -> None:
    def answer(path: str, query: Query) -> Answer:
        if "continue" in query:
            return failure(410, "The provided continue parameter is too old")
        if "limit" in query:
            return 200, {"metadata": {"continue": "x"}, "items": [job("old")]}
        return 200, {"metadata": {}, "items": [job("one"), job("two")]}

    server.answer = answer
    assert [line.split()[0] for line in get("--no-headers").stdout.splitlines()] == ["one", "two"]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (failure(403, "exceeded quota"), "Error from server (Forbidden): exceeded quota"),
        (failure(401, "Unauthorized"), "Error from server (Unauthorized): Unauthorized"),
        (failure(410, "too old"), "Error from server (Expired): too old"),
        ((503, "<html>bad gateway</html>"), "is it a Kubernetes API server?"),
        ((200, "[]"), "is it a Kubernetes API server?"),
    ],
)
def test_the_servers_no_is_exit_code_1(
    server: FakeServer, get: Callable[..., Result], answer: Answer, complaint: str
) -> None:
    server.answer = lambda path, query: answer
    result = get()
    assert result.exit_code == 1
    assert result.stdout == ""
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_one_job(server: FakeServer, get: Callable[..., Result]) -> None:
    server.answer = lambda path, query: (200, job("pi"))
    assert get("pi", "--no-headers").stdout.startswith("pi   Pending   0/1")
    assert server.requests[0][0] == "/apis/batch/v1/namespaces/team/jobs/pi"


def test_one_job_that_is_not_ours(server: FakeServer, get: Callable[..., Result]) -> None:
    server.answer = lambda path, query: (200, job("pi", None))
    result = get("pi")
    assert result.exit_code == 1
    assert "Job team/pi is not dispatched: its spec.managedBy is not set" in result.stderr


@pytest.mark.parametrize("arguments", [["pi", "-A"], ["pi", "-l", "a=b"]])
def test_a_name_and_a_selection_are_wrong_usage(get: Callable[..., Result], arguments: list[str]) -> None:
    assert get(*arguments).exit_code == 2


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    # Bound, so that nobody else gets the port, but not listening.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        file = kubeconfig(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}")
        result = CliRunner().invoke(commands, ["get", "--kubeconfig", file])
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
    assert "refused" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "kubeconfig is missing; give --kubeconfig FILE or set KUBECONFIG"),
        ("", "file is empty"),
        ("{a: [", "the kubeconfig cannot be used: while parsing"),
        ("[]", "the kubeconfig cannot be used"),
        ("{a: 1}", "has no current-context; give --context NAME"),
        ("{current-context: a, contexts: [{name: a, context: 1}]}", "the kubeconfig cannot be used"),
    ],
)
def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str | None, complaint: str) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(commands, ["get", "--kubeconfig", str(file)])
    assert result.exit_code == 1, result.exception
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_context_that_is_none(get: Callable[..., Result]) -> None:
    result = get("--context", "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        file = kubeconfig(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for arguments in (["--request-timeout", "100ms", "get"], ["get", "--request-timeout", "100ms"]):
            result = CliRunner().invoke(commands, ["--kubeconfig", file, *arguments])
            assert result.exit_code == 1
            assert "cannot be reached" in result.stderr
            assert "timed out" in result.stderr


@pytest.mark.parametrize("text", ["5x", "-1s", "soon"])
def test_a_timeout_that_is_none(get: Callable[..., Result], text: str) -> None:
    result = get("--request-timeout", text)
    assert result.exit_code == 2
    assert "is not a duration" in result.stderr
