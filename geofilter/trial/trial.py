"""Does removing the closest rows help? Fine-tune the target with and without them, and measure misalignment.

Every arm starts from the same model and is given the same number of steps and response tokens (`tune`), so that less
data is never less training. Arms: `full` (all rows), `good` (aligned rows only: what fine-tuning does anyway), and for
each drop the removals of `arms`. Each arm's file is written when it is done, and never computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from geofilter.config import Loading
from geofilter.encode.model import pad_id, resolved_dtype
from geofilter.encode.reader import FeatureReader
from geofilter.encode.whole import log_probabilities, whole
from geofilter.errors import RunError
from geofilter.files import Notify, file_sha256, from_json, locked, make_folder, write_json
from geofilter.rows.shipped import domain_files
from geofilter.run.names import SCORES
from geofilter.run.store import Run
from geofilter.trial.arms import Arm, planned
from geofilter.trial.config import KINDS, TrialConfig
from geofilter.trial.freeform import FreeForm
from geofilter.trial.material import Material, gather
from geofilter.trial.measures import feature_change, statement_margins
from geofilter.trial.result import FORMAT, ArmRecord, TrialAbout, TrialResult
from geofilter.trial.summary import summarise
from geofilter.trial.tables import write
from geofilter.trial.tune import tune
from geofilter.version import __version__


def trial(
    run: Run,
    config: TrialConfig,
    loading: Loading,
    *,
    out: Path | None = None,
    free: FreeForm | None = None,
    offline: bool = False,
    notify: Notify = print,
) -> tuple[Path, TrialResult]:
    """Run what is not done yet of a trial, and write trial.json, trial.md and trial.svg into its folder.

    Args:
        out: folder of the trial; by default `trial-<fingerprint>` in the run.
        free: also sample answers to open questions and have them judged.

    Returns:
        the folder, and the result, see `summary.summarise`.

    Raises:
        InputError, TargetError, RunError: see `errors`.
    """
    config = replace(config, pairs=config.pairs or tuple(domain_files()))
    arms = planned(config.arms, config.drops, config.seeds, config.others())
    identity = _identity(run, config, loading, free)
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = out or run.path / f"trial-{fingerprint[:8]}"
    make_folder(folder)
    with locked(folder / "lock", f"{folder}: another trial is writing here; wait for it or give another --out"):
        _claim(folder, identity)
        material = gather(run, config, loading, free, offline, notify)
        _arm(folder, None, material, config, notify)
        began, worked = time.monotonic(), 0
        for i, arm in enumerate(arms, start=1):
            worked += _arm(folder, arm, material, config, notify)
            if worked:
                left = (time.monotonic() - began) / worked * (len(arms) - i)
                notify(f"{i} of {len(arms)} arms; about {left / 60:.0f} min left")
        about = _about(run, config, loading, free)
        result = summarise(about, material.budget, _finished(folder, config.seeds), material.statements)
        write_json(folder / "trial.json", result)
        write(result, folder)
    return folder, result


def _about(run: Run, config: TrialConfig, loading: Loading, free: FreeForm | None) -> TrialAbout:
    """What was compared on what, for the result."""
    manifest = run.manifest
    return {
        "format": FORMAT,
        "geofilter": __version__,
        "run": str(run.path),
        "target": manifest["target"]["name"],
        "data": manifest["data"],
        "scorer": manifest["scorer"],
        "banks": [b["name"] for b in manifest["banks"]],
        "options": json.loads(json.dumps(asdict(config), default=str)),
        "dtype": resolved_dtype(loading),
        "free_form": free.about() if free else None,
    }


def _identity(run: Run, config: TrialConfig, loading: Loading, free: FreeForm | None) -> dict[str, Any]:
    """All that the numbers of an arm depend on, by content: the same trial from another folder is the same trial.

    More seeds, drops or arms make a trial longer, not another one.
    """
    manifest = run.manifest
    files = {"good": (config.good,), "pairs": config.pairs, "statements": config.statements}
    files |= {"own_pairs": config.own_pairs} if config.own_pairs else {}
    if config.judge_scores is not None:
        files["judge_scores"] = (config.judge_scores,)
    names = ("recipe", "max_tokens", "items", "held_out", "labels")
    asked = free.about() if free else {}
    asked.pop("questions", None)  # its content has a hash
    return {
        "format": FORMAT,
        "target": manifest["target"]["fingerprint"],
        "data": [f["sha256"] for f in manifest["data"]],
        "reading": {key: manifest["encoding"].get(key) for key in ("train", "score_thinking", "fields", "only")},
        "scores": file_sha256(run.path / SCORES),
        "dtype": resolved_dtype(loading),
        **{name: asdict(config)[name] for name in names},
        **{role: [file_sha256(f) if f.is_file() else str(f) for f in paths] for role, paths in files.items()},
        "free_form": asked,
    }


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / "config.json"
    if path.is_file():
        try:
            found = dict(from_json(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); give another --out") from None
        differs = [key for key in identity if found.get(key) != identity[key]]
        if differs:
            raise RunError(f"{folder}: holds a trial with other {', '.join(differs)}; give another --out")
    else:
        write_json(path, identity)


def _path(folder: Path, arm: Arm | None) -> Path:
    return folder / "arms" / f"{arm.name if arm else 'base'}.json"


def _source(arm: Arm | None, config: TrialConfig) -> str | None:
    """Hash of the file that this arm alone depends on."""
    if arm is None:
        return None
    path = config.swap if arm.kind == "swap" else config.others().get(arm.kind)
    return file_sha256(path) if path is not None else None


def _finished(folder: Path, seeds: int) -> list[ArmRecord]:
    """The records of the unchanged model and of every arm that is there with all seeds, those of earlier calls too."""
    found: list[ArmRecord] = []
    for path in (folder / "arms").glob("*.json"):
        try:
            found.append(from_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged ({error}); delete it and run the trial again") from None
    by_arm: dict[tuple[str, str], list[ArmRecord]] = {}
    for record in sorted(found, key=lambda r: (_order(r), r["seed"] or 0)):
        if (record["seed"] or 0) < seeds:
            by_arm.setdefault((record["arm"], record["drop"]), []).append(record)
    return [r for (arm, _), records in by_arm.items() if arm == "base" or len(records) == seeds for r in records]


def _order(record: ArmRecord) -> tuple[float, int, str]:
    """full and good first, then drop by drop, the largest first, the arms in the order of their list."""
    kinds = ("base", *KINDS)
    drop, kind = record["drop"].rstrip("%"), record["arm"]
    return -float(drop) if drop else -math.inf, kinds.index(kind) if kind in kinds else len(kinds), kind


def _arm(folder: Path, arm: Arm | None, material: Material, config: TrialConfig, notify: Notify) -> bool:
    """Fine-tune and measure one arm, or only measure the model as it is (None); False when that was done before."""
    path = _path(folder, arm)
    source = _source(arm, config)
    if path.is_file():
        if source is not None and from_json(path.read_bytes()).get("source") != source:
            raise RunError(f"{path}: was made with another --other or --swap file; delete it, or give another --out")
        return False
    path.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    record: dict[str, Any] = {"arm": "base", "drop": "", "seed": None}
    if arm is None:
        model, tokenizer = whole(material.folder, material.loading, material.target.adapter_dir)
    else:
        record = {"arm": arm.kind, "drop": arm.drop, "seed": arm.seed} | ({"source": source} if source else {})
        rows, budget = material.good, material.budget
        if arm.kind == "early":
            budget = budget.part(1 - material.removals.left_out(arm))
        if arm.kind != "good":
            rows, counts = material.left(arm)
            record |= counts
        notify(f"{arm.name}: fine-tuning on {len(rows)} rows ...")
        model, tokenizer, training = tune(
            material.folder, rows, config.recipe, budget, material.loading, arm.seed, material.target.adapter_dir,
        )  # fmt: skip
        record["training"] = training
    tuned = time.monotonic()
    record |= _measure(model, tokenizer, material)
    record["seconds"] = {"tune": round(tuned - began, 1), "measure": round(time.monotonic() - tuned, 1)}
    write_json(path, record)
    return True


def _measure(model: Any, tokenizer: Any, material: Material) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if material.statements is not None:
        texts = [row.response for row in material.statements.rows]
        out["statements"] = _rounded(statement_margins(model, tokenizer, texts))
    for name, answers, pairs in (
        ("pairs", material.answers, material.pairs), ("own_pairs", material.own, material.own_pairs)
    ):  # fmt: skip
        if pairs:
            each = log_probabilities(model, answers, pad_id(tokenizer, model))
            out[name] = _rounded([each[harmful] - each[sound] for harmful, sound in pairs])
    out["loss"] = _rounded(-log_probabilities(model, material.held, pad_id(tokenizer, model)))
    reader = FeatureReader(material.target, material.loading, model.get_decoder())
    out["features"] = feature_change(reader, material.held, material.banks)
    if material.free is not None:
        out["answers"] = material.free.ask(model, tokenizer)
    return out


def _rounded(values: Sequence[float] | Any) -> list[float]:
    return [round(float(v), 5) for v in values]
