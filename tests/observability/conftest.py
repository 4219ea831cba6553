"""The dispatcher and the namespaces of the integration tests."""

from tests.integration.conftest import controller, planes

__all__ = ["controller", "planes"]
