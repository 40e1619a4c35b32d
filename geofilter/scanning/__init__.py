"""The scan, and a finished run's target opened again. Imports build, encode, run, bank, target and rows."""
