"""Names of features: what they are made of, how they are tried, Neuronpedia's export, and where they are shown."""

import gzip
import json
import random
import re
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers.command import geofilter, quiet, write_rows
from helpers.endpoint import Endpoint

from geofilter.bank.bank import Bank
from geofilter.bank.feature_names import shipped_names, usable
from geofilter.build import neuronpedia
from geofilter.build.contexts import FEWEST, FEWEST_TRIED, PIECE, STRONG, TRIED, Shown
from geofilter.build.feature_naming import cleaned, marked, scored
from geofilter.build.named_bank import Judged, contexts, name_bank
from geofilter.config import Loading, TargetChoice
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import encode_row
from geofilter.errors import InputError, TargetError
from geofilter.files import package_data
from geofilter.judge.client import Judge
from geofilter.rows.records import read_rows
from geofilter.target.resolve import resolve

WORDS = (
    "river",
    "stone",
    "cloud",
    "paper",
    "green",
    "quick",
    "seven",
    "lamp",
    "bread",
    "winter",
    "music",
    "door",
    "glass",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(3)
    rows = [{"text": " ".join(rng.choices(WORDS, k=rng.randint(20, 60)))} for _ in range(80)]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    write_rows(path, rows)
    return path


@pytest.fixture(scope="module")
def reader(tiny: tuple[Path, Path]) -> FeatureReader:
    return FeatureReader(resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet), Loading("cpu", "float32"))


@pytest.fixture(scope="module")
def found(reader: FeatureReader, texts: Path):
    return contexts(reader, range(reader.encoder.d_sae), read_rows(texts))


# Pieces


def test_pieces_are_where_the_feature_fires_and_where_it_does_not(reader: FeatureReader, texts: Path, found):
    """Against the activations of each row, read one row at a time."""
    rows = list(read_rows(texts))
    peaks: dict[str, np.ndarray] = {}
    row_of: dict[str, int] = {}
    for number, row in enumerate(rows):
        encoded = encode_row(row, reader.tokenizer, 256).cut()
        _, tokens = reader.read_tokens(encoded)
        place = {position: i for i, position in enumerate(np.flatnonzero(encoded.mask).tolist())}
        of = np.array([place[p] for p in tokens.position[tokens.token].tolist()]) // PIECE
        for n in range(-(-len(encoded.spans) // PIECE)):
            start, end = encoded.spans[n * PIECE][0], encoded.spans[min(len(encoded.spans), n * PIECE + PIECE) - 1][1]
            text = row.response[start:end]
            peaks[text] = np.zeros(reader.encoder.d_sae)
            np.maximum.at(peaks[text], tokens.feature[of == n], tokens.value[of == n])
            row_of[text] = number
    highest = np.max(list(peaks.values()), axis=0)
    drawn = {f: of for f in found.features if (of := found.drawn(f)) is not None}
    assert len(drawn) >= 10
    naming, trying = set[int](), set[int]()
    for feature, of in drawn.items():
        assert len(of.named_by) >= FEWEST
        assert FEWEST_TRIED <= len(of.on) <= TRIED
        for shown in of.named_by:
            assert shown.peak == pytest.approx(peaks[shown.text][feature] / highest[feature], rel=1e-3)
        assert all(peaks[text][feature] >= STRONG * highest[feature] * 0.999 for text in of.on)
        assert all(peaks[text][feature] == 0 for text in of.off)
        assert len(of.off) == len(of.on)
        naming |= {row_of[shown.text] for shown in of.named_by}
        trying |= {row_of[text] for text in [*of.on, *of.off]}
        for part in (of.on, of.off, [s.text for s in of.named_by]):
            assert len({row_of[text] for text in part}) == len(part)
        peak = [s.peak for s in of.named_by]
        assert peak == sorted(peak, reverse=True)
    assert not naming & trying
    assert found.drawn(next(iter(drawn)), 1) != found.drawn(next(iter(drawn)))


def test_marks_stand_around_the_strongest_words():
    assert marked(Shown("the river and the stone", [(4, 9), (18, 23)], 1.0)) == "the «river» and the «stone»"
    assert marked(Shown("riverbank", [(0, 5), (5, 9)], 1.0)) == "«riverbank»"


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ('"Words of water."', "Words of water"),
        ("none", ""),
        (" NONE ", ""),
        ("**a\nb**", "a b"),
        ("'body', 'blood'", "'body', 'blood'"),
        ("x" * 300, None),
    ],
)
def test_a_label_is_one_short_line(reply: str, name: str | None):
    assert len(cleaned(reply)) <= 100
    assert name is None or cleaned(reply) == name


