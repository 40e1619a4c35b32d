"""The scan, and a finished run's target opened again."""
