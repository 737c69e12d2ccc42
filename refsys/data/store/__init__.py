"""Store of prepared entries: memory-mapped NumPy columns named by content, and their manifest."""
