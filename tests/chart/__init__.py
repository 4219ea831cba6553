"""The charts. A package, so that its lab ends with it."""
