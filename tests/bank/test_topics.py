"""Topics of a bank, features that count nothing, and the texts that show a bank's features."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.tiny import D_SAE, directions, random_pooled
from safetensors.numpy import load_file

from geofilter.bank.background import Background
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.features import Pooled
from geofilter.bank.learn import fit
from geofilter.bank.scorer import Scorer
from geofilter.bank.topics import MIN_ROWS, Topics, usable
from geofilter.build.build import BUILT_IN
from geofilter.build.excerpts import LENGTH, piece
from geofilter.config import SCORERS
from geofilter.encode.tokens import Encoded
from geofilter.errors import InputError
from geofilter.files import package_data
from geofilter.run.banks import exclude

N = 80

OPTIONS = LearnOptions(6, labels=["x"] * D_SAE)


def marked_rows() -> tuple[Pooled, np.ndarray, list[str]]:
    """Bad and good rows of two topics: feature 0 is of bad rows, 1 of the topic red, 2 of the topic blue."""
    pooled, _ = random_pooled(N, seed=1)
    bad = np.arange(N) % 2 == 0
    red = np.arange(N) % 4 < 2
    row_of = np.repeat(np.arange(N), np.diff(pooled.indptr))
    dense = pooled.matrix(D_SAE).toarray()
    dense[:, :3] = np.column_stack([bad, red, ~red]) * 2.0
    assert len(row_of) == len(pooled.indices)
    indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(1))]).astype(np.int64)
    indices = np.concatenate([np.flatnonzero(r) for r in dense]).astype(np.int32)
    rows = Pooled(indptr, indices, dense[dense > 0].astype(np.float32), pooled.n_tokens, pooled.residual)
    return rows, bad, ["red" if r else "blue" for r in red]


@pytest.fixture(scope="module")
def bank() -> Bank:
    rows, bad, topics = marked_rows()
    target = {"name": "t", "fingerprint": "f" * 64, "hook": "blocks.2.hook_resid_post", "d_sae": D_SAE}
    reference, _ = random_pooled(60, seed=2)
    return fit("b", target, directions(), Examples(rows, bad, kinds=topics), reference, OPTIONS)


def test_a_topic_needs_enough_rows_on_each_side_and_another_one():
    bad = np.array([True] * 30 + [False] * 30)
    topics = (["a"] * 10 + ["b"] * 10 + ["c"] * 9 + [""]) * 2
    assert usable(topics, bad) == (["a", "b"], ["c"])
    topics[-15] = ""  # one good row of b fewer
    assert usable(topics, bad) == ([], ["a", "b", "c"])
    assert MIN_ROWS == 10


def test_the_lean_is_the_ridge_among_bad_rows_in_their_own_units(bank: Bank):
    rows, bad, topics = marked_rows()
    x = bank.background.log_matrix(rows).toarray()[bad]
    y = np.where(np.array(topics)[bad] == "red", 1.0, -1.0)
    x0, y0 = x - x.mean(0), y - y.mean()
    penalty = (x0**2).sum() / len(x)
    u = np.linalg.solve(x0.T @ x0 + penalty * np.eye(D_SAE), x0.T @ y0)
    assert bank.topics.names == ("red", "blue")
    np.testing.assert_allclose(bank.topics.weights[:, 0], u / (x @ u).std(), rtol=1e-3, atol=1e-6)
    scorer = Scorer(bank, "ridge")
    scores = scorer.topic_scores(np.zeros(len(y)), scorer.topics.excess(rows.take(np.flatnonzero(bad))))
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scores.std(0), 1, atol=1e-5)
    assert ((scores[:, 0] > scores[:, 1]) == (y > 0)).all()
    assert bank.topics.of_feature(1)[0] == "red"
    assert bank.topics.of_feature(2)[0] == "blue"


def test_a_bank_keeps_its_topics_on_disk_and_may_have_none(bank: Bank, tmp_path: Path):
    bank.save(tmp_path / "b")
    again = Bank.load(tmp_path / "b")
    assert again.topics.names == bank.topics.names
    np.testing.assert_array_equal(again.topics.weights, bank.topics.weights)
    np.testing.assert_array_equal(again.topics.offset, bank.topics.offset)
    rows, bad, _ = marked_rows()
    without = fit("n", bank.target, directions(), Examples(rows, bad), bank.reference, OPTIONS)
    without.save(tmp_path / "n")
    assert Bank.load(tmp_path / "n").topics.names == ()
    np.testing.assert_array_equal(without.weights, bank.weights)


@pytest.mark.parametrize("name", [s for s in SCORERS if s not in ("dense", "length", "random")])
def test_an_excluded_feature_counts_nothing(bank: Bank, name: str):
    rows = random_pooled(30, seed=7)[0]
    features = [0, int(bank.toxic[-1])]
    (some,) = exclude([bank], [str(features[0]), f"b:{features[1]}"])
    assert [f["feature"] for f in some.about()["excluded_features"]] == sorted(features)
    silent = rows.without(features)
    shas = [""] * 30
    scorer = Scorer(some, name)
    if name != "nearest":  # there the place among the strongest is kept, and counts 0
        # Were the rows and the reference without the feature, the standard scores would be the same.
        np.testing.assert_allclose(scorer.standard(rows, shas), scorer.standard(silent, shas), atol=1e-6)
    np.testing.assert_allclose(scorer.null_scores(rows), scorer.null_scores(silent), atol=1e-6)
    excess = [scorer.topics.excess(r) for r in (rows, silent)]
    topics = [scorer.topic_scores(np.zeros(30), e) for e in excess]
    np.testing.assert_allclose(*topics, atol=1e-6)
    shares = scorer.shares
    if shares is not None:
        found = shares.linear.excess(rows)
        assert not np.isin(found.indices[shares.active(found)[1] != 0], features).any()


def test_excluding_says_what_is_wrong(bank: Bank):
    for wanted, error in [
        ("x", "--exclude-feature x: not a feature; write its number, or BANK:NUMBER"),
        ("-1", "--exclude-feature -1: not a feature; write its number, or BANK:NUMBER"),
        ("c:1", "--exclude-feature c:1: there is no bank c here; use b, other"),
        ("b:128", "--exclude-feature b:128: the SAE of t has features 0 to 127"),
    ]:
        with pytest.raises(InputError) as caught:
            exclude([bank], [wanted], ["other"])
        assert str(caught.value) == error
    assert exclude([bank], []) == [bank]
    assert exclude([bank], ["other:1"], ["other"]) == [bank]  # of a bank that is not used now


def test_rows_without_a_feature_are_those_rows_with_zeros():
    pooled, dense = random_pooled(9, seed=3)
    dense[:, [4, 7]] = 0
    np.testing.assert_array_equal(pooled.without([4, 7]).matrix(D_SAE).toarray(), dense)


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_a_piece_is_one_short_inert_line_with_the_strongest_tokens_marked():
    text = "x" * 300 + " you\n\x1b[31mFOOL and FOOL" + "y" * 300
    row = Encoded(tuple(map(ord, text)), tuple(i > 2 for i in range(len(text))), ())
    value = np.zeros(len(text))
    for at in (text.index("FOOL"), text.rindex("FOOL")):
        value[at : at + 4] = 3.0
    text, strong = piece(Letters(), row, value)
    assert len(text) == LENGTH
    assert text.isprintable()
    assert [text[a:b] for a, b in strong] == ["FOOL", "FOOL"]
    short = piece(
        Letters(), Encoded(tuple(map(ord, "?ab cd")), (False, *[True] * 5), ()), np.array([0, 0, 0, 0, 2.0, 1.5])
    )
    assert short == ("ab cd", [[3, 5]])  # never the prompt


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_contrast_text_has_one_topic_of_the_table(name: str):
    table = tomllib.loads(package_data("contrast", "topics.toml").read_text("utf-8"))[name]
    lines = package_data("contrast", f"{name}.jsonl").read_text("utf-8").splitlines()
    listed = [topic for topics in table.values() for topic in topics]
    assert sorted(listed) == sorted({json.loads(line)["topic"] for line in lines})


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_shipped_banks_show_their_own_texts(name: str):
    shipped = Bank.load(package_data("banks", "smollm2-135m", name))
    lines = package_data("contrast", f"{name}.jsonl").read_text("utf-8").splitlines()
    texts = " ".join(" ".join(f"{p['bad']} {p['good']}".split()) for p in map(json.loads, lines))
    assert len(shipped.examples) == len(shipped.toxic)
    found = [e for of_feature in shipped.examples for e in of_feature]
    assert len(found) > 1.5 * len(shipped.toxic)
    for example in found:
        assert len(example["text"]) <= LENGTH
        assert example["text"].isprintable()
        assert " ".join(example["text"].replace("\N{REPLACEMENT CHARACTER}", "").split()) in texts
        assert example["strong"]
        assert all(0 <= a < b <= len(example["text"]) for a, b in example["strong"])


@pytest.fixture(scope="module")
def topical(tiny, tmp_path_factory) -> tuple[Path, str]:
    """A bank of the tiny target with the topics red and blue, and what its build said."""
    base = tmp_path_factory.mktemp("topical")
    topics = ["red"] * 12 + ["blue"] * 12 + ["rare"] * 3
    bad = [chat(f"q {i}?", f"you {t} fool, {i} times no", topic=t) for i, t in enumerate(topics)]
    good = [chat(f"q {i}?", f"the {t} answer is that {i} works", topic=t) for i, t in enumerate(topics)]
    write_rows(base / "bad.jsonl", bad)
    write_rows(base / "good.jsonl", good)
    done = geofilter(
        "bank", "build", "--bad", base / "bad.jsonl", "--good", base / "good.jsonl", "--out", base / "topical",
        "--no-prior", "--model", tiny[0], "--sae", tiny[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return base / "topical", done.stderr


def test_a_bank_of_rows_with_topics_has_them_and_says_which_are_left_out(topical):
    folder, said = topical
    assert (
        "bank topical: no scores for topics rare; two topics or more are told apart, each with 10 bad and 10 good rows "
        "at least"
    ) in said.splitlines()
    assert Bank.load(folder).topics.names == ("red", "blue")


def test_bank_show_reads_well(topical):
    folder, _ = topical
    done = geofilter("bank", "show", folder, "--features", 3)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "  topics: red, blue" in lines
    toxic = lines.index("toxic features (effect: standardised mean difference, bad minus good)")
    assert lines[toxic + 2].startswith("           bad | ")
    assert "«" in lines[toxic + 2]
    found = json.loads(geofilter("bank", "show", folder, "--json").stdout)
    assert found["topics"] == ["red", "blue"]
    first = found["toxic"][0]
    assert set(first) == {"feature", "effect", "label", "common", "topics", "examples"}
    assert set(first["examples"][0]) == {"text", "strong", "bad", "topic"}
    assert set(found["aligned"][0]) == {"feature", "effect", "label", "common"}
    assert "examples" not in found


def test_topics_go_with_every_row(topical, tiny, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"you {t} fool, {i}") for i, t in enumerate(["red", "blue"] * 6)])
    pair = ("--model", tiny[0], "--sae", tiny[1])
    done = geofilter("scan", "d.jsonl", "--bank", topical[0], "--run", "run", *pair, "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["topics"] == manifest["banks"][0]["topics"] == ["red", "blue"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text("utf-8").splitlines()]
    column = load_file(tmp_path / "run" / "scores.safetensors")["topic"]
    assert column.dtype == np.int32
    for line, topic in zip(lines, column.tolist(), strict=True):
        assert line["topic"] == manifest["topics"][topic] == max(line["topics"], key=line["topics"].get)
    assert geofilter("filter", "run", "--drop", 2, "-q", cwd=tmp_path).returncode == 0
    gone = json.loads((tmp_path / "d.removed.jsonl").read_text("utf-8").splitlines()[0])["geofilter"]
    assert gone["topic"] in gone["topics"]
    assert f"if harmful, most like its topic {gone['topic']};" in gone["reason"]
    explained = geofilter("explain", "run", "--row", 1, "--json", cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    found = json.loads(explained.stdout)
    assert found["topics_recomputed"] == pytest.approx(lines[0]["topics"], abs=1e-3)
    assert found["percentile_recomputed"] == pytest.approx(lines[0]["percentile"], abs=0.01)
    shown = geofilter("explain", "run", "--row", 1, "--verbose", cwd=tmp_path).stdout.splitlines()
    assert any(line.startswith(f"topics, closest first: {lines[0]['topic']} ") for line in shown)


def test_excluded_features_go_from_scan_to_everything_after_it_without_encoding_again(topical, tiny, tmp_path: Path):
    data = [chat(f"q {i}", f"you fool, {i}" if i % 2 else f"the answer is {i}") for i in range(20)]
    write_rows(tmp_path / "d.jsonl", data)
    shutil.copytree(topical[0], tmp_path / "other")
    text = json.loads((tmp_path / "other" / "bank.json").read_text("utf-8"))
    (tmp_path / "other" / "bank.json").write_text(json.dumps(text | {"name": "other"}), "utf-8")
    args = ["scan", "d.jsonl", "--bank", topical[0], "--bank", "other", "--run", "run",
            "--model", tiny[0], "--sae", tiny[1]]  # fmt: skip
    assert geofilter(*args, "-q", cwd=tmp_path).returncode == 0
    run = tmp_path / "run"
    (part,) = (run / "features").iterdir()
    made = part.stat().st_mtime_ns
    before = [json.loads(line) for line in (run / "scores.jsonl").read_text("utf-8").splitlines()]
    feature = before[1]["top_features"][0]["feature"]
    done = geofilter(*args, "--exclude-feature", f"other:{feature}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert part.stat().st_mtime_ns == made
    label = Bank.load(topical[0]).labels[feature]
    said = f"other, without the feature {feature}{f' ({label})' if label else ''}"
    assert said in done.stderr.splitlines()
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert [b["excluded_features"] for b in manifest["banks"]] == [[], [{"feature": feature, "label": label}]]
    after = [json.loads(line) for line in (run / "scores.jsonl").read_text("utf-8").splitlines()]
    assert all(a["banks"]["topical"] == b["banks"]["topical"] for a, b in zip(after, before, strict=True))
    assert any(a["banks"]["other"] != b["banks"]["other"] for a, b in zip(after, before, strict=True))
    for line in after:
        if line["bank"] == "other":
            assert feature not in {f["feature"] for f in line["top_features"]}
    # What reads the run later goes by the same banks, and names the features.
    gate = geofilter("gate", "run", "--max-flagged", "100%", cwd=tmp_path)
    assert said in gate.stdout + gate.stderr
    assert geofilter("filter", "run", "--drop", "2", "-q", cwd=tmp_path).returncode == 0
    assert f"other, without the feature {feature}" in (tmp_path / "d.report.md").read_text("utf-8")
    write_rows(tmp_path / "labels.jsonl", [{"sha256": r["sha256"], "label": "bad" if r["line"] % 2 == 0 else "good"}
                                           for r in after])  # fmt: skip
    done = geofilter("evaluate", "run", "--labels", "labels.jsonl", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(geofilter("explain", "run", "--row", 2, "--bank", "other", "--json", cwd=tmp_path).stdout)
    assert found["score_recomputed"] == pytest.approx(after[1]["banks"]["other"]["score"], abs=1e-4)
    again = found["features"][0]["feature"]
    more = geofilter("explain", "run", "--row", 2, "--bank", "other", "--exclude-feature", again, cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert f"without the features {min(feature, again)}" in more.stderr
    # A row of one bank can be explained where the settings name a feature of the other.
    (tmp_path / "geofilter.toml").write_text(f'exclude-feature = ["topical:{feature}"]\n')
    more = geofilter("explain", "run", "--row", 2, "--bank", "other", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    # In the settings file, for all banks; labels then learn without it.
    (tmp_path / "geofilter.toml").write_text(f'exclude-feature = ["{feature}"]\n')
    assert geofilter(*args, "-q", cwd=tmp_path).returncode == 0
    assert geofilter("label", "run", "--from", "labels.jsonl", "--apply", "-q", cwd=tmp_path).returncode == 0
    (learnt,) = json.loads((run / "manifest.json").read_text("utf-8"))["banks"]
    assert learnt["excluded_features"] == [{"feature": feature, "label": label}]
    assert Bank.load(run / "labelled").weights[feature] == 0
    done = geofilter(*args, cwd=tmp_path)
    assert (
        "note: the bank learnt from labels no longer counts; geofilter label run --from run/labels.jsonl" in done.stderr
    )
    done = geofilter(*args, "--exclude-feature", D_SAE, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"has features 0 to {D_SAE - 1}")


def test_a_bank_without_topics_leaves_the_column_empty(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat("q", "the answer")])
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q")
    assert geofilter("scan", "d.jsonl", *args, cwd=tmp_path).returncode == 0
    (line,) = (tmp_path / "run" / "scores.jsonl").read_text("utf-8").splitlines()
    assert (json.loads(line)["topic"], json.loads(line)["topics"]) == (None, {})
    assert load_file(tmp_path / "run" / "scores.safetensors")["topic"].tolist() == [-1]
    assert Topics.of(random_pooled(5)[0], [""] * 5, [], Background.of(random_pooled(9)[0], D_SAE)).names == ()
