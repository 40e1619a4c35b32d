"""A shell with `geofilter` on its path, which is run in a child forked from this process: torch is loaded already.

The command on the path sends its arguments, folder, environment and standard streams here, and ends with the exit code
of a child that calls the command line's entry point with them. That an interpreter starts it is for other tests.
"""

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

LIMIT = 300
"""seconds after which a shell hangs"""
_SIZE = 8
"""bytes that say how long a request is"""
_COMMAND = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(bytes.fromhex("ADDRESS"))
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes({_SIZE}, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(server.recv(1)[0])
"""
_NUMBERS = itertools.count()


def shell(command: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run a command of the shell; return its exit code, and what it printed on both streams.

    Raises:
        TimeoutError: it hangs.
    """
    address = f"\0geofilter-{os.getpid()}-{next(_NUMBERS)}".encode()  # a name without a file
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said, socket.socket(socket.AF_UNIX) as at:
        at.bind(address)
        at.listen()
        program = Path(folder, "geofilter")
        program.write_text(_COMMAND.replace("ADDRESS", address.hex()))
        program.chmod(0o755)
        process = subprocess.Popen(
            ["sh", "-c", command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
        )  # fmt: skip
        _serve(at, process)
        said.seek(0)
        return process.returncode, said.read().decode()


def _serve(at: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Run what a shell calls until it has ended: several at once, where it joins them by a pipe."""
    running: dict[int, socket.socket] = {}
    end = time.monotonic() + LIMIT
    try:
        while process.poll() is None:
            if time.monotonic() > end:
                raise TimeoutError(f"a shell hangs: {process.args}")
            if select.select([at], [], [], 0.01)[0]:
                asked, _ = at.accept()
                if not (child := os.fork()):
                    _run(asked)
                running[child] = asked
            for child in [*running]:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                    with running.pop(child) as asked:
                        asked.sendall(bytes([code if code >= 0 else 128 - code]))
    finally:
        process.kill()
        process.wait()
        for child in running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _run(asked: socket.socket) -> None:
    """Be the command that is asked for; does not return."""
    code = 99
    try:
        size, streams, *_ = socket.recv_fds(asked, _SIZE, 3)
        with asked.makefile("rb") as pipe:
            args, folder, environment = json.loads(pipe.read(int.from_bytes(size, "big")))
        for stream, sent in enumerate(streams):
            os.dup2(sent, stream)
            os.close(sent)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["geofilter", *args]
        sys.stdin, sys.stdout, sys.stderr = (
            open(stream, mode, 1, "utf-8", closefd=False)  # noqa: SIM115 - descriptors
            for stream, mode in enumerate("rww")
        )
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        from geofilter.cli import main

        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
