"""The settings file: which place wins, per command, and what may not stand in it."""

import json
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from typer.testing import CliRunner

from geofilter.cli.app import app
from geofilter.trial import trial
from geofilter.trial.config import TrialConfig


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of twelve rows, half of them labelled bad."""
    folder = tmp_path_factory.mktemp("settings")
    rows = [chat(f"q {i}", f"the answer {i} ends", label="bad" if i % 2 else "good") for i in range(12)]
    write_rows(folder / "d.jsonl", rows)
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "r", "-q", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def settings(folder: Path, *lines: str) -> None:
    (folder / "geofilter.toml").write_text('run = "r"\n' + "\n".join(lines) + "\n")


def removed(folder: Path, *args: object) -> int:
    done = geofilter("filter", "--json", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["counts"]["removed"]


def error(folder: Path, *args: object) -> str:
    done = geofilter(*args, cwd=folder)
    assert done.returncode == 2
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


def test_what_is_typed_wins_over_the_table_and_that_over_the_top(scanned: Path):
    settings(scanned, 'drop = "6"')
    assert removed(scanned) == 6
    settings(scanned, 'drop = "6"', "[filter]", 'drop = "3"', "[evaluate]", 'drop = "50%"')
    assert removed(scanned) == 3
    assert removed(scanned, "--drop", "2") == 2


def test_an_amount_sets_the_others_aside_in_weaker_places(scanned: Path):
    settings(scanned, "threshold = 0.5", "[filter]", 'drop = "3"')
    assert removed(scanned) == 3
    assert removed(scanned, "--keep", "10") == 2
    assert removed(scanned, "--threshold", "1.0") == 0
    settings(scanned, 'drop = "3"', 'keep = "3"')
    assert error(scanned, "filter").startswith("give exactly one of --drop, --keep and --threshold")
    settings(scanned, 'device-map = "auto"')
    (scanned / "m").mkdir(exist_ok=True)
    assert "--device-map" not in error(scanned, "bank", "build", "--bad", "x", "--good", "x", "--out", "b",
                                     "--device", "cpu", "--model", "m", "--sae", "m")  # fmt: skip


def test_gate_and_filter_may_have_thresholds_of_their_own(scanned: Path):
    settings(scanned, "threshold = 0.5", 'max-flagged = "100%"', "[gate]", "threshold = 0.25")
    done = geofilter("gate", "--json", cwd=scanned)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["threshold"] == 0.25
    done = geofilter("filter", "--json", cwd=scanned)
    assert json.loads(done.stdout)["cut"] == "percentile >= 0.5"


def test_pyproject_has_the_same_tables(scanned: Path):
    (scanned / "geofilter.toml").unlink(missing_ok=True)
    (scanned / "pyproject.toml").write_text('[tool.geofilter]\nrun = "r"\n[tool.geofilter.filter]\ndrop = "5"\n')
    assert removed(scanned) == 5
    (scanned / "pyproject.toml").unlink()


def test_where_a_command_writes_stands_in_its_table(scanned: Path):
    settings(scanned, '[filter]\ndrop = "3"\nout = "made"')
    (scanned / "made").mkdir(exist_ok=True)
    assert removed(scanned) == 3
    assert (scanned / "made" / "d.filtered.jsonl").is_file()
    settings(scanned, 'out = "made"')
    assert error(scanned, "gate") == (
        "settings file: out says where a command writes; put it into [bank-build] or [bank-name] or [compare] or "
        "[evaluate] or [filter] or [judge] or [replace] or [sae-train] or [trial]"
    )


def test_a_required_option_may_stand_in_the_file(scanned: Path):
    settings(scanned)
    assert error(scanned, "evaluate") == "--labels is missing; type it, or put labels into the settings file"
    settings(scanned, "[evaluate]", 'labels = "label=bad"', 'drop = ["25%"]')
    done = geofilter("evaluate", "--json", cwd=scanned)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lines"][0]["drops"][0]["rows"] == 3


def test_an_empty_list_is_the_default(scanned: Path, monkeypatch):
    settings(scanned, "[trial]", 'good = "d.jsonl"', "drop = []", "arm = []")
    seen: list[TrialConfig] = []

    def take(run, config: TrialConfig, *_, **__):
        seen.append(config)
        return Path(), {}

    monkeypatch.setattr(trial, "trial", take)
    monkeypatch.chdir(scanned)
    done = CliRunner().invoke(app, ["trial", "--json", "-q"])
    assert done.exit_code == 0, done.output
    assert seen == [TrialConfig(good=Path("d.jsonl"))]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["[gate]", "treshold = 1"], "[gate]: unknown key 'treshold'; known: annotations, baseline, by, "),
        (["[bank-build]", "count = 1"], "[bank-build]: unknown key 'count'; known: "),
        (["gate = 3"], "gate = 3 must be a table: [gate]"),
        (["[nonsense]", "drop = 3"], "unknown key 'nonsense'; known: "),
        (["row = 3"], "unknown key 'row'; known: "),
        (["[label]", 'judge = "m"'], "[label]: unknown key 'judge'; known: "),
        (["[filter]", "drop = 3"], "drop = 3 must be a string"),
    ],
)
def test_mistakes_are_named(scanned: Path, lines: list[str], text: str):
    settings(scanned, *lines)
    assert error(scanned, "filter").startswith(f"settings file: {text}")
