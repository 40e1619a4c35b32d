"""Which rows go, the files that are written, and the gate."""
