"""Renders chat templates in this process, asked through standard input; see `template`."""

from __future__ import annotations

import os
import sys

from geofilter.encode.template import serve

if __name__ == "__main__":
    # At once: what a library does as a process ends is of no use here.
    os._exit(serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1])))
