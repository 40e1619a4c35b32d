"""The command line: parse, call one function, render."""

from geofilter.cli.app import app as app
from geofilter.cli.app import main as main
