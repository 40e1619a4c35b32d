"""Does removing the closest rows help? Trials on mixed sets with the embedded model, one command for all or for each.

    python examples/measure_removal.py --work WORK [--data ../shared/data] [--only subtle-half] ... [--seeds 5]

Every experiment mixes labelled bad rows into ordinary ones (`removal_sets.py`), scans the mix with the default score
(the scan never sees a label), and runs `geofilter trial`. What is finished is kept, so the command can be stopped and
given again, with more seeds too; two experiments may run side by side. WORK/removal.json and WORK/removal.md hold all
that are finished.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from removal_sets import EXPERIMENTS, HELD_OUT, PAIRS, Experiment, prepare

from geofilter.config import Loading, ScanConfig, TargetChoice
from geofilter.evaluate.evaluate import evaluate
from geofilter.scanning.scan import scan
from geofilter.text import markdown_table
from geofilter.trial.config import Recipe, TrialConfig
from geofilter.trial.tables import HEAD, features, remarks, table, verdicts
from geofilter.trial.trial import trial

TARGET = TargetChoice("smollm2-135m")
READING = Loading("cpu", "float32")
"""of scans: the banks that ship are for float32"""
TUNING = Loading("cpu", "bfloat16")
"""of trials: twice as fast"""
SEEDS = 5
"""of the plan"""


def run(e: Experiment, data: Path | None, work: Path, seeds: int, sum_up: bool) -> dict:
    """Scan and trial of one experiment; `sum_up`: only of the arms, and the seeds, that are finished."""
    if sum_up:
        finished = [len(list((work / "trial" / "arms").glob(f"{arm}-seed*.json"))) for arm in ("full", "good")]
        if not (seeds := min(seeds, *finished)):
            raise SystemExit(f"{work}: nothing is finished; leave out --sum-up")
    work.mkdir(parents=True, exist_ok=True)
    files = prepare(e, data, work)
    done = scan(
        ScanConfig((str(files.mix),), TARGET, READING, with_loss=True), work / "run", offline=True, notify=print
    )
    config = TrialConfig(
        files.good, files.pairs, (), e.drops[:1], e.arms, recipe=Recipe(batch_rows=2, epochs=e.epochs), max_tokens=192,
        own_pairs=files.own_pairs, held_out=HELD_OUT, labels="label=misaligned", swap=files.swap,
    )  # fmt: skip
    # What matters most first, so that a plan that is stopped has all seeds of it.
    stages = [(e.drops[:1], e.arms), (e.drops, e.arms), *((e.drops[:1], (*e.arms, other)) for other in e.others)]
    result = {}
    for drops, arms in [((), ())] if sum_up else stages:
        wanted = replace(config, drops=drops, arms=arms, seeds=seeds)
        _, result = trial(done, wanted, TUNING, out=work / "trial", offline=True, notify=print)
    return {
        "title": e.title, "rows": {"bad": e.n_bad, "good": e.n_good},
        "detection": evaluate(done, "label=misaligned")["verdict"]["text"], **result,
    }  # fmt: skip


def not_run(found: dict[str, dict]) -> list[str]:
    """What of the plan is not in the results."""
    out = []
    for name, e in EXPERIMENTS.items():
        done = {(a["arm"], a["drop"]) for a in found[name]["arms"]} if name in found else set()
        wanted = [(arm, drop) for drop in e.drops for arm in e.arms] + [(arm, e.drops[0]) for arm in e.others]
        left = [f"{arm} {drop}" for arm, drop in wanted if (arm, drop) not in done]
        if done and (seeds := len(found[name]["seeds"])) < SEEDS:
            left.append(f"seeds from {seeds + 1} to {SEEDS}")
        if left:
            out.append(f"{e.title}: {'all arms' if not done else ', '.join(left)}")
    return out


def markdown(found: dict[str, dict]) -> str:
    first = next(iter(found.values()))
    recipe = first["options"]["recipe"]
    out = [
        "## Does removing the closest rows help?\n",
        f"Rows are ranked by the default score ({first['scorer']}) under {' and '.join(first['banks'])}.",
        f"LoRA of rank {recipe['rank']} on every linear layer of the embedded target, learning rate "
        f"{recipe['learning_rate']:g}, {recipe['batch_rows']} rows a step, weights in bfloat16. *pairs*: harmful "
        f"against sound answers to {3 * PAIRS} questions on health, career and law, those of them that were not "
        "fine-tuned on; *own_pairs*: to questions like those of the data, none of which an arm has seen. No free-form "
        "answers were judged: a model of this size is no judge (see below), and there was no other.\n",
        *(f"- {text}" for text in remarks(first)),
        "- There is no arm by the gradient at the hook: that score was not adopted ([method.md](method.md)).",
        *(f"- Not run (the command goes on with them): {text}." for text in not_run(found)),
        "",
    ]
    for name, result in found.items():
        data = " --data ../shared/data" * (EXPERIMENTS[name].of == "advice")
        command = f"python examples/measure_removal.py --work WORK{data} --only {name}"
        out += [f"### {result['title']}\n", f"    {command}\n"]
        counts = f"{result['rows']['bad']} bad and {result['rows']['good']} good rows, {len(result['seeds'])} seeds."
        out.append(f"{counts} {result['detection']}\n")
        out += [f"- {text}" for text in verdicts(result)]
        for measure in result["measures"]:
            out += [
                f"\n{measure}: {result['measures'][measure]['text']}\n",
                *markdown_table(HEAD, table(result, measure)),
            ]
        head, rows = features(result)
        out += ["\nThe bank's features on held-out rows:\n", *markdown_table(head, rows), ""]
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--sum-up", action="store_true", help="fine-tune nothing more; report what is finished")
    arguments = parser.parse_args()
    for name in arguments.only or EXPERIMENTS:
        folder = arguments.work / name
        result = run(EXPERIMENTS[name], arguments.data, folder, arguments.seeds, arguments.sum_up)
        text = json.dumps(result, indent=1).replace(f"{arguments.work}/", "WORK/")
        (folder / "result.json").write_text(text, "utf-8")
    found = {
        name: json.loads(path.read_text("utf-8"))
        for name in EXPERIMENTS
        if (path := arguments.work / name / "result.json").is_file()
    }
    (arguments.work / "removal.json").write_text(json.dumps(found, indent=1), "utf-8")
    (arguments.work / "removal.md").write_text(markdown(found), "utf-8")


if __name__ == "__main__":
    main()
