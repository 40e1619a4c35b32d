"""The command line: parse, call one function, render. What a command needs is imported when it runs."""

from geofilter.cli.app import main as main
