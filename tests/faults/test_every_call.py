"""Every command that writes, stopped or failing at each of its calls that touch the disk, and then run again."""

import json
import shlex
import shutil
from pathlib import Path

from helpers.command import chat, geofilter, write_rows
from helpers.faults import Outcome, Scene, contents, differing, run
from helpers.judging import data as rows_to_judge
from helpers.labelling import BAD, answer

from geofilter.bank.bank import Bank
from geofilter.cut.sets import read_set, torn
from geofilter.errors import BankError, RunError


def test_scan(scan_args, tiny, tiny_bank: Path, folder: Path, long: bool):
    """What it leaves is a finished run or is refused, and the same scan finishes it."""

    def between(scene: Scene, _: Outcome) -> None:
        gate = geofilter("gate", "run", "--quiet", cwd=folder)
        whole = not differing(contents(folder), scene.new)
        assert gate.returncode in ((0, 1) if whole else (4,)), gate.stderr

    Scene(folder, scan_args, [*tiny, tiny_bank], between).trials(None if long else 11)


def test_filter(cut: Path, long: bool):
    """The files of the cut before, or those of this one, or it is said that they are neither."""
    mine = [name for name in contents(cut) if name.startswith("d.") and name != "d.jsonl"]

    def between(scene: Scene, outcome: Outcome) -> None:
        if outcome.code == 0:
            return  # all is there
        found = contents(cut)
        whole = [not differing(found, wanted) for wanted in (scene.old, scene.new)]
        report = geofilter("report", "run", cwd=cut)
        said_to_be_whole = report.returncode == 0 and "note: " not in report.stderr
        assert said_to_be_whole == any(whole), (report.returncode, report.stderr)
        if not any(whole):
            assert report.returncode == 4
            assert report.stderr.splitlines()[-1].endswith("run geofilter filter run again")
        try:
            fits = not list(torn(read_set(cut / "d.set.json"), cut / "d.set.json"))
        except RunError:
            fits = False
        if fits:
            assert any(all(found[name] == of[name] for name in mine) for of in (scene.old, scene.new))

    # The report does without what cannot be read of the banks' texts.
    reports = [name for name in contents(cut) if "report" in name]
    scene = Scene(cut, ["filter", "run", "--drop", "30%"], (), between, [*reports, "run/cut.json", "d.set.json"])
    scene.trials(None if long else 18)


def test_label(scan_args, tiny, tiny_bank: Path, folder: Path, long: bool):
    """The scores of the scan, or those of the bank learnt, or the run is refused and the remedy named works."""
    rows = [chat(f"question {i}?", answer(i), kind="bad" if BAD[i] else "good") for i in range(24)]
    write_rows(folder / "d.jsonl", rows)
    done = geofilter(*scan_args[:-1], 12, cwd=folder)
    assert done.returncode == 0, done.stderr
    scored = ("run/manifest.json", "run/scores.jsonl", "run/scores.safetensors")

    def between(scene: Scene, _: Outcome) -> None:
        gate = geofilter("gate", "run", "--quiet", cwd=folder)
        assert gate.returncode in (0, 1, 4), gate.stderr
        if gate.returncode != 4:
            found = contents(folder)
            assert any(all(found[name] == of[name] for name in scored) for of in (scene.old, scene.new))
            return
        (_, remedy) = gate.stderr.splitlines()[-1].split("go on with: ")
        again = run(*shlex.split(remedy)[1:], cwd=folder)
        assert again.code == 0, again.stderr
        assert geofilter("gate", "run", "--quiet", cwd=folder).returncode in (0, 1)

    Scene(folder, ["label", "run", "--from", "kind=bad"], [tiny[1], tiny_bank], between).trials(None if long else 6)


def test_bank_build(tiny, tiny_bank: Path, folder: Path, short_background, long: bool):
    """The bank that was there, or the new one, or one that is refused."""
    shutil.copytree(tiny_bank, folder / "bank")
    write_rows(folder / "bad.jsonl", [chat(f"ask {i}?", f"you fool, {i} times no") for i in range(10)])
    write_rows(folder / "good.jsonl", [chat(f"ask {i}?", f"the answer is that {i} works") for i in range(10)])

    def between(scene: Scene, _: Outcome) -> None:
        try:
            Bank.load(folder / "bank")
        except BankError:
            return
        found = contents(folder)
        assert not differing(found, scene.old) or not differing(found, scene.new)

    args = ["bank", "build", "--bad", "bad.jsonl", "--good", "good.jsonl", "--out", "bank", "--no-prior"]
    scene = Scene(folder, [*args, "--model", tiny[0], "--sae", tiny[1]], tiny, between)
    scene.trials(None if long else 4)


def test_judge(serve, folder: Path, monkeypatch, long: bool):
    """All ratings or none in the output, and no row that was rated is asked for again."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    endpoint = serve("80")
    rows_to_judge(folder)
    args = ["judge", "d.jsonl", "--judge-model", "m", "--base-url", endpoint.url, "--out", "out.jsonl"]

    def between(scene: Scene, _: Outcome) -> None:
        found = contents(folder)
        assert found.get("out.jsonl") in (None, scene.new["out.jsonl"])
        endpoint.bodies.clear()
        kept = set()
        for line in found.get("out.jsonl.part", b"").splitlines():
            try:
                kept.add(json.loads(line)["sha256"])
            except ValueError:
                assert line == found["out.jsonl.part"].splitlines()[-1]  # cut short by a kill
        again = run(*args, cwd=folder)
        assert again.code == 0, again.stderr
        assert len(endpoint.bodies) == (0 if "out.jsonl" in found else 6 - len(kept))

    Scene(folder, [*args, "--concurrency", 2], between=between).trials(None if long else 8)
