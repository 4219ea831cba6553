"""What a cluster's DNS says of pods with a host name and a subdomain. Real nodes of the lab have none."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from hack.lab import Plane
from hack.lab.api import JSON
from hack.lab.kubelet.machine import GATEWAY

PORT = 53
DOMAIN = "svc.cluster.local"
ADDRESS = 1  # the type A
# RFC 1035: id, flags, numbers of questions, answers, authorities, additional records.
HEADER = struct.Struct("!6H")
ANSWERED, UNKNOWN = 0x8580, 0x8583  # an answer with authority; NOERROR, NXDOMAIN
# A pointer to the question's name, type A, class IN, no time to live, four bytes.
RECORD = struct.Struct("!3HIH4s")


@contextlib.contextmanager
def server(plane: Plane) -> Iterator[None]:
    """The DNS of one plane with a real node, at the address that its pods have in /etc/resolv.conf."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, connection = self.request
            connection.sendto(answer(query, lambda name: address_of(plane, name)), self.client_address)

    with socketserver.ThreadingUDPServer((gateway(plane), PORT), Answer) as running:
        thread = threading.Thread(target=running.serve_forever, name=f"DNS of {plane.name}")
        thread.start()
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


def gateway(plane: Plane) -> str:
    """The machine's address on the bridge of the plane's pods."""
    [node] = plane.api.get("/api/v1/nodes")["items"]
    [address] = [it["address"] for it in node["status"]["addresses"] if it["type"] == "InternalIP"]
    return GATEWAY.format(number=address.rpartition(".")[2])


def address_of(plane: Plane, name: str) -> str | None:
    """Of the pod HOSTNAME.SUBDOMAIN.NAMESPACE.svc.cluster.local, once it is ready."""
    host, _, rest = name.partition(".")
    subdomain, _, rest = rest.partition(".")
    namespace, _, domain = rest.partition(".")
    if domain != DOMAIN:
        return None
    for pod in plane.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
        spec = pod["spec"]
        if (spec.get("hostname"), spec.get("subdomain")) == (host, subdomain) and _ready(pod):
            return str(pod["status"]["podIP"])
    return None


def answer(query: bytes, find: Callable[[str], str | None]) -> bytes:
    """The answer to a query with one question."""
    identity = HEADER.unpack_from(query)[0]
    labels, at = [], HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    question = query[HEADER.size : at + 5]
    found = find(".".join(labels).lower())
    if found is None:
        return HEADER.pack(identity, UNKNOWN, 1, 0, 0, 0) + question
    if struct.unpack_from("!H", query, at + 1)[0] != ADDRESS:
        return HEADER.pack(identity, ANSWERED, 1, 0, 0, 0) + question
    record = RECORD.pack(0xC000 | HEADER.size, ADDRESS, 1, 0, 4, IPv4Address(found).packed)
    return HEADER.pack(identity, ANSWERED, 1, 1, 0, 0) + question + record


def _ready(pod: JSON) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)
