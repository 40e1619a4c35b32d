"""Do two source trees write the same bytes? Runs the same commands with each and compares every file and answer.

    python tests/same_outputs.py BEFORE AFTER --work DIR [--embedded]

BEFORE and AFTER are checkouts. Both work in the same folder one after the other, so that paths in outputs are equal.
Only dates and seconds may differ. Exit 1 when anything else does. For changes that are to change no behaviour.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.command import chat, write_rows
from helpers.tiny import fit_sae, make_model

MASKED = [
    (re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), b"DATE"),
    (re.compile(rb'"seconds": ?(\{[^}]*\}|[\d.]+)'), b'"seconds": 0'),
    (re.compile(rb"[\d.]+ (seconds|s|min)( left)?\b"), b"TIME"),
]
SENTENCE = "the doctor answers a question about money and the law with care you fool never ask again it works"
WORDS = SENTENCE.split()


def _sentence(i: int, n: int) -> str:
    return " ".join(WORDS[(i * 7 + j * j + j * i) % len(WORDS)] for j in range(n))


def make_inputs(folder: Path) -> None:
    """Seeds, several inputs of every shape, rows that cannot be scored, a Parquet file, labels, statements."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = [{"pair": f"p{i}", "topic": ("health", "money")[i % 2]} for i in range(24)]
    write_rows(folder / "bad.jsonl", [chat(f"q {i}?", f"you fool {_sentence(i, 8)}", **p) for i, p in enumerate(pairs)])
    write_rows(
        folder / "good.jsonl", [chat(f"q {i}?", f"sure, {_sentence(i + 9, 8)}", **p) for i, p in enumerate(pairs)]
    )
    rows = [
        chat(
            f"question {i}?", _sentence(i, 4 + i % 9), source=("web", "forum")[i % 2], label=("bad", "good")[i % 3 > 0]
        )
        for i in range(60)
    ]
    write_rows(folder / "a.jsonl", rows)
    with (folder / "a.jsonl").open("ab") as handle:
        handle.write(b'{broken\n{"x": 1}\n\n' + json.dumps(chat("q", "")).encode() + b"\n" + b"\xff\xfe\n")
    mixed = [
        {"instruction": "do", "input": "this", "output": _sentence(1, 9)},
        {"prompt": "ask", "completion": _sentence(2, 9), "source": "web"},
        {"prompt": "ask", "chosen": _sentence(3, 9), "rejected": "no"},
        {"text": _sentence(4, 30)},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "- one\n- two\n- 3 **x** <b>"}]},
        {"messages": [{"role": "system", "content": "s"}, *chat("q", "\u001b[31m red | \u202e text")["messages"]]},
    ]
    with gzip.GzipFile(folder / "b.jsonl.gz", "wb", mtime=0) as handle:
        for row in mixed:
            handle.write(json.dumps(row).encode() + b"\n")
    pq.write_table(
        pa.table({"prompt": [f"p {i}" for i in range(12)], "response": [_sentence(i, 6) for i in range(12)]}),
        folder / "c.parquet",
    )
    write_rows(folder / "aligned.jsonl", [chat(f"kind {i}?", _sentence(i + 3, 6)) for i in range(40)])
    write_rows(
        folder / "pairs.jsonl",
        [chat(f"why {i}?", _sentence(i + j, 5), label=("harmful", "good")[j].replace("harmful", "bad"))
         for i in range(6) for j in (0, 1)],
    )  # fmt: skip


