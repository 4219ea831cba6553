"""Jobs whose pods truly run: kubelets, containerd and runc on this machine. A package, so that its lab ends with it."""
