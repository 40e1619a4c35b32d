"""Making banks from labelled rows."""
