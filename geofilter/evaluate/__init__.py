"""A run against labels, beside controls and with intervals."""
