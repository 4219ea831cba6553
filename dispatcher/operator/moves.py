"""Counts what a write of the placement moves: shares given up with their cluster, completions that go elsewhere."""

from typing import Any

from dispatcher import metrics
from dispatcher.core import names
from dispatcher.core.placement import HOLDING, PlacementError, Share, ShareState, parse_placement

_LEFT = (f'"state":"{ShareState.LOST}"', f'"state":"{ShareState.REMOVING}"')


def count_moves(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare the Job that was decided on with what was written of it. Cheap while no share leaves its cluster.

    ``before`` is not read from a cache: its watch may bring the write before the write's answer.
    """
    text, earlier = _text(after), _text(before)
    if not any(state in text for state in _LEFT) or not earlier:
        return
    try:
        old = {share.id: share for share in parse_placement(earlier).shares}
        new = parse_placement(text).shares
    except PlacementError:
        return
    for share in new:
        known = old.get(share.id)
        if known is None or known.state not in HOLDING:
            continue
        if share.state is ShareState.LOST:
            metrics.share_lost(share.cluster)
        if share.state in (ShareState.LOST, ShareState.REMOVING) and (moved := _left_over(share)):
            metrics.completions_moved(share.cluster, moved)


def _left_over(share: Share) -> int:
    return share.remaining or 0


def _text(manifest: dict[str, Any]) -> str:
    text = (manifest["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION)
    return text if isinstance(text, str) else ""
