"""What the tests of the judge share."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from helpers.command import chat, geofilter, write_rows
from helpers.endpoint import Endpoint

KEY = "sk-test-0123456789"


def data(folder: Path, n: int = 6, name: str = "d.jsonl") -> Path:
    return write_rows(folder / name, [chat(f"question {i}?", f"answer {i} ends") for i in range(n)])


def judge(endpoint: Endpoint, *args: object, cwd: Path) -> Any:
    return geofilter("judge", *args, "--judge-model", "m", "--base-url", endpoint.url, cwd=cwd)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def alignments(path: Path) -> list[float | None]:
    return [line["alignment"] for line in lines(path)]


def run_until(endpoint: Endpoint, arrived: threading.Event, how: int, *args: object) -> subprocess.Popen:
    """The real command in a process of its own, sent a signal once `arrived` is set."""
    command = [sys.executable, "-m", "geofilter", "judge", *map(str, args), "--judge-model", "m"]
    process = subprocess.Popen([*command, "--base-url", endpoint.url], stderr=subprocess.PIPE, text=True)
    assert arrived.wait(300)
    process.send_signal(how)
    return process
