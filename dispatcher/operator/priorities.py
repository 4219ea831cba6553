"""The management cluster's PriorityClasses as numbers: by them Jobs that wait for room are served."""

from typing import Any

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reflector import Reflector
from dispatcher.operator.world import World

DEFAULT = ""
"""The name under which the class with ``globalDefault`` is kept: that of pods which name none."""


class PriorityClasses:
    """Keeps ``world.priority_classes`` equal to the cluster's."""

    def __init__(self, api: ApiServer, world: World) -> None:
        self._world = world
        cache = ObjectCache(on_change=self._changed)
        self._reflector = Reflector(api, resource_path("scheduling.k8s.io/v1", "priorityclasses"), cache)
        self._cache = cache

    async def run(self) -> None:
        """List and watch until cancelled."""
        await self._reflector.run()

    def _changed(self, _old: dict[str, Any] | None, _new: dict[str, Any] | None) -> None:
        before = self._world.priority_classes
        values = {manifest["metadata"]["name"]: int(manifest["value"]) for manifest in self._cache}
        defaults = [int(manifest["value"]) for manifest in self._cache if manifest.get("globalDefault")]
        if defaults:  # admission takes the lowest where there are several for a moment
            values[DEFAULT] = min(defaults)
        if values != before:
            self._world.priority_classes = values
            self._world.wake_all()