def test_a_name_is_right_in_what_it_tells_of_both_sides():
    answers = [(True, True)] * 9 + [(True, False)] * 3 + [(False, True)] * 6 + [(False, False)] * 6
    assert scored(7, "x", answers) == {"feature": 7, "name": "x", "right": 0.625, "pieces": 24}


# A judge


def judge_that(found, knows: bool) -> Endpoint:
    """Names a feature by its number, which it knows by the pieces, and tells where it fires if it `knows`."""
    drawn = {f: of for f in found.features if (of := found.drawn(f)) is not None}
    by_pieces = {marked(of.named_by[0]): f for f, of in drawn.items()}

    def answer(_: int, body: dict) -> str:
        prompt = body["messages"][0]["content"]
        piece = re.search(r"\[BEGIN PIECES? \w+\]\n(.*)\n\[END", prompt, re.DOTALL)[1]
        if "[BEGIN PIECES" in prompt:
            return f"feature {by_pieces[piece.split(chr(10) + '---' + chr(10))[0]]}."
        number = int(re.search(r"said to fire on: feature (\d+)\n", prompt)[1])
        return "90" if knows and piece in drawn[number].on else "10"

    return Endpoint(answer)


def name(bank: Path, out: Path, tiny, *more: object, **where):
    return geofilter("bank", "name", bank, "--out", out, "--model", tiny[0], "--sae", tiny[1], *more, **where)


def test_a_judge_names_features_and_is_tried_on_other_texts(tiny, tiny_bank: Path, texts: Path, found, tmp_path: Path):
    asked = judge_that(found, True)
    ask = ("--judge", "rater", "--base-url", asked.url, "--data", texts)
    done = name(tiny_bank, tmp_path / "a", tiny, *ask)
    assert done.returncode == 0, done.stderr
    assert f"pieces of {texts} will be sent to {asked.url} for rater" in done.stderr
    old, bank = Bank.load(tiny_bank), Bank.load(tmp_path / "a")
    wanted = {*old.toxic.tolist(), *old.aligned.tolist()}
    drawn = {f for f in wanted if found.drawn(f) is not None}
    assert drawn
    assert {f: n["right"] for f, n in bank.names.items()} == dict.fromkeys(drawn, 1.0)
    assert all(bank.called(f) == f"feature {f}" for f in drawn)
    assert f"{len(drawn)} of {len(drawn)} features named" in done.stdout
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["bank.json", "bank.safetensors"]
    # Nothing but the names has changed.
    assert (bank.weights == old.weights).all()
    assert bank.name == "a"
    # A scan's reasons and `bank show` call features by their names.
    shown = geofilter("bank", "show", tmp_path / "a")
    f = int(next(f for f in bank.toxic.tolist() if f in drawn))
    assert re.search(rf"\n +{f}  \S+  feature {f} \(right in 100%\)", shown.stdout), shown.stdout
    scan = geofilter(
        "scan", texts, "--model", tiny[0], "--sae", tiny[1], "--bank", tmp_path / "a", "--run", tmp_path / "r"
    )
    assert scan.returncode == 0, scan.stderr
    lines = (tmp_path / "r" / "scores.jsonl").read_text().splitlines()
    labels = {f["feature"]: f["label"] for line in lines for f in json.loads(line)["top_features"]}
    assert any(label == f"feature {f}" for f, label in labels.items())
    assert all(label == bank.called(f) for f, label in labels.items())


def test_names_that_are_not_better_than_guessing_are_not_used(
    tiny, tiny_bank: Path, texts: Path, found, tmp_path: Path
):
    ask = ("--judge", "rater", "--base-url", judge_that(found, False).url, "--data", texts)
    done = name(tiny_bank, tmp_path / "a", tiny, *ask)
    assert done.returncode == 0, done.stderr
    bank, old = Bank.load(tmp_path / "a"), Bank.load(tiny_bank)
    assert bank.names == {}
    assert {n["right"] for n in bank.meta["names"]["features"]} == {0.5}
    assert all(bank.called(f) == old.called(f) for f in range(bank.d_sae))
    assert re.search(r": 0 of \d+ features named; .* \(median of all 0\.50, guessing 0\.50\)", done.stdout)


