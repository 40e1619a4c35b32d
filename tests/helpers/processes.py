"""Processes that tests start: what they have loaded, and that they can be interrupted."""

import json
import signal
import subprocess
import sys

HEAVY = ("torch", "transformers", "sae_lens", "faiss", "sklearn", "scipy", "numpy", "rich.progress")


def loaded(code: str) -> set[str]:
    """Modules that are loaded after running code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def hear_interrupts() -> None:
    """See to it that processes started from here can be interrupted, also where this one cannot.

    A shell starts a background job, and many a CI runner everything, with the interrupt ignored, and what is ignored is
    inherited. What is handled is not: so here it is handled, by doing nothing.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
