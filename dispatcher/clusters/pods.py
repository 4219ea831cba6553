"""Pods, their logs and Events on a cluster: reads only."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from dispatcher.clusters import reply as replies
from dispatcher.clusters.client import (
    MAX_LIST_BYTES,
    ApiServer,
    Params,
    TransportError,
    read_body,
    resource_path,
)
from dispatcher.clusters.reply import Outcome, Reply

BLOCK_BYTES = 1 << 16
"""Of a log at once: what a connection holds after a pause would otherwise be copied several times in one piece."""
_UNSCHEDULED = "the pod is waiting to start: it has no node yet"
"""What an answer without content to a request for a log means."""


class LogBroken(Exception):
    """A log was refused, or its stream broke; ``reply`` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


async def list_mirrors(api: ApiServer, namespace: str, selector: str) -> Reply:
    """The Jobs of a namespace with these labels."""
    path = resource_path("batch/v1", "jobs", namespace=namespace)
    return await api.get(path, params={"labelSelector": selector}, max_bytes=MAX_LIST_BYTES)


async def list_pods(api: ApiServer, namespace: str, selector: str) -> Reply:
    """The pods of a namespace with these labels."""
    path = resource_path("v1", "pods", namespace=namespace)
    return await api.get(path, params={"labelSelector": selector}, max_bytes=MAX_LIST_BYTES)


async def get_pod(api: ApiServer, namespace: str, name: str) -> Reply:
    """One pod."""
    return await api.get(resource_path("v1", "pods", namespace=namespace, name=name))


async def list_events(api: ApiServer, namespace: str) -> Reply:
    """The Events of a namespace."""
    return await api.get(resource_path("v1", "events", namespace=namespace), max_bytes=MAX_LIST_BYTES)


async def read_log(
    api: ApiServer,
    namespace: str,
    pod: str,
    *,
    params: Params,
    open_timeout: float = 15.0,
    idle_timeout: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """The blocks of one container's log as they come; nothing is read ahead but what the connection buffers.

    ``idle_timeout``: seconds without a byte, while one is waited for, after which it counts as broken; None waits
    for ever. Close the iterator (``contextlib.aclosing``) to end the stream.

    :raises LogBroken: the log was refused, or the stream broke.
    """
    path = resource_path("v1", "pods", namespace=namespace, name=pod, sub="log")
    try:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(open_timeout):
                response = await stack.enter_async_context(api.send("GET", path, params=params))
                if response.status == 204:
                    raise LogBroken(Reply(Outcome.INVALID, 204, message=_UNSCHEDULED))
                if response.status != 200:
                    raw = await read_body(response, 2**20)
                    raise LogBroken(api.reply_to(response, raw))
            stack.callback(response.close)  # what is left of a stream must not go back to the pool
            while True:
                block = response.content.read_nowait(BLOCK_BYTES)
                if not block:  # a timer is only for what is not there yet
                    async with asyncio.timeout(idle_timeout):
                        block = await response.content.read(BLOCK_BYTES)
                if not block:
                    return
                yield block
    except TransportError as error:
        raise LogBroken(error.reply) from None
    except TimeoutError:
        message = f"{api.server}: nothing came in time"
        raise LogBroken(replies.unreachable("Timeout", message)) from None


def is_not_started(reply: Reply) -> bool:
    """Whether a log was refused because its container has not been started yet."""
    return reply.outcome is Outcome.INVALID and (
        "is waiting to start" in reply.message
        or "ContainerCreating" in reply.message
        or "PodInitializing" in reply.message
        or "does not have a host assigned" in reply.message
    )


def items_of(reply: Reply) -> list[dict[str, Any]]:
    """The items of a list."""
    return (reply.body or {}).get("items") or []