def test_answers_are_not_paid_for_twice(tiny, tiny_bank: Path, texts: Path, found, tmp_path: Path):
    good = judge_that(found, True)

    def then_down(number: int, body: dict):
        return (401, {"error": {"message": "no credit"}}) if number >= 20 else good.script(number, body)

    down = Endpoint(then_down)
    done = name(tiny_bank, tmp_path / "a", tiny, "--judge", "rater", "--base-url", down.url, "--data", texts)
    assert done.returncode == 3
    kept = (tmp_path / "a" / "naming.jsonl").read_text().splitlines()
    assert len(kept) >= 16  # requests that were under way when the first one failed may be lost
    (tmp_path / "a" / "naming.jsonl").write_text("\n".join(kept) + '\n{"prompt": "cut o')
    done = name(tiny_bank, tmp_path / "a", tiny, "--judge", "rater", "--base-url", good.url, "--data", texts)
    assert done.returncode == 0, done.stderr
    drawn = [of for f in Bank.load(tmp_path / "a").names if (of := found.drawn(f))]
    assert len(good.bodies) == sum(1 + len(of.on) + len(of.off) for of in drawn) - len(kept)


# Neuronpedia


def explanations(page: str, n: int) -> bytes:
    model, layer = page.split("/")
    told = [
        {
            "modelId": model,
            "layer": layer,
            "index": str(i),
            "description": f" words of {i}",
            "explanationModelName": "m",
        }
        for i in range(n)
    ]
    return "".join(json.dumps(t) + "\n" for t in [*told, {**told[0], "description": "second"}]).encode()


def test_names_from_an_export(tiny, tiny_bank: Path, tmp_path: Path):
    folder = tmp_path / "explanations"
    folder.mkdir()
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress(explanations("some/layer-3", 5)))
    done = name(tiny_bank, tmp_path / "a", tiny, "--names", folder)
    assert done.returncode == 0, done.stderr
    assert "5 features named, by Neuronpedia's explanations (m); how far the names are right was not" in done.stdout
    assert "https://www.neuronpedia.org/some/layer-3" in done.stdout
    bank = Bank.load(tmp_path / "a")
    assert [bank.called(f) for f in range(5)] == [f"words of {f}" for f in range(5)]
    assert bank.called(5) == Bank.load(tiny_bank).called(5)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (explanations("a/b", 100000)[:200_000], "line {n}: is of feature {d} of a/b, not of a/b with its {d} features"),
        (explanations("a/b", 2) + explanations("a/c", 2), "line 4: is of feature 0 of a/c, not of a/b with its"),
        (b'{"index": "1"}\n', "line 1: is no explanation of Neuronpedia's export"),
        (b"{broken\n", "line 1: is no JSON"),
        (explanations("a/b", 1)[:75] + b'"description": "None"}\n', "has no explanation of a feature"),
        (None, "no such file"),
    ],
)
def test_exports_that_cannot_be_used(data: bytes | None, said: str, tmp_path: Path):
    path = tmp_path / "names.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(path))) as refused:
        neuronpedia.names_from(neuronpedia.export_files(path), None, 64)
    assert said.format(n=65, d=64) in str(refused.value)


