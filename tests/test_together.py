"""Files that appear together: all, or none; private as their input; never through a link."""

import os
import signal
import threading
from pathlib import Path

import pytest

from geofilter.errors import InputError
from geofilter.files import atomic, folders_locked, json_text
from geofilter.together import NotWrittenError, Together, mode_of, undisturbed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_appears_before_all_is_there_and_nothing_is_left_of_a_failure(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "about").write_text("old")
    with pytest.raises(ZeroDivisionError), Together([tmp_path / "about"]) as files:
        for name in ("a", "b"):
            with files.open(tmp_path / name) as handle:
                handle.write(b"new")
        assert (tmp_path / "a").read_text() == "old"
        raise ZeroDivisionError
    assert names(tmp_path) == ["a", "about"]
    assert (tmp_path / "about").read_text() == "old"


def test_the_outdated_goes_first_and_the_last_comes_last(tmp_path: Path, monkeypatch):
    (tmp_path / "about").write_text("old")
    steps: list[str] = []
    for kind in ("replace", "unlink"):
        real = getattr(Path, kind)

        def noted(path: Path, *args, kind: str = kind, real=real, **kwargs):
            steps.append(f"{kind} {(args[0] if args else path).name}")
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, kind, noted)
    with Together([tmp_path / "about"]) as files:
        for name, last in (("about", True), ("a", False), ("b", False)):
            with files.open(tmp_path / name, last=last) as handle:
                handle.write(b"new")
    assert steps[:4] == ["unlink about", "replace a", "replace b", "replace about"]


def test_a_temporary_file_is_new_and_private_and_the_file_has_the_input_s_mode(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o640)
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o444)
    assert mode_of([secret, tmp_path / "open"]) == 0o640
    assert mode_of([tmp_path / "open"]) == 0o644
    assert mode_of([tmp_path / "none"]) is None
    with atomic(tmp_path / "out", mode_of([secret])) as handle:
        (scratch,) = [path for path in tmp_path.iterdir() if path.name.startswith(".geofilter-")]
        assert scratch.stat().st_mode & 0o777 == 0o640
        handle.write(b"y")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_an_output_that_is_a_link_is_replaced_and_not_written_through(tmp_path: Path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic(tmp_path / "link") as handle:
        handle.write(b"new")
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path):
    with Together() as files, files.open(tmp_path / "a"):
        (ours,) = tmp_path.iterdir()
        dead = ours.with_name(ours.name.replace(f"-{os.getpid()}-", "-4194305-"))  # above the largest process id
        elsewhere = ours.with_name(ours.name.replace(ours.name.split("-")[1], "0" * 8))
        old = elsewhere.with_name(elsewhere.name.replace("0" * 8, "1" * 8))
        for path in (dead, elsewhere, old):
            path.write_text("x")
        folder = dead.with_name(dead.name.replace(".tmp", "")[:-8] + "00000000.tmp")
        (folder / "inner").mkdir(parents=True)
        os.utime(old, (1e9, 1e9))
    with atomic(tmp_path / "b"):
        pass
    assert names(tmp_path) == sorted(["a", "b", elsewhere.name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_what_belongs_together(number: int):
    done: list[str] = []

    def heard(*_: object) -> None:
        done.append("signal")

    before = signal.signal(number, heard)
    try:
        with undisturbed():
            signal.raise_signal(number)
            done.append("step")
        assert done == ["step", "signal"]
        assert signal.getsignal(number) is heard
    finally:
        signal.signal(number, before)
    thread = threading.Thread(target=lambda: undisturbed().__enter__())  # where no handler can be set
    thread.start()
    thread.join()


def test_a_file_that_cannot_be_written_is_told_and_one_that_cannot_be_read_is_not_taken_for_it(tmp_path: Path):
    wanted = r"none/x: cannot be written \(No such file or directory\)"
    with pytest.raises(InputError, match=wanted), atomic(tmp_path / "none" / "x"):
        pass
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "x") as handle:
        handle.write((tmp_path / "gone").read_bytes())
    if Path("/dev/full").exists():
        with pytest.raises(NotWrittenError, match="No space left"):
            _write_to("/dev/full")


def _write_to(place: str) -> None:
    from geofilter.together import _Scratch

    with _Scratch(os.open(place, os.O_WRONLY), Path("data.jsonl")) as handle:
        handle.write(b"x")


def test_no_number_that_json_does_not_have_is_written():
    for value in (float("nan"), float("inf"), {"a": [float("-inf")]}):
        with pytest.raises(ValueError, match="Out of range float values"):
            json_text(value)


def test_a_folder_is_held_by_one(tmp_path: Path):
    from geofilter.errors import RunError

    again = folders_locked([tmp_path], "taken", wait=0)
    with folders_locked([tmp_path], "taken"), pytest.raises(RunError, match="taken"), again:
        pass
    with folders_locked([tmp_path, tmp_path / ".."], "taken", wait=0):
        pass
    assert names(tmp_path) == []
