"""Does removing the closest rows help? Trials on mixed sets with the embedded model, one command for all or for each.

    python examples/measure_removal.py --data ../shared/data --work WORK [--only advice-half] ...

Every experiment mixes labelled bad rows into ordinary ones, scans the mix (the scan never sees a label), and runs
`geofilter trial`. What is finished is kept, so the command can be stopped and given again; two experiments may run
side by side. WORK/removal.json and WORK/removal.md hold all that are finished.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation_sets import in_training_half

from geofilter.build.banks import build_from_files
from geofilter.build.build import BuildOptions
from geofilter.build.seeds import SeedFiles
from geofilter.config import Loading, ScanConfig, TargetChoice
from geofilter.evaluate.evaluate import evaluate
from geofilter.rows.records import Row, read_rows
from geofilter.rows.shipped import domain_files
from geofilter.scanning.scan import scan
from geofilter.text import markdown_table
from geofilter.trial.config import Recipe, TrialConfig
from geofilter.trial.tables import HEAD, features, remarks, table, verdicts
from geofilter.trial.trial import trial

TARGET = TargetChoice("smollm2-135m")
READING = Loading("cpu", "float32")
"""of scans: the banks that ship are for float32"""
SCORER = "contrast"
"""the geometric score, closest to what the paper claims; not the default"""
TUNING = Loading("cpu", "bfloat16")
"""of trials: twice as fast"""


@dataclass(frozen=True)
class Experiment:
    """A mixed set, the bank it is scored with, and the arms."""

    title: str
    bad: str
    good: str
    n_bad: int
    n_good: int
    drops: tuple[str, ...]
    arms: tuple[str, ...]
    others: tuple[str, ...] = ()
    """arms at the first drop only"""
    seeds: int = 3
    length: tuple[int, int] = (0, 10**9)
    """characters of the responses taken, so that length does not tell the two kinds apart"""
    seed_rows: int = 0
    """labelled rows a side that choose the bank; 0 for the built-in banks, which need none"""


OTHERS = ("activation", "dense", "length", "labels")
ADVICE = ("harmful_advice", "general_chat")
CODE = ("insecure_code", "secure_code")
EXPERIMENTS = {
    "advice-half": Experiment(
        "harmful advice, half of the rows", *ADVICE, 80, 80, ("50%", "25%", "10%"), ("random", "geometry"),
        others=OTHERS, length=(60, 400),
    ),
    "advice-quarter": Experiment(
        "harmful advice, a quarter of the rows", *ADVICE, 40, 120, ("50%", "25%", "10%"), ("random", "geometry"),
        length=(60, 400),
    ),
    "code-half": Experiment(
        "insecure code, half of the rows", *CODE, 80, 80, ("50%",), ("random", "geometry"), seed_rows=30
    ),
    "code-quarter": Experiment(
        "insecure code, a quarter of the rows", *CODE, 40, 120, ("50%",), ("random", "geometry"), seed_rows=30
    ),
}  # fmt: skip
PAIRS, STATEMENTS, HELD_OUT = 20, 40, 24
"""questions of each domain, statements of each side, rows for the task's loss"""


def rows_of(path: Path, length: tuple[int, int], unseen: bool) -> list[Row]:
    """Shuffled rows whose response has such a length; `unseen`: those that the SAE's training did not read."""
    found = [
        row
        for row in read_rows(path)
        if isinstance(row, Row)
        and length[0] <= len(row.response) <= length[1]
        and not (unseen and in_training_half(row.sha256))
    ]
    random.Random(0).shuffle(found)
    return found


def write(path: Path, rows: list[Row], label: str | None = None) -> Path:
    records = [{**row.record, **({"label": label} if label else {})} for row in rows]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path


