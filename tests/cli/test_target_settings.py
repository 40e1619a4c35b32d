import json
import shutil
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import rows


@pytest.fixture
def here(tiny, tiny_bank: Path, tmp_path: Path) -> str:
    """Settings that name the tiny target and its bank, which lie in the working folder."""
    for name, source in {"model": tiny[0], "sae": tiny[1], "bank": tiny_bank}.items():
        shutil.copytree(source, tmp_path / name)
    return 'model = "model"\nsae = "sae"\nbank = "./bank"\n'


def test_settings_file_and_command_line(here: str, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(9))
    (tmp_path / "geofilter.toml").write_text(f"{here}limit = 4\nshard-rows = 2\n")
    done = geofilter("scan", "d.jsonl", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["rows"] == 4
    done = geofilter("scan", "d.jsonl", "--json", "--limit", 6, cwd=tmp_path)
    assert json.loads(done.stdout)["counts"]["rows"] == 6
    done = geofilter("filter", "--drop", "1", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["counts"]["not_scanned"] == 3
    (tmp_path / "geofilter.toml").write_text("modle = 'x'\n")
    done = geofilter("scan", "d.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "geofilter: error: settings file: unknown key 'modle'; known: across, adapter, allow_other_model, "
    )
    scan, trial = ["scan", "d.jsonl"], ["trial", "--good", "d.jsonl"]
    for command, text, named in [
        (scan, "max-tokens = '9'", "max_tokens = '9' must be an integer"),
        (scan, "offline = 1", "offline = 1 must be true or false"),
        (scan, "model = 3", "model = 3 must be a string"),
        (scan, "layer = true", "layer = True must be an integer"),
        (scan, "bank = ['a', 2]", "bank = ['a', 2] must be a string"),
        (trial, "pairs = 3", "pairs = 3 must be a string"),
        (trial, "epochs = 'one'", "epochs = 'one' must be a number"),
    ]:
        (tmp_path / "geofilter.toml").write_text(text + "\n")
        done = geofilter(*command, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"geofilter: error: settings file: {named}\n")


def test_every_command_that_opens_a_target_reads_the_settings(here: str, tiny_bank: Path, tmp_path: Path):
    data = write_rows(tmp_path / "d.jsonl", rows(9))
    folder = tmp_path / "made"
    (tmp_path / "geofilter.toml").write_text(f'{here}run = "made"\nlimit = 3\noffline = true\n')
    assert geofilter("scan", "d.jsonl", "-q", cwd=tmp_path).returncode == 0
    assert (folder / "manifest.json").is_file()
    assert geofilter("bank", "check", tiny_bank, cwd=tmp_path).returncode in (0, 3)
    assert "ok   pair: " in geofilter("doctor", cwd=tmp_path).stdout
    done = geofilter(
        "bank", "build", "--no-prior", "--bad", data, "--good", data, "--out", tmp_path / "b", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "at least" in done.stderr  # three rows of each file are too few
    (tmp_path / "geofilter.toml").write_text("oflfine = true\n")
    for args in (["bank", "check", tiny_bank], ["bank", "show", tiny_bank], ["doctor"],
                 ["bank", "build", "--no-prior", "--bad", data, "--good", data, "--out", tmp_path / "b"]):  # fmt: skip
        done = geofilter(*args, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("geofilter: error: settings file: unknown key 'oflfine'; known: ")
