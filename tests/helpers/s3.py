"""An S3 server on this machine, in a process of its own: what speaks to it is the real s3fs, over HTTP."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

SECRET = "a-secret-that-must-never-be-said"


@contextmanager
def s3_server() -> Iterator[str]:
    """Start one; its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main(['-p', '0'])"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                # It writes a line for each request, and would wait for a reader once the pipe is full.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[0]
                return
        raise AssertionError(f"the server has not started: {''.join(said)}")
    finally:
        process.kill()
        process.wait()


def use(address: str, set_variable: Callable[[str, str], None]) -> None:
    """Have s3fs, here and in commands that are started, speak to a server."""
    for name, value in {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        set_variable(name, value)


def connected(address: str, monkeypatch: pytest.MonkeyPatch):
    """The file system of a server, which a test looks into a store with."""
    import s3fs

    use(address, monkeypatch.setenv)
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


def after_fork() -> None:
    """In a child of this process: forget the connections and the thread of the parent, as not every fsspec does."""
    import fsspec.asyn
    import s3fs

    fsspec.asyn.loop[0] = fsspec.asyn.iothread[0] = None
    s3fs.S3FileSystem.clear_instance_cache()
