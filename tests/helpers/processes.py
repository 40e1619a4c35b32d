"""Processes of the tests: what they have loaded, that they can be interrupted, and an environment like any other."""

import json
import os
import signal
import subprocess
import sys

HEAVY = ("torch", "transformers", "sae_lens", "faiss", "sklearn", "scipy", "numpy", "rich.progress")

OF_A_MACHINE = ("HF_", "TRANSFORMERS_", "OPENAI_", "GITHUB_", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "CLICOLOR",
                "COLUMNS", "LINES", "TERMINAL_WIDTH", "TTY_")  # fmt: skip
"""how the names of variables begin that change what is printed, or who is asked"""


def plain_environment() -> None:
    """Leave out of the environment what is this machine's own: a CI runner's, a terminal's, a user's accounts.

    Servers of the tests are on this machine, so no proxy is asked for them.
    """
    for name in [n for n in os.environ if n.startswith(OF_A_MACHINE) and n != "HF_HOME"]:
        del os.environ[name]
    known = [os.environ[name] for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)][:1]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(["127.0.0.1", "localhost", *known])


def loaded(code: str) -> set[str]:
    """Modules that are loaded after running code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def hear_interrupts() -> None:
    """See to it that processes started from here can be interrupted, also where this one cannot.

    A shell starts a background job, and many a CI runner everything, with the interrupt ignored, `nohup` with the
    hang-up; what is ignored is inherited. What is handled is not: so here it is handled, by doing nothing.
    """
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows knows no hang-up
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
