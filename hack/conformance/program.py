"""A scenario's script as a program of a container, for nodes whose pods truly run."""

from __future__ import annotations

from typing import Any

from hack.conformance.scenario import JSON, Scenario
from hack.lab.kubelet.images import BUSYBOX
from hack.lab.scripter.script import Entry, Numbers, Outcome, Script, parse

FOLDER = "/scenarios"
"""In the container: a folder of its node, shared by all pods of a namespace there."""

# How often an index (else the Job, on this node) was tried before is the number of folders that tries have left. TICKS
# are fifths of a second; `told` is where a step of the scenario writes the exit code that ends the pod.
PROGRAM = """\
trap '{termination}' TERM
key=${{JOB_COMPLETION_INDEX:-none}}
mine={folder}/{scenario}
mkdir -p "$mine"
try=0
while ! mkdir "$mine/$key-$try" 2>/dev/null; do try=$((try + 1)); done
ticks=0 code=0
{choice}
told={folder}/told-$POD
while :; do
    if [ -s "$told" ]; then exit "$(cat "$told")"; fi
    if [ "$ticks" = 0 ]; then exit "$code"; fi
    if [ "$ticks" -gt 0 ]; then ticks=$((ticks - 1)); fi
    sleep 0.2 & wait $!
done
"""


def can_play(scenario: Scenario) -> bool:
    """Whether its pods' ends are such as a program can have: no evictions, no order of pods."""
    return (
        scenario.cron is None
        and not any("nth" in entry for entry in scenario.script)
        and not any(options.get("disrupted") for name, options in scenario.steps if isinstance(options, dict))
    )


def depends_on_kubelet(scenario: Scenario) -> bool:
    """Whether what it shows is a kubelet's doing: restarts, exit codes, the time from SIGTERM to the end."""
    return (
        scenario.pod.get("restartPolicy") == "OnFailure"
        or bool(scenario.termination)
        or "onExitCodes" in str(scenario.spec.get("podFailurePolicy"))
    )


def adapt(manifest: JSON, scenario: Scenario, *, namespace: str) -> JSON:
    """The Job with a container that does what the script says."""
    template = manifest["spec"]["template"]
    script = parse(template["metadata"]["annotations"])
    pod = template["spec"]
    program = program_of(script, scenario=scenario.id)
    pod["volumes"] = [
        {"name": "node", "hostPath": {"path": folder_of(namespace), "type": "DirectoryOrCreate"}}
    ]
    for container in pod["containers"]:
        container |= {
            "image": BUSYBOX,
            "command": ["sh", "-uc", program],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "node", "mountPath": FOLDER}],
        }
    return manifest


def program_of(script: Script, *, scenario: str, folder: str = FOLDER) -> str:
    """What sh runs for a script. Of the environment it reads POD, and JOB_COMPLETION_INDEX where there is one."""
    return PROGRAM.format(
        folder=folder,
        scenario=scenario,
        termination=_end(script.termination),
        choice=_choice(script.entries),
    )


def folder_of(namespace: str) -> str:
    """The namespace's folder in its node's mount namespace."""
    return f"/run/{namespace}"


def told(namespace: str, pod: str) -> str:
    """The file in the node's mount namespace from which a pod reads how to end."""
    return f"{folder_of(namespace)}/told-{pod}"


def _choice(entries: tuple[Entry, ...]) -> str:
    """Shell that sets ticks and code by the first entry that matches."""
    lines: list[str] = []
    for entry in entries:
        tests = [_among("$key", entry.index, "none"), _among("$try", entry.tries, None)]
        condition = " && ".join(test for test in tests if test) or "true"
        lines.append(f"{'elif' if lines else 'if'} {condition}; then {_outcome(entry.outcome)}")
    return "\n".join([*lines, "fi"] if lines else [":"])


def _among(variable: str, numbers: Numbers | None, absent: Any) -> str:
    if numbers is None:
        return ""
    tests = []
    for first, last in numbers.intervals:
        bounds = [f'[ "{variable}" -ge {first} ]']
        bounds += [] if last is None else [f'[ "{variable}" -le {last} ]']
        tests.append("{ " + " && ".join(bounds) + "; }")
    known = f'[ "{variable}" != {absent} ] && ' if absent else ""
    return f"{known}{{ {' || '.join(tests)}; }}"


def _outcome(outcome: Outcome) -> str:
    ticks = -1 if outcome.exit is None else round(outcome.after * 5)
    return f"ticks={ticks} code={outcome.exit or 0}"


def _end(outcome: Outcome) -> str:
    return f"trap : TERM; sleep {outcome.after:g} & wait $!; exit {outcome.exit}"
