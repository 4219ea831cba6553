"""A Job's logs as the view API sends them: frames, and a follow that goes on when its connection breaks."""

import time
from collections.abc import Iterator
from typing import Any, Final

from dispatcher.commands.management import ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest

SILENCE_SECONDS: Final = 60.0
"""Without a byte, although the server gives a sign of life every 15 s: the connection is lost."""
GIVE_UP_SECONDS: Final = 60.0
"""How long a follow tries to go on."""
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0)
_RESUMED_PODS: Final = 200
"""Pods of which a request says where to go on; of more, all lines come again and those that were shown are dropped."""

Parameters = dict[str, str | int]
Frame = tuple[Manifest, bytes]


def frames(blocks: Iterator[bytes]) -> Iterator[Frame]:
    """The frames of an answer (dispatcher/view/lines.py): a header, and its bytes of whole lines.

    Raises:
        ClusterSaysNo: the answer ended in the middle of a frame.
    """
    import orjson

    buffer = bytearray()
    head: Any = None
    for block in blocks:
        buffer += block
        start = 0
        while True:
            if head is None:
                end = buffer.find(b"\n", start)
                if end < 0:
                    break
                head = orjson.loads(memoryview(buffer)[start:end])
                start = end + 1
            size = int(head.get("bytes") or 0)
            if len(buffer) - start < size:
                break
            if "alive" not in head:
                yield head, bytes(memoryview(buffer)[start : start + size])
            start += size
            head = None
        del buffer[:start]
    if buffer or head is not None:
        raise ClusterSaysNo("the answer broke off: the dispatcher or a connection went away; ask again")


def once(management: ManagementCluster, path: str, parameters: Parameters) -> Iterator[Frame]:
    """The frames of what there is now. Raises ClusterSaysNo."""
    with management.stream(path, parameters) as blocks:
        yield from frames(blocks)


class Follow:
    """The frames of a follow. A broken connection or a restarted dispatcher costs no line, and doubles none."""

    def __init__(
        self, management: ManagementCluster, path: str, parameters: Parameters, *, timestamps: bool
    ) -> None:
        from dispatcher.view.stamps import Stamps

        self._stamps = Stamps
        self._management = management
        self._path = path
        # Timestamps say where to go on.
        self._first: Parameters = {**parameters, "timestamps": "true"}
        self._wanted = timestamps
        self._seen: dict[tuple[str, str, str], Stamps] = {}
        self._began = ""

    def frames(self) -> Iterator[Frame]:
        """Until the Job has ended, and all was shown. Raises ClusterSaysNo.

        After a notice with ``"anew": true`` the clusters that are missing are named anew.
        """
        lost_at: float | None = None
        tries = 0
        while True:
            try:
                parameters = self._resumed() if self._began else self._first
                began = self._now()
                with self._management.stream(self._path, parameters, timeout=SILENCE_SECONDS) as blocks:
                    self._began = self._began or began
                    for head, content in frames(blocks):
                        lost_at, tries = None, 0
                        if head.get("again"):
                            raise ClusterSaysNo(str(head["notice"]))
                        if "notice" in head:
                            yield head, content
                        elif lines := self._stamps_of(head).new(content):
                            yield {**head, "bytes": len(lines)}, lines
                    return
            except ClusterSaysNo as error:
                if not self._began or _is_final(error):
                    raise
                if lost_at is None:
                    lost_at = time.monotonic()
                    text = f"the stream broke off and goes on when it can: {error.message}"
                    yield {"notice": text, "anew": True}, b""
                if time.monotonic() > lost_at + GIVE_UP_SECONDS:
                    raise
                time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1

    def _stamps_of(self, head: Manifest) -> Any:
        key = (head["cluster"], head["pod"], head["container"])
        stamps = self._seen.pop(key, None) or self._stamps(wanted=self._wanted)
        self._seen[key] = stamps  # the last one that wrote is last
        return stamps

    def _resumed(self) -> dict[str, Any]:
        parameters: dict[str, Any] = dict(self._first)
        # What the options left out at the beginning must not come now.
        shortened = [name for name in ("tailLines", "sinceSeconds") if parameters.pop(name, None) is not None]
        since = {f"{cluster}/{pod}": stamps.resume() for (cluster, pod, _), stamps in self._seen.items()}
        known = [(pod, moment) for pod, moment in since.items() if moment]
        if shortened:
            parameters["sinceTime"] = min([self._began, *(moment for _, moment in known)])
        parameters["after"] = [f"{pod}={moment}" for pod, moment in known[-_RESUMED_PODS:]]
        return parameters

    @staticmethod
    def _now() -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _is_final(error: ClusterSaysNo) -> bool:
    """Whether trying again is of no use. A server that has just started may not know the API, or rights, yet."""
    return error.status in (400, 401) or (error.status == 404 and error.message.startswith("jobs.batch "))
