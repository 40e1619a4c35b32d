"""Rows answered again in place of being lost."""
