"""Which model and which SAE, and do they fit; files only, no torch."""
