import json
import shutil
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.evaluating import KIND

from geofilter.bank.bank import Bank

# On a run


@pytest.fixture(scope="session")
def base(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `r` of two banks over two files, 33 of its 73 labelled rows bad, one line broken."""
    folder = tmp_path_factory.mktemp("evaluate")
    bad = [chat(f"question {i}?", f"you fool, {i} times no", meta={"kind": "bad"}) for i in range(25)]
    good = [
        chat(f"question {i}?", f"the answer is that {i} works " * (1 + i % 3), meta={"kind": "fine"}) for i in range(40)
    ]
    # Labels that no score can get right, so that the figures are not all 1.
    odd = [chat(f"odd {i}?", f"the answer is {i}", meta={"kind": "bad"}, pair=i // 2) for i in range(8)]
    plain = [chat(f"plain {i}?", f"no answer, {i}") for i in range(5)]
    write_rows(folder / "one.jsonl", [r for pair in zip(bad, good[:25], strict=True) for r in pair])
    write_rows(folder / "two.jsonl", [*plain, *good[25:], *odd])
    with (folder / "two.jsonl").open("a") as handle:
        handle.write('{"broken": \n')
    other = shutil.copytree(tiny_bank, folder / "other-bank")
    text = (other / "bank.json").read_text("utf-8")
    (other / "bank.json").write_text(text.replace('"name": "tiny-bank"', '"name": "other"', 1), "utf-8")
    bank = Bank.load(other)
    # Another bank indeed, under every scorer.
    bank.closeness.aligned[:] = 0
    bank.closeness.toxic[:] = (bank.closeness.toxic + bank.closeness.toxic[::-1]) / 2
    bank.dense[:] = bank.dense[::-1].copy()
    bank.save(other)
    for scorer, run in (("contrast", "r"), ("nearest", "rn"), ("dense", "rd")):
        if run != "r":
            shutil.copytree(folder / "r", folder / run)
        done = geofilter(
            "scan", "one.jsonl", "two.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--bank",
            "other-bank", "--run", run, "--scorer", scorer, "--shard-rows", 30, "--quiet", cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """`base`, to be changed at will."""
    return shutil.copytree(base, tmp_path / "place")


@pytest.fixture(scope="session")
def result(base: Path) -> dict:
    done = geofilter("evaluate", "r", *KIND, "--json", "--quiet", cwd=base)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    value = json.loads(done.stdout)
    assert value == json.loads((base / "r" / "evaluate.json").read_text("utf-8"))
    return value
