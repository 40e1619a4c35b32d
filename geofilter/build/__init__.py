"""Making banks from labelled rows. Imports encode, bank, target and rows."""
