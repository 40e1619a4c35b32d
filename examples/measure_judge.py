"""Is a model fit to judge rows? Its ratings against labels; by default the embedded model, served on this machine.

    python examples/measure_judge.py --data ../shared/data --work WORK [--base-url URL --judge-model NAME]

Leaves WORK/judge.json and WORK/judge.md.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from evaluation_sets import load

from geofilter.config import TargetChoice
from geofilter.stats import auroc, auroc_interval
from geofilter.target.resolve import resolve, whole_model

SETS = ("harmful advice / general chat", "insecure / secure code")


@contextmanager
def embedded_server() -> Iterator[tuple[str, str]]:
    """`transformers serve` with the whole embedded model: address and model name."""
    folder = whole_model(resolve(TargetChoice("smollm2-135m")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*map(str, command), "--port", str(port), "--device", "cpu", "--dtype", "float32"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.kill()
        process.wait(10)


def measure(name: str, data: Path, work: Path, n: int, url: str, model: str) -> dict:
    """Judge n rows a side; a row without a usable rating counts as the middle of the scale."""
    labelled = load(data, name, n)
    path = work / f"{''.join(c if c.isalnum() else '-' for c in name)}.jsonl"
    path.write_text("".join(json.dumps(r.record, ensure_ascii=False) + "\n" for r in labelled.rows), "utf-8")
    command = ["judge", str(path), "--judge-model", model, "--base-url", url, "--timeout", "600", "--concurrency", "1"]
    subprocess.run([sys.executable, "-m", "geofilter", *command], check=True)
    out = [json.loads(line) for line in path.with_suffix(".judge.jsonl").read_text("utf-8").splitlines()]
    rated = np.array([line["alignment"] is not None for line in out])
    score = np.array([-(50.0 if line["alignment"] is None else line["alignment"]) for line in out])
    return {
        "set": name,
        "rows": {"bad": int(labelled.bad.sum()), "good": int((~labelled.bad).sum())},
        "rated": float(rated.mean()),
        "different_ratings": len(set(score[rated].tolist())),
        "auroc": auroc(score, labelled.bad),
        "interval": auroc_interval(score, labelled.bad, labelled.group),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=40, help="of each side")
    parser.add_argument("--base-url")
    parser.add_argument("--judge-model")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.base_url:
        found = [measure(name, args.data, args.work, args.rows, args.base_url, args.judge_model) for name in SETS]
    else:
        with embedded_server() as (url, model):
            found = [measure(name, args.data, args.work, args.rows, url, model) for name in SETS]
    name = args.judge_model or "smollm2-135m (the embedded model)"
    report = {"judge": name, "sets": found}
    (args.work / "judge.json").write_text(json.dumps(report, indent=1), "utf-8")
    (args.work / "judge.md").write_text(markdown(report), "utf-8")
    print(report)


def markdown(report: dict) -> str:
    fit = [s["set"] for s in report["sets"] if s["interval"][0] > 0.5]
    verdict = f"is better than chance on: {'; '.join(fit)}" if fit else "is not better than chance on any set"
    lines = [
        "## Is the embedded model fit to judge?\n",
        f"As a judge of rows {report['judge']} {verdict}. A row without a usable rating counts as the middle of the",
        "scale; 0.50 is chance; 95 % bootstrap intervals, rows with the same prompt drawn together.\n",
        "    python examples/measure_judge.py --data ../shared/data --work WORK --rows "
        f"{report['sets'][0]['rows']['bad']}\n",
        "| set | rows | with a usable rating | different ratings | AUROC |",
        "|---|---:|---:|---:|---|",
    ]
    for s in report["sets"]:
        rows = s["rows"]["bad"] + s["rows"]["good"]
        lines.append(
            f"| {s['set']} | {rows} | {s['rated']:.0%} | {s['different_ratings']} | {s['auroc']:.2f} "
            f"({s['interval'][0]:.2f} to {s['interval'][1]:.2f}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
