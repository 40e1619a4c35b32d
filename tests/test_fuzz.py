"""Made-up settings, options, banks and SAEs: a documented exit code and one line, or what was meant; nothing else.

A few of each, always the same; `--long` makes many up.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import geofilter
from helpers.hostile import unprintable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geofilter.bank.bank import Bank
from geofilter.bank.scorer import Scorer
from geofilter.encode.sae import FeatureEncoder
from geofilter.errors import EXIT_CODES, BankError, InputError, TargetError
from geofilter.target.sae_folder import read_computed, unit_decoder

EXAMPLES, MANY = 25, 3_000
KEY = "sk-canary-0123456789"

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))


@pytest.fixture(scope="module")
def many(long: bool) -> settings:
    return settings(max_examples=MANY if long else EXAMPLES, derandomize=not long, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


def toml(value: object) -> str:
    """A value as TOML has it; what TOML has not becomes text."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(k)} = {toml(v)}' for k, v in value.items())}}}"
    return json.dumps(str(value))


def ended_well(args: list[str], cwd: Path) -> None:
    done = geofilter(*args, cwd=cwd)
    assert str(done.returncode) in EXIT_CODES
    assert done.returncode not in (1, 70), done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert not unprintable(done.stdout + done.stderr)
    if done.returncode:
        assert "error: " in done.stderr or "Usage" in done.stderr, done.stderr


def test_any_settings_file_is_taken_or_refused_in_a_line(many: settings, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    names = st.sampled_from(["model", "threshold", "max-flagged", "by", "bank", "quiet", "run", "gate", "base-url",
                             "exclude-feature", "scan", "limit", "only", "max_tokens"])  # fmt: skip
    tables = st.dictionaries(names | st.text(max_size=6), values, max_size=4)

    @many
    @given(tables.map(lambda t: "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in t.items())) | st.text())
    def check(text: str) -> None:
        (tmp_path / "geofilter.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
        for command in (["gate"], ["filter", "--drop", "10%"], ["judge", "d.jsonl"]):
            ended_well(command, tmp_path)

    check()


def test_any_value_of_an_option_is_taken_or_refused_in_a_line(many: settings, tmp_path: Path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    check_only, scan = "scan d.jsonl --check", "scan d.jsonl --offline"
    options = st.sampled_from(
        [("filter", "--drop"), ("filter", "--keep"), ("filter", "--threshold"), ("filter", "--out"), ("gate", "--by"),
         ("gate", "--max-flagged"), ("gate", "--max-truncated"), ("verify", "--deep"), ("explain", "--row"),
         ("report", "--shade"), ("evaluate", "--labels"), ("bank show", ""), (check_only, "--fields"),
         (check_only, "--only"), (scan, "--model"), (scan, "--sae"), (scan, "--limit"), (f"{scan} --model x", "--run"),
         ("judge d.jsonl --judge-model m", "--base-url")]
    )  # fmt: skip

    @many
    @given(
        options,
        st.text(max_size=12) | st.floats().map(str) | st.integers().map(str) | st.text(max_size=3).map("/".join),
    )
    def check(option: tuple[str, str], value: str) -> None:
        words, name = option
        ended_well([*words.split(), *([name] if name else []), value.encode("utf-8", "replace").decode()], tmp_path)

    check()


def test_a_bank_whose_texts_are_made_up_is_refused_or_scores(many: settings, bank: Bank, tmp_path: Path):
    bank.save(tmp_path / "b")
    text = json.loads((tmp_path / "b" / "bank.json").read_text("utf-8"))

    @many
    @given(st.sampled_from(sorted(text)), values, st.booleans())
    def check(key: str, value: object, gone: bool) -> None:
        changed = {k: v for k, v in text.items() if k != key} if gone else {**text, key: value}
        (tmp_path / "b" / "bank.json").write_bytes(json.dumps(changed).encode("utf-8", "surrogatepass"))
        try:
            found = Bank.load(tmp_path / "b")
        except BankError as error:
            assert len(str(error).splitlines()) == 1
            return
        assert np.isfinite(Scorer(found, "ridge").scale.sorted).all()
        json.dumps(found.about(), allow_nan=False)

    check()


def test_a_bank_whose_arrays_are_damaged_is_refused(many: settings, bank: Bank, tmp_path: Path):
    bank.save(tmp_path / "b")
    path = tmp_path / "b" / "bank.safetensors"
    whole = path.read_bytes()

    @many
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def check(at: int, bits: int) -> None:
        data = bytearray(whole)
        data[at] ^= bits
        path.write_bytes(data)
        try:
            found = Bank.load(tmp_path / "b")
        except BankError:
            return
        assert all(array.tobytes() == arrays_of(bank)[name].tobytes() for name, array in arrays_of(found).items())

    check()


def arrays_of(bank: Bank) -> dict[str, np.ndarray]:
    near = bank.closeness
    return {"weights": bank.weights, "toxic": bank.toxic, "near": near.toxic, "nearest": near.nearest,
            "other": near.other, "cosine": near.other_cosine, "rate": bank.rate,
            "mean": bank.background.mean, **bank.reference.arrays()}  # fmt: skip


def test_an_sae_that_is_made_up_or_damaged_is_refused_or_finite(
    many: settings, tiny: tuple[Path, Path], tmp_path: Path
):
    sae = tmp_path / "sae"
    shutil.copytree(tiny[1], sae)
    cfg, weights = json.loads((sae / "cfg.json").read_text("utf-8")), (sae / "sae_weights.safetensors").read_bytes()

    @many
    @given(st.sampled_from(sorted(cfg)), values, st.booleans(), st.integers(0, len(weights) - 1), st.integers(0, 255))
    def check(key: str, value: object, gone: bool, at: int, bits: int) -> None:
        changed = {k: v for k, v in cfg.items() if k != key} if gone else {**cfg, key: value}
        (sae / "cfg.json").write_bytes(json.dumps(changed if bits % 2 else cfg).encode("utf-8", "surrogatepass"))
        data = bytearray(weights)
        data[at] ^= bits
        (sae / "sae_weights.safetensors").write_bytes(data)
        try:
            read_computed(sae)
            assert np.isfinite(unit_decoder(sae)).all()
            encoder = FeatureEncoder(sae, torch.device("cpu"))
            acts = encoder.encode(torch.ones(3, encoder.d_in))
        except TargetError as error:
            assert len(str(error).splitlines()) == 1
            return
        assert not acts.value.isnan().any()

    check()


def test_no_settings_file_ends_reading_otherwise(many: settings, tmp_path: Path):
    from geofilter.cli.settings_file import read

    @many
    @given(st.binary(max_size=60))
    def check(data: bytes) -> None:
        (tmp_path / "geofilter.toml").write_bytes(data)
        try:
            read(tmp_path)
        except InputError as error:
            assert len(str(error).splitlines()) == 1

    check()
