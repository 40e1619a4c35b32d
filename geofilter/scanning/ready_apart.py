"""Makes rows ready in this process, asked through standard input; see `ahead`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # What a library prints must not come among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Tokenizers need no torch, which takes seconds and hundreds of MB to load; transformers goes without.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from geofilter.scanning.ahead import serve

    serve(sys.stdin.buffer, answers)
    # At once: what a library does as a process ends is of no use here.
    os._exit(0)
