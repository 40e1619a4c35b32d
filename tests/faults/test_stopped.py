"""Real processes that are killed, disks that are really full, and two commands at once."""

import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import Done, geofilter
from helpers.faults import Child, Fault, Outcome, apart, contents, differing, one_line, run, scratch

from geofilter.cut.sets import read_set, torn

KILLS = 2
LONG_KILLS = 100


def killed(args: list[object], folder: Path, after: float) -> int:
    """The real command, killed some seconds after it has begun to write or, where it does not, after its start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "geofilter", *map(str, args), "-q"], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    before, until = contents(folder), time.monotonic() + 60
    while process.poll() is None and contents(folder) == before and time.monotonic() < until:
        time.sleep(0.005)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait()


def test_a_scan_and_a_filter_that_are_killed(folder: Path, scan_args, long: bool):
    """Whenever that is, the same commands then give what they give undisturbed."""
    cut = ["filter", "run", "--drop", "30%"]
    for args in (scan_args, cut):
        assert run(*args, cwd=folder).code == 0
    names, wanted = ("run/scores.jsonl", "run/scores.safetensors"), contents(folder)
    rng, ended = random.Random(0), []
    for i in range(LONG_KILLS if long else KILLS):
        if i % 2 == 0:
            shutil.rmtree(folder / "run")
        for path in folder.glob("d.*.*"):
            path.unlink()
        ended.append(killed(cut if i % 2 else scan_args, folder, rng.random() * 0.2))
        for args in (scan_args, cut):
            done = run(*args, cwd=folder)
            assert done.code == 0, done.stderr
        found = contents(folder)
        other = [name for name in differing(found, wanted) if name in names or name.endswith(".jsonl")]
        assert not other
        assert not list(torn(read_set(folder / "d.set.json"), folder / "d.set.json"))
        assert not scratch(folder)
    assert set(ended) <= {0, -9}
    print(len(ended), "killed", ended.count(-9))  # noqa: T201 (seen with -s)


def limited(size: int, *args: object, cwd: Path) -> Outcome:
    """A command that may write no file larger than some bytes: the system refuses the write in its midst."""

    def work() -> Done:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return geofilter(*args, cwd=cwd)

    return Child(work).outcome()


def refuses(do: Callable[..., Outcome], folder: Path, args: list[object]) -> bool:
    """Run a command that may meet a full disk; whether it did. Then nothing of it is left over."""
    done = do(*args, cwd=folder)
    assert not scratch(folder)
    if done.code == 0:
        return False
    assert re.search(r"cannot be written \(|No space left|File too large", one_line(done)), done.stderr
    return True


@pytest.mark.parametrize("size", [0, 2000, 6000])
def test_files_that_may_not_be_as_large(cut: Path, scan_args, size: int):
    """The system refuses a write in its midst; what was there stays, and all is as ever when there is room again."""
    before = contents(cut)
    assert refuses(lambda *args, cwd: limited(size, *args, cwd=cwd), cut, ["filter", "run", "--drop", "30%"])
    assert not differing(contents(cut), before)
    shutil.rmtree(cut / "run")
    assert refuses(lambda *args, cwd: limited(size, *args, cwd=cwd), cut, scan_args)
    assert run(*scan_args, cwd=cut).code == 0
    assert contents(cut)["run/scores.jsonl"] == before["run/scores.jsonl"]


def test_a_disk_that_is_full(cut: Path, scan_args, tmp_path: Path):
    """A real one of few bytes, on which commands are tried with less and less room until they fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copyfile(cut / "d.jsonl", disk / "d.jsonl")
        room, met = 1 << 20, 0
        for args in (scan_args, ["filter", "run", "--drop", "10%"]):
            for left in (4096, 16384, 32768, 65536, 131072):
                (disk / "ballast").write_bytes(b"")
                used = shutil.disk_usage(disk).used
                (disk / "ballast").write_bytes(bytes(max(0, room - used - left)))
                met += refuses(apart, disk, args)
            (disk / "ballast").unlink()
            assert run(*args, cwd=disk).code == 0
        assert met >= 3
        found, wanted = contents(disk), contents(cut)
        assert not [n for n in differing(found, wanted) if n.endswith(".jsonl") or n == "run/scores.safetensors"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_filters_at_once(cut: Path, scan_args, long: bool):
    """Into one place, from two runs: one waits for the other, and the files are of one of them."""
    other = [*scan_args]
    other[other.index("--run") + 1] = "other"
    assert run(*other, cwd=cut).code == 0
    (cut / "out").mkdir()
    commands = [["filter", name, "--drop", drop, "--out", "out"] for name, drop in (("run", "10%"), ("other", "30%"))]
    alone = []
    for args in commands:
        assert run(*args, cwd=cut).code == 0
        alone.append(contents(cut / "out"))
    assert differing(*alone)
    calls = apart(*commands[0], cwd=cut, roots=[cut]).calls
    renames = [at for at, call in enumerate(calls, start=1) if call.kind in ("rename", "remove")]
    for at in renames if long else renames[2::9]:
        slow = Child(lambda: geofilter(*commands[0], cwd=cut), [cut], Fault("pause", at))
        time.sleep(0.2)
        fast = Child(lambda: geofilter(*commands[1], cwd=cut))
        assert (slow.outcome().code, fast.outcome().code) == (0, 0)
        assert not list(torn(read_set(cut / "out" / "d.set.json"), cut / "out" / "d.set.json"))
        assert any(not differing(contents(cut / "out"), of) for of in alone)
    # Of one run, the second is refused.
    slow = Child(lambda: geofilter(*commands[0], cwd=cut), [cut], Fault("pause", renames[3]))
    while not list((cut / "out").glob("*.tmp")):
        time.sleep(0.005)
    second = apart("filter", "run", "--drop", "30%", cwd=cut)
    assert "another geofilter command is writing this run" in one_line(second)
    assert slow.outcome().code == 0
