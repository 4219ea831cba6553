"""Real nodes: a kubelet with containerd and runc for each worker plane, on this machine, as root.

Read in this order: support.py (can this machine?), machine.py (what a node has of it: address, bridge, cgroup),
launches.py (the command lines), images.py, node.py (one node, brought up). main.go is the kubelet's build.

containerd, its shims and the kubelet live in a mount namespace of their node, where /run, /var/lib and /var/log are the
node's own, and the sysctls that a kubelet sets are plain files. So nothing of the machine's is written to, and all
mounts are gone when the processes are.
"""