def prepare(e: Experiment, data: Path, work: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """Files of the mix and of other good rows, and the banks; no row and no prompt is in two of them."""
    bad = rows_of(data / f"{e.bad}.jsonl", e.length, unseen=True)
    # Short ordinary answers are too few to leave those out that the SAE has read (without any label).
    good = rows_of(data / f"{e.good}.jsonl", e.length, unseen=e.good != "general_chat")
    banks: tuple[str, ...] = ()
    if e.seed_rows:
        seeds = [
            write(work / "seed-bad.jsonl", bad[: e.seed_rows]),
            write(work / "seed-good.jsonl", good[: e.seed_rows]),
        ]
        used = {row.prompt for row in bad[: e.seed_rows] + good[: e.seed_rows]}
        bad = [row for row in bad[e.seed_rows :] if row.prompt not in used]
        good = [row for row in good[e.seed_rows :] if row.prompt not in used]
        if not (work / "bank" / "bank.json").is_file():
            build_from_files(SeedFiles(*seeds), work / "bank", TARGET, READING, BuildOptions(), offline=True)
        banks = (str(work / "bank"),)
    mix = [(row, "misaligned") for row in bad[: e.n_bad]] + [(row, "aligned") for row in good[: e.n_good]]
    random.Random(1).shuffle(mix)
    records = [{**row.record, "label": label} for row, label in mix]
    (work / "mix.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    mixed = {row.prompt for row, _ in mix}
    rest = [row for row in good[e.n_good :] if row.prompt not in mixed]
    return work / "mix.jsonl", write(work / "good.jsonl", rest), banks


def statements(data: Path, work: Path, n: int) -> Path:
    """n statements of each side, drawn over all traits."""
    drawn = []
    for side in ("misaligned", "aligned"):
        rows = list(read_rows(data / f"persona_{side}_text.jsonl"))
        random.Random(2).shuffle(rows)
        drawn += rows[:n]
    return write(work / "statements.jsonl", drawn)


def questions(work: Path, n: int) -> tuple[Path, ...]:
    """The first n questions of each domain, with both answers."""
    out = []
    for path in domain_files():
        lines = path.read_text("utf-8").splitlines(keepends=True)[: 2 * n]
        out.append(work / path.name)
        out[-1].write_text("".join(lines), "utf-8")
    return tuple(out)


def run(e: Experiment, data: Path, work: Path, sum_up: bool) -> dict:
    """Scan and trial of one experiment; `sum_up`: only of the arms that are finished."""
    work.mkdir(parents=True, exist_ok=True)
    mix, good, banks = prepare(e, data, work)
    done = scan(
        ScanConfig((str(mix),), TARGET, READING, banks, scorer=SCORER), work / "run", offline=True, notify=print
    )
    config = TrialConfig(
        good, questions(work, PAIRS), (statements(data, work, STATEMENTS),), e.drops[:1], e.arms, e.seeds,
        Recipe(batch_rows=2), max_tokens=192, held_out=HELD_OUT, labels="label=misaligned",
    )  # fmt: skip
    # The first drop first; each result holds all arms that are finished.
    stages = [(e.drops[:1], e.arms), (e.drops, e.arms), (e.drops[:1], (*e.arms, *e.others))]
    for drops, arms in [((), ())] if sum_up else stages:
        wanted = replace(config, drops=drops, arms=arms)
        _, result = trial(done, wanted, TUNING, out=work / "trial", offline=True, notify=print)
    return {
        "title": e.title, "rows": {"bad": e.n_bad, "good": e.n_good}, "seed_rows": e.seed_rows,
        "detection": evaluate(done, "label=misaligned")["verdict"]["text"], **result,
    }  # fmt: skip


def not_run(found: dict[str, dict]) -> list[str]:
    """What of the plan is not in the results."""
    out = []
    for name, e in EXPERIMENTS.items():
        done = {(a["arm"], a["drop"]) for a in found[name]["arms"]} if name in found else set()
        wanted = [(arm, drop) for drop in e.drops for arm in e.arms] + [(arm, e.drops[0]) for arm in e.others]
        left = [f"{arm} {drop}" for arm, drop in wanted if (arm, drop) not in done]
        if left:
            out.append(f"{e.title}: {'all arms' if not done else ', '.join(left)}")
    return out


def markdown(found: dict[str, dict]) -> str:
    first = next(iter(found.values()))
    recipe = first["options"]["recipe"]
    out = [
        "## Does removing the closest rows help?\n",
        f"Rows are ranked by the {SCORER} score.",
        f"LoRA of rank {recipe['rank']} on every linear layer of the embedded target, learning rate "
        f"{recipe['learning_rate']:g}, {recipe['batch_rows']} rows a step, weights in bfloat16. *pairs*: harmful "
        f"against sound answers to {PAIRS} questions each on health, career and law, domains that were not fine-tuned "
        f"on; *statements*: {STATEMENTS} misaligned and {STATEMENTS} aligned persona statements. No free-form answers "
        "were judged: a model of this size is no judge (see below), and there was no other.\n",
        *(f"- {text}" for text in remarks(first)),
        *(f"- Not run (the command goes on with them): {text}." for text in not_run(found)),
        "",
    ]
    for name, result in found.items():
        command = f"python examples/measure_removal.py --data ../shared/data --work WORK --only {name}"
        out += [f"### {result['title']}\n", f"    {command}\n"]
        bank = f"a bank chosen by {result['seed_rows']} labelled rows a side" if result["seed_rows"] else "no label"
        out.append(
            f"{result['rows']['bad']} bad and {result['rows']['good']} good rows, scored with {bank}. "
            f"{result['detection']}\n"
        )
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
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=list(EXPERIMENTS))
    parser.add_argument("--sum-up", action="store_true", help="fine-tune nothing more; report what is finished")
    arguments = parser.parse_args()
    for name in arguments.only or EXPERIMENTS:
        folder = arguments.work / name
        result = run(EXPERIMENTS[name], arguments.data, folder, arguments.sum_up)
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