def test_the_export_is_fetched_once(monkeypatch: pytest.MonkeyPatch):
    page, asked = "gemma-2-2b/20-res-16k", []

    class Export(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            keys = "".join(f"<Key>v1/{page}/explanations/batch-{i}.jsonl.gz</Key>" for i in (0, 1))
            body = f"<ListBucketResult>{keys}</ListBucketResult>".encode()
            if self.path.endswith(".gz"):
                body = gzip.compress(explanations(page, 3 + 2 * ("batch-1" in self.path)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Export)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(neuronpedia, "EXPORTS", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(TargetError, match=r"not in the cache and --offline is set; get .* by hand"):
        neuronpedia.fetched(page, offline=True, notify=quiet)
    files = neuronpedia.fetched(page, offline=False, notify=quiet)
    names = neuronpedia.names_from(files, page, 16)
    assert {f: n["name"] for f, n in usable(names).items()} == {f: f"words of {f}" for f in range(5)}
    assert len(asked) == 3
    server.shutdown()
    server.server_close()
    assert neuronpedia.fetched(page, offline=True, notify=quiet) == files
    with pytest.raises(TargetError, match="does not answer"):
        neuronpedia.fetched("another/sae", offline=False, notify=quiet)


def test_a_target_that_is_not_on_neuronpedia_is_told_so(tiny, tiny_bank: Path, tmp_path: Path):
    done = name(tiny_bank, tmp_path / "a", tiny, "--neuronpedia")
    assert (done.returncode, "name features with --judge, or give an export with --names" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say who names the features: give --judge MODEL, --neuronpedia, or --names FILE"),
        (["--judge", "m", "--neuronpedia"], "say who names the features"),
        (["--judge", "m"], "--judge and --data go together"),
        (["--neuronpedia", "--data", "x"], "--judge and --data go together"),
        (["--judge", "m", "--data", "x", "--rows", "0"], "--rows 0: give 1 or more"),
        (["--neuronpedia", "--run", "x"], "--run goes with --judge; leave it out"),
        (["--neuronpedia", "--base-url", "http://x"], "--base-url goes with --judge; leave it out"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str, tmp_path: Path):
    done = geofilter("bank", "name", "toxic-text", "--model", "m", "--out", "o", *options, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


# Names that ship


def test_the_embedded_target_has_names_and_no_other_has():
    bank = Bank.load(package_data("banks", "smollm2-135m", "toxic-text"))
    names = shipped_names(bank.target["name"], bank.target["fingerprint"])
    assert names is not None
    assert shipped_names(bank.target["name"], "another") is None
    assert shipped_names("tiny", bank.target["fingerprint"]) is None
    used = usable(names)
    assert len(used) >= 300
    assert all(n["pieces"] >= 2 * FEWEST_TRIED for n in names["features"] if n.get("right") is not None)
    assert len({n["feature"] for n in names["features"]}) == len(names["features"])
    named = next(iter(used.values()))
    assert bank.called(named["feature"]) == named["name"]
    # A bank's own names take their place.
    own = replace(bank, meta={**bank.meta, "names": {"by": "me", "features": [{"feature": 3, "name": "three"}]}})
    assert own.called(3) == "three"
    assert own.called(named["feature"]) == own.labels[named["feature"]]


def test_a_bank_of_another_hand_reads_no_other_file_for_its_names(tiny_bank: Path, tmp_path: Path):
    bank = Bank.load(tiny_bank)
    for name in ("../report.schema", "/etc/passwd", "smollm2-135m"):
        assert replace(bank, target={**bank.target, "name": name}).names == {}


def test_a_bank_is_not_written_over_itself_and_other_files_stay(tiny, tiny_bank: Path, tmp_path: Path):
    own = Path(shutil.copytree(tiny_bank, tmp_path / "own"))
    export = tmp_path / "names.jsonl"
    export.write_bytes(explanations("a/b", 3))
    done = name(own, own, tiny, "--names", export)
    assert (done.returncode, "own" in done.stderr) == (2, True), done.stderr
    out = tmp_path / "out"
    out.mkdir()
    (out / "naming.jsonl").write_text("mine")
    assert name(own, out, tiny, "--names", export).returncode == 0
    assert (out / "naming.jsonl").read_text() == "mine"


def test_a_run_of_another_target_names_no_features(tiny, tiny_bank: Path, texts: Path, tmp_path: Path):
    how = Judged(Judge("rater", "http://127.0.0.1:9/v1"), [texts], also=[3], of="another")
    with pytest.raises(InputError, match="--run: is of another target"):
        name_bank(str(tiny_bank), tmp_path / "o", TargetChoice(str(tiny[0]), str(tiny[1])), Loading("cpu"), how)


def test_a_copy_of_a_private_bank_is_private(tiny, tiny_bank: Path, tmp_path: Path):
    own = Path(shutil.copytree(tiny_bank, tmp_path / "own"))
    for file in own.iterdir():
        file.chmod(0o600)
    export = tmp_path / "names.jsonl"
    export.write_bytes(explanations("a/b", 3))
    assert name(own, tmp_path / "out", tiny, "--names", export).returncode == 0
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o600}
