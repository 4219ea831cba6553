"""Connections to API servers: checked credentials, a JSON client, list/watch caches, health.

The layer knows how to talk to a cluster and how to notice that it can not. What to do about either is decided
in ``dispatcher.core`` and carried out by ``dispatcher.operator``.
"""
