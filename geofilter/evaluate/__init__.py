"""A run against labels, beside controls and with intervals. Imports labels, cut, run, bank and rows."""
