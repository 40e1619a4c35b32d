import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from geofilter.judge import endpoint as endpoints


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the judge would have slept; it does not."""
    slept: list[float] = []

    def wait(self, seconds: float, stop: threading.Event) -> None:
        if seconds > 0:
            slept.append(seconds)
        if stop.is_set():
            raise endpoints.Stopped

    monkeypatch.setattr(endpoints.Clock, "wait", wait)
    return slept


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory):
    """`transformers serve` with the whole embedded model: its address and the model's name there."""
    from geofilter.config import TargetChoice
    from geofilter.target.resolve import resolve, whole_model

    folder = whole_model(resolve(TargetChoice("smollm2-135m")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--host", "127.0.0.1", "--port", port]
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [*map(str, command), "--device", "cpu", "--dtype", "float32"],
            stdout=handle, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.kill()
        process.wait(10)
