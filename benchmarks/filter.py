"""Time and memory of `geofilter filter` on a run of made-up scores, with this checkout and another one in turn.

    python -m benchmarks.filter --rows 1000000 --work DIR --other CHECKOUT

From the repository's root. The run is made once in DIR (2 GB for a million rows). Each call cuts it and writes rows and
reports, as a process of its own; the two take turns, so that a machine that gets slower gets slower for both. `mb` is
the largest resident memory of the largest process, `all_mb` that of all its processes together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from pathlib import Path

import numpy as np

from benchmarks import child
from benchmarks.child import Used
from geofilter.files import dumps, write_json
from geofilter.rows.keys import SHAPES
from geofilter.rows.style import STYLE
from geofilter.run.store import FORMAT
from geofilter.run.tensors import packed
from geofilter.sums import sealed, sum_of

SENTENCE = "the answer to your question is that it depends on what you want to know and how much time there is"
WORDS = SENTENCE.split()
KINDS = 1000
"""different answers, and features that rows name"""


def make_run(folder: Path, n: int) -> None:
    """A run folder with what `filter` reads of it: manifest, score lines and arrays; no shards."""
    rng = np.random.default_rng(0)
    data, run = folder / "data.jsonl", folder / "run"
    (run / "features").mkdir(parents=True)
    score = np.round(rng.normal(size=(n, 2)), 6)
    percentile = np.round(rng.random((n, 2)), 6)
    best = score.argmax(1)
    digest = hashlib.sha256()
    feature = rng.integers(0, 4096, (KINDS, 5, 2))
    features = [
        dumps([
            {"feature": int(f), "label": "you · a fool · never", "share": 0.123456, "times": 12.3,
             "toxic": not t % 40, "near": {"feature": int(t), "label": "fool · idiot", "cosine": 0.345}
             if not t % 60 else None, "at": [int(t), int(t) + 5]}
            for f, t in of
        ]).rstrip()
        for of in feature
    ]  # fmt: skip
    answers = [" ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(40 + i % 60)) for i in range(KINDS)]
    names, scores = (b"one", b"two"), (score.tolist(), percentile.tolist())
    shas = np.empty((n, 32), np.uint8)
    with data.open("wb") as rows, (run / "scores.jsonl").open("wb") as lines:
        for i in range(n):
            line = b'{"prompt": "question %d?", "response": "%s", "source": "source %d"}\n' % (
                i, answers[i % KINDS].encode(), i % 30
            )  # fmt: skip
            rows.write(line)
            digest.update(line)
            sha = hashlib.sha256(line.rstrip(b"\n"))
            shas[i] = np.frombuffer(sha.digest(), np.uint8)
            b = int(best[i])
            each = [b'"score": %a, "percentile": %a' % (scores[0][i][k], scores[1][i][k]) for k in (0, 1)]
            lines.write(
                b'{"file": "data.jsonl", "line": %d, "sha256": "%s", %s, "bank": "%s", "banks": {"one": {%s}, '
                b'"two": {%s}}, "topic": "a", "topics": {"a": 0.5, "b": 0.1}, "n_tokens": %d, "response_tokens": %d, '
                b'"windows": 1, "top_features": %s, "common": 0.123456, "explained": 0.51234}\n'
                % (i + 1, sha.hexdigest().encode(), each[b], names[b], *each, 40 + i % 60, 40 + i % 60,
                   features[i % KINDS])
            )  # fmt: skip
    each = np.arange(n)
    columns = {
        "file": np.zeros(n, np.int32), "sha256": shas, "line": each + 1, "score": score[each, best],
        "percentile": percentile[each, best], "bank": best.astype(np.int32), "topic": np.zeros(n, np.int32),
        "style": rng.random((n, len(STYLE)), np.float32), "n_tokens": (40 + each % 60).astype(np.int32),
        "n_turns": np.full(n, 2, np.int32), "shape": np.full(n, SHAPES.index("completion"), np.int32),
        "source": (each % 30).astype(np.int32), "learnt": np.zeros((n, 2), bool),
    }  # fmt: skip
    (run / "scores.safetensors").write_bytes(packed({k: np.ascontiguousarray(v) for k, v in columns.items()}, {}))
    bank = {"toxic_features": 100, "aligned_features": 100, "reference_rows": 3, "topics": ["a", "b"],
            "excluded_features": [], "description": "", "created": "", "sources": {}, "evaluation": None,
            "path": "no-such-bank", "sha256": "0"}  # fmt: skip
    counts = {
        "rows": n,
        "scored": n,
        "quarantined": 0,
        "passed_over": 0,
        "windowed": 0,
        "response_tokens": 0,
        "tokens": int(columns["n_tokens"].sum()),
    }
    target = {"name": "t", "model": "t", "model_revision": None, "hook": "blocks.1.hook_resid_post", "sae": "s",
              "sae_model": "t", "sae_files": [], "llama_scope_gate": None, "notes": [], "neuronpedia": None,
              "fingerprint": "f", "choice": {}}  # fmt: skip
    (run / "quarantine.jsonl").touch()
    (run / "vectors.safetensors").write_bytes(made_vectors(n))
    names = ("scores.jsonl", "scores.safetensors", "vectors.safetensors", "quarantine.jsonl")
    write_json(
        run / "manifest.json",
        sealed({
            "format": FORMAT, "complete": True, "headline": "Made up.", "counts": counts, "power": [],
            "banks": [{"name": name, **bank} for name in ("one", "two")], "topics": ["a", "b"],
            "data": [{"path": "data.jsonl", "lines": n, "rows": n, "sha256": digest.hexdigest()}], "target": target,
            "scorer": "ridge", "share_keys": {}, "versions": {}, "remarks": {},
            "encoding": {"dtype": "float32", "device": "cpu", "max_tokens": 1024, "train": "all",
                         "score_thinking": False},
            "seconds": {}, "seed": 0, "fingerprint": "f", "reference_scores": sorted(rng.normal(size=300).tolist()),
            "sources": [f"source {i}" for i in range(30)], "files": {name: sum_of(run / name) for name in names},
        }),
    )  # fmt: skip


def made_vectors(n: int, kinds: int = 30, width: int = 64) -> bytes:
    """What the rows are about: unit vectors around some centres."""
    rng = np.random.default_rng(1)
    centres, rows = rng.normal(size=(kinds, width)), np.empty((n, width), np.float16)
    for start in range(0, n, 100_000):
        of = rng.integers(0, kinds, min(100_000, n - start))
        part = centres[of] + 0.5 * rng.normal(size=(len(of), width))
        rows[start : start + len(of)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return packed(
        {"vectors": rows, "centre": np.zeros(width, np.float32), "basis": np.eye(width, dtype=np.float16)}, {}
    )


def once(tree: Path, folder: Path, drop: str) -> Used:
    """What one call by this checkout takes."""
    return child.once(["filter", "run", "--drop", drop, "--quiet"], folder, {"PYTHONPATH": str(tree)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--other", type=Path, help="Another checkout, called in turn with this one.")
    parser.add_argument("--drop", default="10%")
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    folder = args.work / f"filter-{args.rows}"
    if not (folder / "run" / "manifest.json").is_file():
        make_run(folder, args.rows)
    trees = {"this": Path(__file__).parents[1]} | ({"other": args.other.resolve()} if args.other else {})
    found: dict[str, list[Used]] = {name: [] for name in trees}
    for _ in range(args.times):
        for name, tree in trees.items():
            found[name].append(once(tree, folder, args.drop))
    medians = {
        name: dict(zip(Used._fields, (round(statistics.median(v), 1) for v in zip(*calls, strict=True)),
                       strict=True))
        for name, calls in found.items()
    }  # fmt: skip
    print(json.dumps({"rows": args.rows, "times": args.times, **medians}, indent=1))


if __name__ == "__main__":
    main()
