"""`python -m geofilter`."""

from geofilter.cli import main

main()
