"""The command line: parse, call one function, render. Imports everything, inside the commands."""

from geofilter.cli.app import app as app
from geofilter.cli.app import main as main