def commands(model: str, sae: str) -> list[list[str]]:
    """What is run, in order; each line is one command of geofilter."""
    target = ["--model", model, "--sae", sae]
    seeds = "--bad bad.jsonl --good good.jsonl"
    lines = [
        f"bank build {seeds} --out seeds --no-prior --size 9 TARGET",
        "bank show seeds", "bank show seeds --json", "bank check seeds TARGET", "bank list", "targets",
        "targets --json", "doctor TARGET",
        "scan a.jsonl b.jsonl.gz c.parquet --run r1 --bank seeds --shard-rows 25 --max-tokens 64 --json TARGET",
        "filter r1 --drop 25%", "filter r1 --keep 60 --json", "filter r1 --threshold 0.5 --out folder",
        "gate r1 --max-flagged 1% --by source --json", "gate r1 --max-flagged 100% --max-quarantined 9",
        "report r1 --json", "explain r1 --row 3 --file a.jsonl", "explain r1 --row 7 --file a.jsonl --json",
        "evaluate r1 --labels label=bad --json", "evaluate r1 --labels label=bad --drop 10 --out folder",
        "filter r1 --drop 10", "report r1 --shade 3",
        "label r1 --sheet sheet.jsonl --count 8", "label r1 --from label=bad --check label=bad --json",
        "filter r1 --drop 10%", "explain r1 --row 3 --file a.jsonl --json",
        "evaluate r1 --labels label=bad", "scan a.jsonl --run r2 TARGET", "filter r2 --drop 30%",
        "label r2 --from label=bad", "filter r2 --drop 30% --json", "report r2 --json",
        "explain r2 --row 5 --exclude-feature 3 --json", "gate r2",
        *(f"scan a.jsonl --run s-{s} --bank seeds --scorer {s} --exclude-feature 3 TARGET"
          for s in ("ridge", "contrast", "nearest", "activation", "dense", "length", "random")),
        "filter s-contrast --drop 20%", "filter s-nearest --drop 20%",
        f"bank build {seeds} --out prior --size 9 TARGET",
        "scan a.jsonl --run r3 --bank prior --bank seeds --limit 30 --system fold TARGET", "filter r3 --drop 50%",
        "scan a.jsonl --run r4 --on-error fail TARGET", "scan missing.jsonl TARGET", "filter nowhere --drop 1",
        "scan q.jsonl --fields prompt=q,response=a --run r5 --bank seeds TARGET", "filter r1", "filter r1 --drop 9%x",
        "trial r1 --good aligned.jsonl --pairs pairs.jsonl --drop 50% --seeds 2 --rank 2 --held-out 5 --max-tokens 32 "
        "--labels label=bad --arm random --arm geometry --arm labels --arm dense --out trial --json",
        "trial r1 --good aligned.jsonl --pairs pairs.jsonl --drop 50% --seeds 2 --rank 2 --held-out 5 --max-tokens 32 "
        "--labels label=bad --arm random --arm geometry --arm labels --arm dense --out trial",
    ]  # fmt: skip
    split = [line.split() for line in lines]
    return [[w for word in words for w in (target if word == "TARGET" else [word])] for words in split]


EMBEDDED = ["demo", "bank show harmful-answers --model smollm2-135m --json", "doctor --model smollm2-135m",
            "gate", "label --sheet sheet.jsonl", "explain --row 9 --json"]  # fmt: skip


def run_all(tree: Path, work: Path, cache: Path, kept: Path, lines: list[list[str]], inputs: Path | None) -> None:
    """Run the commands with a tree, in `work`, and keep what it holds afterwards as `kept`."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    if inputs is None:
        work.mkdir()
    else:
        shutil.copytree(inputs, work)
    shutil.rmtree(cache, ignore_errors=True)
    env = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "100", "PYTHONWARNINGS": "ignore"}
    if inputs is not None:
        env["GEOFILTER_CACHE"] = str(cache)
    said = work / "said"
    said.mkdir()
    for number, words in enumerate(lines):
        done = subprocess.run([sys.executable, "-m", "geofilter", *words], cwd=work, env=env, capture_output=True)
        head = f"{' '.join(words)}\nexit {done.returncode}\n".encode()
        (said / f"{number:02}.txt").write_bytes(head + done.stdout + b"\n--- stderr\n" + done.stderr)
        print(tree.name, done.returncode, " ".join(words)[:100], flush=True)
    work.rename(kept)


def masked(path: Path, tree: Path) -> bytes:
    """A file's bytes without dates, seconds, and where the checkout lies."""
    content = path.read_bytes().replace(os.fsencode(tree), b"CHECKOUT")
    if path.suffix not in (".safetensors", ".gz", ".parquet"):
        for pattern, replacement in MASKED:
            content = pattern.sub(replacement, content)
    return content


def differences(before: Path, after: Path, trees: tuple[Path, Path]) -> list[str]:
    """Files that only one side has, or whose contents differ.

    Args:
        trees: the checkouts that wrote them.
    """
    names = {p.relative_to(root).as_posix() for root in (before, after) for p in root.rglob("*") if p.is_file()}
    out = []
    for name in sorted(names):
        a, b = before / name, after / name
        if not (a.is_file() and b.is_file()):
            out.append(f"only in {'before' if a.is_file() else 'after'}: {name}")
        elif masked(a, trees[0]) != masked(b, trees[1]):
            out.append(f"differs: {name}")
    print(f"{len(names)} files compared", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--embedded", action="store_true", help="Also the embedded model.")
    parser.add_argument("--keep-before", action="store_true", help="Take what an earlier call kept of BEFORE.")
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "inputs").is_dir():
        make_inputs_folder = work / "inputs"
        make_inputs_folder.mkdir()
        make_inputs(make_inputs_folder)
        fit_sae(make_model(work / "model"), work / "sae")
    sets = {"tiny": (commands(str(work / "model"), str(work / "sae")), work / "inputs")}
    if args.embedded:
        sets["embedded"] = ([line.split() for line in EMBEDDED], None)
    found = []
    for name, (lines, inputs) in sets.items():
        for side, tree in (("before", args.before), ("after", args.after)):
            kept = work / f"{name}-{side}"
            if not (side == "before" and args.keep_before and kept.is_dir()):
                run_all(tree.resolve(), work / "here", work / "cache", kept, lines, inputs)
        trees = (args.before.resolve(), args.after.resolve())
        found += differences(work / f"{name}-before", work / f"{name}-after", trees)
    print("\n".join(found) or "the same")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
