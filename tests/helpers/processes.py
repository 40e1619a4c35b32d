"""What a process of its own has loaded."""

import json
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
