"""Making banks from labelled rows.

A built-in bank is the same thing as a seed bank: its seed rows are the contrast texts in the package. For the embedded
target the finished banks ship too, so that the first scan starts at once.
"""
