"""Faults of a disk, and of those who stop a process, put into commands that run in a child of this process.

A child is forked, so that torch and all else is loaded already. It counts its calls that touch the disk, and at one of
them something happens. A clean run tells how many there are; `Scene` then goes through them.
"""

import errno
import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from geofilter.cli.process import _hear_signals
from geofilter.errors import INTERRUPTED
from helpers.command import Done, geofilter

KINDS = ("kill", "term", "interrupt", "eio", "full")
"""what may happen at a call: SIGKILL in the midst of it, SIGTERM, SIGINT, an error of the disk, a full disk from there
on; and, not among those that are gone through, "pause", which waits a while"""
WRITING = ("create", "write", "sync", "rename", "mkdir", "chmod")
"""calls that a full disk refuses"""
PAUSE = 0.4
LIMIT = 60
"""seconds after which a child hangs"""
MEMORY = 6 << 30
"""bytes of addresses that a child may take beyond what this process has"""
SCRATCH = ".tmp"
"""how the names of files end that are still being written"""
_AUDITED = {
    "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "remove", "os.chmod": "chmod",
    "os.listdir": "list", "os.scandir": "list",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call that touches the disk."""

    kind: str
    path: str


@dataclass(frozen=True)
class Fault:
    """What happens, and at which call (1 for the first)."""

    kind: str
    at: int


@dataclass
class Outcome:
    """What a child left."""

    code: int
    """128 and the signal's number where one ended it"""
    stdout: str = ""
    stderr: str = ""
    calls: list[Call] = field(default_factory=list)
    """none where it was killed"""

    @property
    def said(self) -> str:
        """The last line on stderr."""
        return (self.stderr.splitlines() or [""])[-1]


class Disk:
    """Counts this process' calls on files below some folders, and lets a fault happen; for a child's whole life."""

    def __init__(self, roots: Iterable[Path], fault: Fault | None) -> None:
        self.roots = tuple(f"{os.path.realpath(root)}/" for root in roots)
        self.fault, self.calls = fault, list[Call]()
        self._here = threading.local()

    @property
    def busy(self) -> bool:
        """Whether this thread is in a call that is looked at already; what it does there does not count."""
        return getattr(self._here, "busy", False)

    @busy.setter
    def busy(self, value: bool) -> None:
        self._here.busy = value

    def install(self) -> None:
        """See every call from now on."""
        from geofilter import together

        disk, plain = self, io.open

        class Raw(io.FileIO):
            def write(self, data: Any, /) -> int:
                half = memoryview(data)[: len(data) // 2]
                disk.call("write", self.fileno(), lambda: io.FileIO.write(self, half))
                return io.FileIO.write(self, data)

            def readinto(self, buffer: Any, /) -> int:
                disk.call("read", self.fileno())
                return io.FileIO.readinto(self, buffer)

            def readall(self) -> bytes:
                disk.call("read", self.fileno())
                return io.FileIO.readall(self)

        def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
                   newline: Any = None, closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
            if not isinstance(file, str | os.PathLike) or not self.within(file) or buffering == 0:
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
            return kind(raw) if "b" in mode else io.TextIOWrapper(kind(raw), encoding, errors, newline)

        io.open = sys.modules["builtins"].open = opened
        os.fsync = lambda descriptor: self.call("sync", descriptor)
        together._Scratch.__bases__ = (Raw,)
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | os.PathLike):
            made = isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_TRUNC)
            self.call("create" if made else "open", args[0])
        elif event in _AUDITED:
            self.call(_AUDITED[event], args[1] if event == "os.rename" else args[0])

    def within(self, path: Any) -> str:
        """The real path of a file of the folders, given by its path or an open descriptor; empty of another."""
        try:
            found = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else Path(os.fsdecode(path))
        except (OSError, TypeError):
            return ""
        real = os.path.normpath(Path.cwd() / found)  # links in it stay: what is renamed or removed is the link
        return real if f"{real}/".startswith(self.roots) else ""

    def call(self, kind: str, path: Any, half: Callable[[], object] = lambda: None) -> None:
        """Count a call, which the fault may be at; `half` does half of it."""
        if self.busy:
            return
        self.busy = True
        try:
            if not (real := self.within(path)):
                return
            self.calls.append(Call(kind, real))
            fault, n = self.fault, len(self.calls)
            if fault is None or not (n == fault.at or (fault.kind == "full" and n > fault.at)):
                return
            # The system names the file in errors of calls that are given its name, and in no others.
            name = () if isinstance(path, int) else (os.fsdecode(path),)
            if fault.kind == "pause":
                time.sleep(PAUSE)
            if fault.kind == "kill":
                half()
                os.kill(os.getpid(), signal.SIGKILL)
            if fault.kind == "eio":
                raise OSError(errno.EIO, os.strerror(errno.EIO), *name)
            if fault.kind == "full" and kind in WRITING:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *name)
        finally:
            self.busy = False
        if fault.kind in ("term", "interrupt"):
            signal.raise_signal(signal.SIGTERM if fault.kind == "term" else signal.SIGINT)


