"""`python -m geofilter`."""

from geofilter.cli.app import main

main()
