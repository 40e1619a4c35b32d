"""How a command ends: its exit code and one line, whatever fails, whatever its streams are, and at any signal."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import only_run, rows, scan_args

import geofilter as package
from geofilter.cli.edge import TRACEBACK, Carried, carried, guarded
from geofilter.errors import BankError, ReaderGone

FULL = Path("/dev/full")


def process(*args: str, code: str = "", cwd: Path | None = None, stdin: int | None = subprocess.DEVNULL, **streams):
    """Start the command line as a process of its own; `code` runs before it, and `streams` are the others."""
    start = (
        f"import os, signal, sys\nsys.argv = ['geofilter', *{args!r}]\n{code}\nfrom geofilter.cli import main\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", start], cwd=cwd, stdin=stdin, text=True, env=environment, **streams)


def ended(*args: str, code: str = "", **more) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with process(*args, code=code, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}) as started:
        out, err = started.communicate(timeout=120)
        return started.returncode, out or "", err or ""


def failing(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        with carried():
            raise error

    return command


def breaks(path: Path) -> None:
    raise OSError(errno.EIO, "Input/output error")  # as reading does, which names no file


def recursion() -> None:
    recursion()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BankError("b: damaged"), 3, "geofilter: error: b: damaged"),
        (KeyboardInterrupt(), 130, "geofilter: interrupted"),
        (ReaderGone("standard output"), 141, ""),
        (EOFError("Ran out of input"), 70, "geofilter: error: not foreseen: EOFError: Ran out of input; report it"),
        (AssertionError(), 70, "geofilter: error: not foreseen: AssertionError; report it with what GEOFILTER_TRACEB"),
        (KeyError("a\x1b[2J"), 70, "geofilter: error: not foreseen: KeyError: 'a\\x1b[2J'; report it with what"),
        (ValueError("a\x1b[2J\nb"), 70, "geofilter: error: not foreseen: ValueError: a\ufffd[2J; report it with what"),
        (MemoryError(), 70, "geofilter: error: the memory of this machine ran out"),
        (type("Panic", (BaseException,), {})("index"), 70, "geofilter: error: not foreseen: Panic: index; report it"),
        (OSError(errno.ENOSPC, "No space left on device"), 2,
         "geofilter: error: a file: cannot be written (No space left on device); free some space, or give another pl"),
        (OSError(errno.EROFS, "Read-only file system", "x/y"), 2,
         "geofilter: error: x/y: cannot be written (Read-only file system); give another place"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "geofilter: error: a file: cannot be written (Broken pipe)"),
        (OSError("We couldn't connect\nto it"), 2, "geofilter: error: We couldn't connect"),
        (ValueError("embedded null byte"), 2, "geofilter: error: a path holds a NUL character"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), 2,
         "geofilter: error: a\\udcff: a name of bytes that are no text cannot stand here; rename it"),
        (RuntimeError("Could not determine home directory."), 2, "geofilter: error: the home folder is not known; set"),
        (RuntimeError("could not determine the home directory for '~'"), 2, "geofilter: error: the home folder is not"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_every_failure_is_one_line_and_its_code(error: BaseException, code: int, said: str, capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    assert guarded(failing(error)) == code
    lines = capsys.readouterr().err.splitlines()
    assert [line[: len(said)] for line in lines] == [said] * bool(said)


def test_too_deep_a_recursion_is_one_line_too(capsys):
    assert guarded(recursion) == 70
    assert capsys.readouterr().err.startswith("geofilter: error: not foreseen: RecursionError: maximum recursion depth")


def test_a_traceback_is_shown_where_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    assert guarded(recursion) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert guarded(failing(BankError("b"))) == 3
    assert capsys.readouterr().err == "geofilter: error: b\n"


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda d: (d / "none").read_text(), "none: cannot be read (No such file or directory)"),
        (lambda d: d.read_text(), ": cannot be read (Is a directory)"),
        (lambda d: (d / "none" / "x").write_text(""), "x: cannot be written (No such file or directory)"),
        (lambda d: (d / "file" / "x").mkdir(), "x: cannot be written (Not a directory)"),
        (lambda d: (d / "file").rename(d / "none" / "y"), "y: cannot be written (No such file or directory)"),
        (lambda d: list((d / "file").iterdir()), "file: cannot be read (Not a directory)"),
        (
            lambda d: (d / "loop").read_bytes(),
            "loop: cannot be read (Too many levels of symbolic links); its links",
        ),
        (lambda d: (d / "loop").resolve(), "loop': its links go round in a circle: give the file itself"),
        (lambda d: (d / ("n" * 300)).open("w"), "n: cannot be written (File name too long); give a shorter name"),
        (lambda d: (d / ("n" * 300)).stat(), "n: cannot be read (File name too long); give a shorter name"),
        (lambda d: breaks(d / "file"), "file: cannot be read or written (Input/output error)"),
        (lambda d: (d / "a\0b").read_text(), "a path holds a NUL character, which no name can; give another"),
    ],
)
def test_a_path_that_fails_is_said_to_be_read_or_written(use, said: str, tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert guarded(lambda: use(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_error_that_came_of_an_interrupt_is_one(capsys):
    class Sends:
        def __set_name__(self, *_):
            raise KeyboardInterrupt

    assert guarded(lambda: type("Made", (), {"sends": Sends()})) == 130
    assert capsys.readouterr().err == "geofilter: interrupted\n"


def test_what_typer_would_end_with_1_comes_to_the_edge_as_it_is():
    for error in (OSError(errno.EPIPE, "Broken pipe"), EOFError(), KeyboardInterrupt()):
        with pytest.raises(Carried) as caught, carried():
            raise error
        assert caught.value.__cause__ is error


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("args", [("--version",), ("runs", "--help"), ("targets", "--json")], ids=" ".join)
def test_a_full_stdout_is_an_error_of_its_own(args: tuple[str, ...]):
    with FULL.open("w") as full:
        code, _, said = ended(*args, stdout=full)
    assert (code, said) == (2, "geofilter: error: standard output: cannot be written (No space left on device)\n")


def test_a_reader_that_has_gone_is_no_failure_to_speak_of():
    read, write = os.pipe()
    os.close(read)
    assert ended("targets", stdout=write) == (141, "", "")
    os.close(write)


def test_closed_streams():
    closed = "os.close(1)"
    code, _, said = ended("bank", "list", code=f"{closed}; sys.stdout = None")
    assert (code, said) == (2, "geofilter: error: standard output: cannot be written (Bad file descriptor)\n")
    assert ended("nosuch", code="os.close(2); sys.stderr = None")[0] == 2
    # Nothing that is opened later takes the number of a stream that is closed.
    code, _, said = ended("runs", code=f"{closed}; os.close(0); sys.stdin = sys.stdout = None")
    assert (code, said) == (0, "no run here; make one with geofilter scan DATA --model NAME\n")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path):
    with FULL.open("w") as full:
        assert ended("runs", cwd=tmp_path, stderr=full)[:2] == (0, "")
        assert ended("gate", cwd=tmp_path, stderr=full)[:2] == (4, "")


def at_import_of(module: str, number: str) -> str:
    """Code that sends a signal to its own process when a module is looked for."""
    return (
        "class Sends:\n def find_spec(self, name, *_):\n"
        f"  if name == {module!r}: signal.raise_signal(signal.{number})\n"
        "sys.meta_path.insert(0, Sends())"
    )


@pytest.mark.parametrize(
    ("module", "number", "code"),
    [
        ("geofilter.cli.process", "SIGINT", 130),
        ("typer", "SIGINT", 130),
        ("geofilter.run.find", "SIGTERM", 143),
        ("geofilter.run.find", "SIGHUP", 129),
    ],
)
def test_a_signal_while_modules_are_loaded_says_one_line(module: str, number: str, code: int, tmp_path: Path):
    found = ended("runs", code=at_import_of(module, number), cwd=tmp_path)
    assert found == (code, "", "" if module == "geofilter.cli.process" else "geofilter: interrupted\n")


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path):
    ignored = f"signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{at_import_of('geofilter.run.find', 'SIGHUP')}"
    assert ended("runs", code=ignored, cwd=tmp_path)[0] == 0


def test_an_interrupt_that_is_lost_in_a_destructor_comes_again(tmp_path: Path):
    lost = (
        "import time\n"
        "class Lost:\n def __del__(self): signal.raise_signal(signal.SIGTERM)\n"
        "class Loses:\n"
        " def find_spec(self, name, *_):\n"
        "  if name == 'geofilter.run.find':\n   Lost()\n   time.sleep(60)\n"
        "sys.meta_path.insert(0, Loses())"
    )
    assert ended("runs", code=lost, cwd=tmp_path) == (143, "", "geofilter: interrupted\n")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_leaves_no_temporary_file_and_no_lock(tiny, tiny_bank: Path, tmp_path: Path, number: str, code: int):
    write_rows(tmp_path / "d.jsonl", rows(6))
    assert geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path).returncode == 0
    before = {p for p in tmp_path.rglob("*") if p.name != "lock"}
    sends = f"os.fsync = lambda _: signal.raise_signal(signal.{number})"
    found = ended("filter", "--drop", "2", code=sends, cwd=tmp_path)
    assert (found[0], found[2].splitlines()[-1]) == (code, "geofilter: interrupted")
    assert {p for p in tmp_path.rglob("*") if p.name != "lock"} == before
    assert geofilter("filter", only_run(tmp_path), "--drop", "2", cwd=tmp_path).returncode == 0


def test_a_working_folder_that_has_gone(tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code, out, said = ended("runs", code=f"os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})")
    assert (code, out) == (2, "")
    assert said == "geofilter: error: the folder that geofilter runs in has been deleted; change to another\n"


def test_no_home(tmp_path: Path):
    for home in ("del os.environ['HOME']", "os.environ['HOME'] = '/proc/none'"):
        assert ended("runs", code=home, cwd=tmp_path)[0] == 0
