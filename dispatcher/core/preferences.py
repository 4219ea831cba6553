"""Which clusters take part and how much each gets: Federation's preferences, and how to read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dispatcher.core import strict_json
from dispatcher.core.names import ClusterName
from dispatcher.core.strict_json import JsonError, boolean, folded, integer, member, members

EVERY_OTHER_CLUSTER: Final = ClusterName("*")
"""The name whose preferences hold for each cluster that is not named itself."""


class PreferencesError(ValueError):
    """Text that is no preferences object; the message says what is wrong and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPreferences:
    """One cluster's bounds, in pods or completions, and its weight relative to the other clusters'."""

    min_replicas: int = 0
    """A base: the part that the weight brings comes on top of it."""
    max_replicas: int | None = None
    """The most that the cluster gets; ``None`` is unbounded."""
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What the annotation ``federation.kubernetes.io/job-preferences`` says, or a policy in its terms."""

    clusters: Mapping[ClusterName, ClusterPreferences]
    """By exact name; ``*`` stands for every cluster that is not named."""
    rebalance: bool = False
    """Whether a cluster may lose what it has, so that the division comes closer to the weights."""
    unknown: tuple[str, ...] = ()
    """Paths of keys that were not understood, and are ignored."""

    def of(self, cluster: ClusterName) -> ClusterPreferences | None:
        """The cluster's own entry, else that of ``*``; ``None`` leaves the cluster without work."""
        return self.clusters.get(cluster, self.clusters.get(EVERY_OTHER_CLUSTER))


EVEN: Final = Preferences(clusters={EVERY_OTHER_CLUSTER: ClusterPreferences(weight=1)})
"""What holds without an annotation or policy, and with a malformed annotation."""


def parse_preferences(text: str) -> Preferences:
    """Read the annotation ``federation.kubernetes.io/job-preferences``.

    As Go's ``encoding/json`` reads it: keys without regard to case, unknown keys ignored, null for "not
    given", the last of equal keys counts. ``{}`` and ``null`` name no cluster, so that none gets work.

    Raises:
        PreferencesError: malformed JSON, a value of a wrong type, a number that is negative or above int64.
    """
    try:
        return read_preferences(strict_json.parse(text))
    except JsonError as error:
        raise PreferencesError(str(error)) from None


def read_preferences(value: strict_json.Value, where: str = "") -> Preferences:
    """Preferences within a larger document; ``where`` is the value's path there, for messages.

    Raises:
        JsonError: as for :func:`parse_preferences`.
    """
    rebalance = False
    unknown: list[str] = []
    clusters: dict[ClusterName, ClusterPreferences] = {}
    for key, given in members(value, where):
        path = member(where, key)
        match folded(key):
            case "rebalance" if given is not None:
                rebalance = boolean(given, path)
            case "clusters" if given is None:
                clusters.clear()
            case "clusters":
                # Go adds to the map that an earlier key of this name has made.
                for name, entry in members(given, path):
                    clusters[ClusterName(name)] = _read_cluster(entry, member(path, name), unknown)
            case "rebalance":
                pass
            case _:
                unknown.append(path)
    return Preferences(clusters=clusters, rebalance=rebalance, unknown=tuple(unknown))


def _read_cluster(value: strict_json.Value, where: str, unknown: list[str]) -> ClusterPreferences:
    min_replicas = 0
    max_replicas: int | None = None
    weight = 0
    for key, given in members(value, where):
        path = member(where, key)
        match folded(key):
            case "minreplicas" if given is not None:
                min_replicas = integer(given, path)
            case "maxreplicas":
                max_replicas = None if given is None else integer(given, path)
            case "weight" if given is not None:
                weight = integer(given, path)
            case "minreplicas" | "weight":
                pass
            case _:
                unknown.append(path)
    return ClusterPreferences(min_replicas=min_replicas, max_replicas=max_replicas, weight=weight)
