"""Whose identity a command uses, and where: the user's kubeconfig, chosen as kubectl chooses it."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

from dispatcher.commands.refusals import ClusterSaysNo

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the credentials of its ServiceAccount."""


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """``configuration``: a kubernetes.client.Configuration; ``namespace``: the context's."""

    configuration: Any
    namespace: str
    impersonation: tuple[tuple[str, str], ...] = ()
    """Headers, by the user's ``as``, ``as-groups``, ``as-uid`` and ``as-user-extra``."""


def read_identity(*, kubeconfig: str | None = None, context: str | None = None) -> Identity:
    """Read the kubeconfig: ``kubeconfig``, else the files of $KUBECONFIG, else ~/.kube/config.

    Of several files the first that sets a value or an entry wins, as with kubectl. Without any file a pod's own
    ServiceAccount is used.

    Raises:
        ClusterSaysNo: there is none, it is malformed, or it has no such context.
    """
    # Imports that take longer than all the rest; help and wrong usage do not wait for them.
    import yaml
    from kubernetes import client, config
    from kubernetes.config import kube_config

    # The library is untyped; one Any instead of an ignore on each call.
    library: Any = kube_config
    configuration: Any = client.Configuration()
    # A refused connection is said at once; by default it is tried four times, with a warning for each.
    configuration.retries = False
    try:
        if kubeconfig and not Path(kubeconfig).expanduser().exists():
            raise ClusterSaysNo(f"{kubeconfig} is missing; give --kubeconfig FILE or set KUBECONFIG")
        files = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        merger = library.KubeConfigMerger(files)
        if merger.config is None:
            if context is None and (identity := _own_account(configuration)):
                return identity
            raise ClusterSaysNo("there is no kubeconfig; give --kubeconfig FILE or set KUBECONFIG")
        if not context:
            # The library lets the last file decide, kubectl the first.
            contexts = (document.get("current-context") for document in merger.config_files.values())
            context = next(filter(None, contexts), None)
        if not context:
            raise ClusterSaysNo("the kubeconfig has no current-context; give --context NAME")
        known = [
            entry["name"]
            for document in merger.config_files.values()
            for entry in document.get("contexts") or ()
        ]
        if context not in known:
            raise ClusterSaysNo(f'context "{context}" does not exist in the kubeconfig')
        loader = library.KubeConfigLoader(
            config_dict=merger.config, active_context=context, config_base_path=None
        )
        loader.load_and_set(configuration)
        chosen = loader.current_context["context"]
        user = _user(merger.config_files, chosen.get("user"))
        return Identity(configuration, chosen.get("namespace") or "default", _impersonation(user))
    except (
        *(config.ConfigException, yaml.YAMLError, OSError),
        # Values of a wrong type, which the library does not look for.
        *(ValueError, TypeError, KeyError, AttributeError),
    ) as error:
        raise ClusterSaysNo(f"the kubeconfig cannot be used: {' '.join(str(error).split())}") from None


def read_contexts(kubeconfig: str | None = None) -> list[str]:
    """The names of the kubeconfig's contexts. Raises ClusterSaysNo for a malformed one."""
    import yaml

    files = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    found: list[str] = []
    for name in files.split(os.pathsep):
        try:
            document = yaml.safe_load(Path(name).expanduser().read_text()) if name else None
            found += [entry["name"] for entry in (document or {}).get("contexts") or ()]
        except FileNotFoundError:
            continue
        except (yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError):
            raise ClusterSaysNo(f"the kubeconfig {name} cannot be used") from None
    return found


def _own_account(configuration: Any) -> Identity | None:
    if "KUBERNETES_SERVICE_HOST" not in os.environ or not (_ACCOUNT / "token").exists():
        return None
    from kubernetes import config

    library: Any = config
    library.load_incluster_config(client_configuration=configuration)
    namespace = _ACCOUNT / "namespace"
    return Identity(configuration, namespace.read_text().strip() if namespace.exists() else "default")


def _user(files: dict[str, Any], name: object) -> dict[str, Any]:
    for document in files.values():
        for entry in document.get("users") or ():
            if entry["name"] == name:
                return entry.get("user") or {}
    return {}


def _impersonation(user: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    headers = [("Impersonate-User", user.get("as")), ("Impersonate-Uid", user.get("as-uid"))]
    headers += [("Impersonate-Group", group) for group in user.get("as-groups") or ()]
    headers += [
        (f"Impersonate-Extra-{key}", value)
        for key, values in (user.get("as-user-extra") or {}).items()
        for value in values
    ]
    return tuple((name, str(value)) for name, value in headers if value)
