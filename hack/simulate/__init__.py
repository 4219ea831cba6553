"""A deterministic simulation: the real decision and executor against model API servers and Job controllers."""