class _StoppedClock:
    """So that the same command gives the same bytes."""

    @staticmethod
    def now(zone: Any) -> datetime:
        return datetime(2026, 1, 1, tzinfo=zone)


def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock that files have times of."""
    from geofilter.bank import learn
    from geofilter.scanning import begun

    monkeypatch.setattr(learn, "datetime", _StoppedClock)
    monkeypatch.setattr(begun.Clock, "lap", lambda clock, name: clock.laps.setdefault(name, 0.0))


class Child:
    """Something that runs in a child of this process.

    Args:
        roots: folders whose files' calls count; none: nothing is counted, and no fault can happen.
    """

    def __init__(self, work: Callable[[], Done], roots: Sequence[Path] = (), fault: Fault | None = None) -> None:
        self.fault = fault
        self._pipe, writing = os.pipe()
        self._id = os.fork()
        if self._id:
            os.close(writing)
            return
        try:
            self._run(work, Disk(roots, fault), writing)
        finally:
            os._exit(99)  # never reached

    @staticmethod
    def _run(work: Callable[[], Done], disk: Disk, writing: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        came = _hear_signals()  # as a process of its own does
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
        if disk.roots:
            disk.install()
        try:
            done = work()
        except BaseException as error:
            done = Done(99, "", f"Traceback: {error!r}")
        disk.busy = True
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump((done.stdout, done.stderr, disk.calls), pipe)
        ended = done.returncode == INTERRUPTED and signal.SIGTERM in came
        os._exit(128 + signal.SIGTERM if ended else done.returncode)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        os.kill(self._id, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """Wait for it.

        Raises:
            TimeoutError: it hangs.
        """
        alarm = threading.Timer(LIMIT, os.kill, (self._id, signal.SIGKILL))
        alarm.start()
        with os.fdopen(self._pipe, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(self._id, 0)
        if not alarm.is_alive():
            raise TimeoutError(f"a command hangs: {self.fault}")
        alarm.cancel()
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Outcome(code, *(pickle.loads(said) if said else ()))


def apart(*args: object, cwd: Path, roots: Sequence[Path] = (), fault: Fault | None = None) -> Outcome:
    """A command in a child, which may be killed, hang or take all memory."""
    return Child(lambda: geofilter(*args, cwd=cwd), roots, fault).outcome()


def run(*args: object, cwd: Path) -> Outcome:
    """A command in this process, as it is."""
    done = geofilter(*args, cwd=cwd)
    return Outcome(done.returncode, done.stdout, done.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names, without those that are still being written and without locks.

    Of a manifest without what the last call alone did and how long it took.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (SCRATCH, ".lock") and path.name != "lock":
            found[path.relative_to(folder).as_posix()] = _lasting(path)
    return found


def _lasting(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name != "manifest.json":
        return content
    try:
        manifest = json.loads(content)
    except ValueError:
        return content
    return json.dumps(
        {k: v for k, v in manifest.items() if k not in ("seconds", "tokens_encoded_now", "seal")}
    ).encode()


def differing(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    """Names of files that only one side has, or that differ."""
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def scratch(folder: Path) -> list[Path]:
    """Files that are still being written."""
    return [path for path in folder.rglob("*") if path.suffix == SCRATCH]


def one_line(outcome: Outcome) -> str:
    """What a command that failed said: one line of error, the last one."""
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("geofilter: error: ")]
    assert outcome.code in (2, 3, 4), (outcome.code, outcome.stderr)
    assert errors == [outcome.said], outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.said.removeprefix("geofilter: error: ")


@dataclass
class Scene:
    """A command, and the folder in which it is run as it was before, each time with another fault.

    Args:
        folder: is taken as it is, and put back each time.
        reads: other folders whose reading may fail.
        between: looks at what a fault has left, before the command is run again.
    """

    folder: Path
    args: Sequence[object]
    reads: Sequence[Path] = ()
    between: Callable[["Scene", Outcome], object] = lambda scene, outcome: None
    explained: Sequence[str] = ()
    """files that do without what could not be read, banks' texts for instance"""

    def __post_init__(self) -> None:
        self._start = self.folder.with_name(f"{self.folder.name}-start")
        self.folder.rename(self._start)
        self.old = contents(self._start)
        self.reset()
        # In this process, so that children find loaded what it loads, and in the cache what it puts there.
        first = geofilter(*self.args, cwd=self.folder)
        assert first.returncode == 0, first.stderr
        self.reset()
        clean = self.run()
        assert clean.code == 0, clean.stderr
        self.calls, self.new = clean.calls, contents(self.folder)
        assert self.new != self.old

    def reset(self) -> None:
        """Put the folder back as it was."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._start, self.folder)

    def run(self, fault: Fault | None = None) -> Outcome:
        """Run the command in a child, whose calls are counted."""
        return apart(*self.args, cwd=self.folder, roots=[self.folder, *self.reads], fault=fault)

    def faults(self, n: int | None) -> Iterator[Fault]:
        """Every fault at every call, or n of them: two of three at calls that change something."""
        every = [
            Fault(kind, at)
            for at, call in enumerate(self.calls, start=1)
            for kind in KINDS
            if kind != "full" or call.kind in WRITING
        ]
        if n is None:
            yield from every
            return
        changing = [fault for fault in every if self.calls[fault.at - 1].kind in (*WRITING, "remove")]
        others = [fault for fault in every if fault not in changing]
        for faults, count in ((changing, n - n // 3), (others, n // 3)):
            yield from (faults[len(faults) * i // count] for i in range(min(count, len(faults))))

    def trial(self, fault: Fault) -> int:
        """Run the command with a fault, look at what it left, and run it again; return the exit code of the first."""
        self.reset()
        outcome = self.run(fault)
        # Two threads may call in another order than they did when all went well.
        call = (outcome.calls if len(outcome.calls) >= fault.at else self.calls)[fault.at - 1]
        what = f"{outcome.code} {outcome.said}"
        assert "Traceback" not in outcome.stderr, what
        wanted = {"kill": (137,), "term": (143,), "interrupt": (130,)}.get(fault.kind, (0, 2, 3, 4))
        assert outcome.code in wanted, what
        kept = [name for name in self.old if self.new.get(name) == self.old[name]]
        left = contents(self.folder)
        assert not [name for name in kept if left.get(name) != self.old[name]], what
        if outcome.code == 0:
            assert not (other := [n for n in differing(left, self.new) if n not in self.explained]), (
                f"{what}; other: {other}"
            )
        elif fault.kind in ("eio", "full"):
            # A full disk may be met only later.
            line = one_line(outcome)
            assert self._names(line, call) or (fault.kind == "full" and "cannot be written (" in line), what
        if fault.kind != "kill" and call.kind != "remove":
            assert not scratch(self.folder), what
        self.between(self, outcome)
        again = run(*self.args, cwd=self.folder)
        assert again.code == 0, f"{what}; again: {again.stderr}"
        other = differing(contents(self.folder), self.new)
        assert not other, f"{what}; again: {other}"
        assert not scratch(self.folder), what
        return outcome.code

    def trials(self, n: int | None) -> Counter[tuple[str, int]]:
        """Go through the faults, see `faults`; return how many of each kind ended with which exit code."""
        tally, wrong = Counter[tuple[str, int]](), list[str]()
        for fault in self.faults(n):
            try:
                tally[fault.kind, self.trial(fault)] += 1
            except AssertionError as error:
                wrong.append(f"{fault} {self.calls[fault.at - 1]}: {str(error).splitlines()[:2]}")
        print(self.args[0], len(self.calls), "calls", dict(sorted(tally.items())))  # noqa: T201 (seen with -s)
        assert not wrong, "\n".join([f"{len(wrong)} of {len(wrong) + tally.total()}:", *wrong[:40]])
        return tally

    def _names(self, line: str, call: Call) -> bool:
        """Whether an error names the file of a call, or its folder; of one that is being written, what it will be."""
        path, place = Path(call.path), Path(os.path.normpath(self.folder / line.partition(": ")[0]))
        return place in (path, path.parent) or (path.suffix == SCRATCH and place.parent == path.parent)
