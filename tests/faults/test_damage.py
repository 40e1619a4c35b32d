"""Damaged files of a run, of a cut and of a bank: refused, or of no effect; the same command makes them anew."""

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.faults import Outcome, apart, contents, differing, one_line, run
from helpers.labelling import BAD, answer

Damage = tuple[str, Callable[[Path], object]]
"""what is done to a file, in words, and doing it"""
FLOATS = {"F16": 2, "F32": 4, "F64": 8}
SHORT = 3
"""damages of a file that are tried where not all are"""


def flips(path: Path) -> Iterator[Damage]:
    """One bit of each array of a safetensors file: the highest of a number (its sign), one of the exponent, the lowest;
    and of the header's length and text."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    rng = random.Random(path.name)
    for name, about in json.loads(content[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        start, end = (8 + size + offset for offset in about["data_offsets"])
        width = FLOATS.get(about["dtype"]) or int(about["dtype"].strip("BOLUI") or 8) // 8
        if start == end:
            continue
        at = start + rng.randrange((end - start) // width) * width
        for what, byte, bit in (("sign", at + width - 1, 7), ("exponent", at + width - 1, 6), ("lowest bit", at, 0)):
            yield f"{what} in {name}", _flipped(byte, bit)
    yield "length of the header", _flipped(6, 5)
    yield "header", _flipped(8 + rng.randrange(size), 1)


def _flipped(byte: int, bit: int) -> Callable[[Path], object]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[byte] ^= 1 << bit
        path.write_bytes(content)

    return flip


def damages(path: Path) -> Iterator[Damage]:
    """Of any file."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        yield from flips(path)
    else:
        rng = random.Random(path.name)
        for _ in range(6):
            byte, bit = rng.randrange(size), rng.randrange(7)
            yield f"bit {bit} of byte {byte}", _flipped(byte, bit)
        yield "half a line more", lambda file: file.write_bytes(file.read_bytes() + b'{"format": 5, "se')
        yield "deeply nested", lambda file: file.write_bytes(b'{"a":' * 100_000)
        yield "numbers that are none", lambda file: file.write_bytes(file.read_bytes().replace(b": 1", b": NaN"))
    for part in (0, size // 2, size - 1):
        yield f"cut to {part} bytes", lambda file, part=part: file.write_bytes(file.read_bytes()[:part])
    yield "gone", lambda file: file.unlink()
    yield "a folder in its place", lambda file: (file.unlink(), file.mkdir())


def chosen(folder: Path, names: list[str], long: bool) -> Iterator[tuple[Path, str, Callable[[Path], object]]]:
    """The damages of each file, or a few of them."""
    for name in names:
        found = [(folder / name, *damage) for damage in damages(folder / name)]
        random.Random(name).shuffle(found)
        yield from found if long else found[:SHORT]


@pytest.fixture
def place(cut: Path) -> tuple[Path, Callable[[], None]]:
    """The folder of a run that was cut, and what puts it back as it was."""
    start = cut.with_name("start")
    cut.rename(start)

    def reset() -> None:
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(start, cut)

    reset()
    return cut, reset


def refused(outcome: Outcome, *names: str) -> None:
    """It names one of the files."""
    line = one_line(outcome)
    assert any(name in line for name in names), line


def rows_of(found: dict[str, bytes]) -> list[bytes | None]:
    return [found.get(f"d.{kind}.jsonl") for kind in ("filtered", "removed", "quarantined")]


SCANNED = [
    "manifest.json", "scores.jsonl", "scores.safetensors", "vectors.safetensors", "quarantine.jsonl",
    *(f"features/part-0000{i}.safetensors" for i in range(3)),
]  # fmt: skip
"""what a scan writes into a run"""


@pytest.mark.parametrize("name", SCANNED)
def test_a_damaged_file_of_a_run(name: str, place, scan_args, long: bool):
    """Gate, report and filter refuse it or are not touched by it, and the same scan makes it again."""
    folder, reset = place
    assert geofilter(*scan_args, "-q", cwd=folder).returncode == 0  # as the scans below, which say where the run is
    assert geofilter("filter", "run", "--drop", "30%", "-q", cwd=folder).returncode == 0
    wanted = contents(folder)
    reset()
    gated = geofilter("gate", "run", "-q", cwd=folder)
    for path, what, damage in chosen(folder / "run", [name], long):
        reset()
        damage(path)
        print(name, what)  # noqa: T201 (seen where it fails)
        done = [apart(*args, cwd=folder) for args in (["gate", "run", "-q"], ["filter", "run", "--drop", "30%", "-q"])]
        if done[0].code in (0, 1):
            assert (done[0].code, done[0].stderr) == (gated.returncode, gated.stderr)
        else:
            refused(done[0], Path(name).name, "features")
        if done[1].code == 0:
            assert rows_of(contents(folder)) == rows_of(wanted)
        else:
            refused(done[1], Path(name).name, "features")
        if path.is_dir():
            continue  # who puts a folder there must take it away
        again = run(*scan_args, "-q", cwd=folder)
        assert again.code == 0, again.stderr
        again = run("filter", "run", "--drop", "30%", "-q", cwd=folder)
        assert again.code == 0, again.stderr
        assert not [n for n in differing(contents(folder), wanted) if "report" not in n and n[-8:] != "cut.json"
                    and n != "d.set.json"], again.stderr  # fmt: skip


def test_shards_that_change_places(place, scan_args):
    """Swapped, doubled, of another scan, too many: each is told from the one that belongs there."""
    folder, reset = place
    parts = [folder / "run" / "features" / f"part-0000{i}.safetensors" for i in range(4)]
    write_rows(folder / "d2.jsonl", [chat(f"other {i}?", f"something else {i}") for i in range(10)])
    other = [*scan_args[:1], "d2.jsonl", *scan_args[2:]]
    other[other.index("--run") + 1] = "other"
    assert geofilter(*other, "-q", cwd=folder).returncode == 0
    foreign = (folder / "other" / "features" / "part-00001.safetensors").read_bytes()
    wanted = contents(folder / "run")

    def swap() -> None:
        first, second = parts[0].read_bytes(), parts[1].read_bytes()
        parts[0].write_bytes(second)
        parts[1].write_bytes(first)

    for change in (swap, lambda: shutil.copyfile(parts[0], parts[1]), lambda: shutil.copyfile(parts[0], parts[3]),
                   lambda: parts[1].write_bytes(foreign)):  # fmt: skip
        reset()
        change()
        gate = run("gate", "run", "-q", cwd=folder)  # needs no shards
        assert gate.code == 1, gate.stderr
        label = run("label", "run", "--from", "kind=bad", cwd=folder)
        assert label.code in (0, 4) if parts[3].exists() else label.code == 4, label.stderr
        again = run(*scan_args, "-q", cwd=folder)
        assert again.code == 0, again.stderr
        left = differing(contents(folder / "run"), wanted)
        assert not [name for name in left if not name.startswith(("label", "manifest"))], left


CUT = ["run/cut.json", "run/report.json", "run/report.html", "run/report.md", "d.set.json", "d.filtered.jsonl",
       "d.removed.jsonl", "d.report.html", "d.report.json"]  # fmt: skip


def test_a_damaged_file_of_a_cut(place, long: bool):
    """`report` refuses it or says so, and the same filter writes all of them as they were."""
    folder, reset = place
    wanted = contents(folder)
    clean = run("report", "run", cwd=folder)
    for path, what, damage in chosen(folder, CUT, long):
        reset()
        before = contents(folder)
        damage(path)
        print(path.name, what)  # noqa: T201 (seen where it fails)
        if contents(folder) == before:
            continue
        report = apart("report", "run", cwd=folder)
        unsaid = path.name == "report.md" or (path.name == "report.json" and path.parent.name == "run")
        if report.code:
            one = one_line(report)
            assert path.name in one or "not cut yet" in one, one
        elif not unsaid:
            assert path.name in report.stderr, report.stderr
            assert report.stdout == clean.stdout
        gate = run("gate", "run", "-q", cwd=folder)
        assert gate.code == 1, gate.stderr
        again = run("filter", "run", "--drop", "10%", "-q", cwd=folder)
        if path.is_dir():
            refused(again, path.name)
            continue
        assert again.code == 0, again.stderr
        assert not differing(contents(folder), wanted)


def test_a_damaged_file_of_labels(tiny, tiny_bank: Path, scan_args, folder: Path, long: bool):
    """The bank that a run was scored with last, and the labels: refused by name, or of no effect on the rows kept."""
    rows = [chat(f"question {i}?", answer(i), kind="bad" if BAD[i] else "good") for i in range(24)]
    write_rows(folder / "d.jsonl", rows)
    for args in ([*scan_args[:-1], 12], ["label", "run", "--from", "kind=bad"], ["filter", "run", "--drop", "30%"]):
        done = geofilter(*args, "-q", cwd=folder)
        assert done.returncode == 0, done.stderr
    start, wanted = folder.with_name("start"), contents(folder)
    folder.rename(start)
    shutil.copytree(start, folder)
    names = ["run/labels.jsonl", "run/labelled/bank.json", "run/labelled/bank.safetensors"]
    for path, what, damage in chosen(folder, names, long):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        damage(path)
        print(path.name, what)  # noqa: T201 (seen where it fails)
        filtered = apart("filter", "run", "--drop", "30%", "-q", cwd=folder)
        if filtered.code:
            refused(filtered, path.name, "labelled")
        else:
            assert rows_of(contents(folder)) == rows_of(wanted)
        labelled = apart("label", "run", "--from", "kind=bad", "-q", cwd=folder)
        if labelled.code:
            refused(labelled, path.name, "labelled")
        scanned = run(*scan_args[:-1], 12, "-q", cwd=folder)
        assert scanned.code == 0, scanned.stderr


def test_a_damaged_bank(tiny, tiny_bank: Path, scan_args, place, long: bool):
    """A scan refuses it, also where its own hash was made to fit, or gives it finite scores."""
    folder, _ = place
    copy = folder / "bank"
    args = [copy if word == tiny_bank else word for word in scan_args]
    shutil.copytree(tiny_bank, copy)
    for path, what, damage in chosen(copy, ["bank.json", "bank.safetensors"], long):
        shutil.rmtree(copy)
        shutil.copytree(tiny_bank, copy)
        before = path.read_bytes()
        damage(path)
        print(path.name, what)  # noqa: T201 (seen where it fails)
        done = apart(*args, "-q", cwd=folder)
        if done.code:
            assert done.code == 3, done.stderr
            refused(done, str(copy))
        else:
            assert path.name == "bank.json"
            assert path.read_bytes() != before
