"""The controller's image: `assemble` is its build step, archive.py makes it without a container engine."""
