"""The Jobs of the demonstration, as a person would write them."""

from __future__ import annotations

from hack.lab.kubelet.images import BUSYBOX

NAMESPACE = "default"

SPLIT = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: render
spec:
  managedBy: jobdispatcher.io/dispatcher
  completions: 12
  parallelism: 6
  template:
    metadata:
      annotations:
        lab.jobdispatcher.io/script: '[{"nth": "0", "after": "3s"}, {"after": "2s"}]'
    spec:
      restartPolicy: Never
      containers:
        - name: frame
          image: example/render
"""

INDEXED = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: chunks
spec:
  managedBy: jobdispatcher.io/dispatcher
  completionMode: Indexed
  completions: 8
  parallelism: 4
  template:
    metadata:
      annotations:
        lab.jobdispatcher.io/script: '[{"index": "2,6", "after": "2s"}, {"after": "1s"}]'
    spec:
      restartPolicy: Never
      containers:
        - name: chunk
          image: example/chunk
"""


# The same on real nodes: their pods run these scripts.
REAL_SPLIT = f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: render
spec:
  managedBy: jobdispatcher.io/dispatcher
  completions: 12
  parallelism: 6
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: frame
          image: {BUSYBOX}
          command: [sh, -c, "echo $(hostname) renders; sleep 2"]
"""

REAL_INDEXED = f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: chunks
spec:
  managedBy: jobdispatcher.io/dispatcher
  completionMode: Indexed
  completions: 8
  parallelism: 4
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: chunk
          image: {BUSYBOX}
          command: [sh, -c, "sleep 1; echo $(hostname) has chunk $JOB_COMPLETION_INDEX"]
"""
