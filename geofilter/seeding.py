"""Making banks: from labelled seed rows, and the two that are built in.

A built-in bank is the same thing as a seed bank: its seed rows are the contrast texts in the package. For
the embedded target the finished banks ship too, so that the first scan starts at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geofilter import model
from geofilter.background import background_rows, contrast_row
from geofilter.bank import Bank, built_in_folder
from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.decoder import unit_decoder
from geofilter.doctor import checked_reader
from geofilter.errors import BankError, InputError
from geofilter.exhibits import exhibits
from geofilter.features import FeatureReader
from geofilter.fields import NO_FIELDS, Fields
from geofilter.files import Notify, file_sha256, made_once, package_data
from geofilter.fitting import SIZE
from geofilter.learn import learn
from geofilter.pooled import Pooled
from geofilter.records import Row, RowError, Turn, check_fields, usable_rows
from geofilter.targets import Target, resolve
from geofilter.tokens import encode_row
from geofilter.topics import MIN_ROWS, usable

MAX_TOKENS = 512
LABEL_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Seed:
    """One labelled row of a bank's source."""

    row: Row
    bad: bool
    group: str
    """rows with the same prompt or pair share one, rows of a built-in bank those of the same topic; they are never
    split between fitting and checking"""
    kind: str = ""
    """the topic that scores are given for, where its source says so"""


def built_in_seeds(name: str) -> list[Seed]:
    """The contrast pairs of a built-in bank, as rows."""
    path = package_data("contrast", f"{name}.jsonl")
    table = tomllib.loads(package_data("contrast", "topics.toml").read_text("utf-8"))[name]
    kind_of = {topic: kind for kind, topics in table.items() for topic in topics}
    seeds = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        pair = json.loads(line)
        for side in ("bad", "good"):
            turns: tuple[Turn, ...] = (Turn("text", pair[side]),)
            if "prompt" in pair:
                turns = (Turn("user", pair["prompt"]), Turn("assistant", pair[side]))
            seeds.append(Seed(contrast_row(path, number, turns), side == "bad", pair["topic"], kind_of[pair["topic"]]))
    return seeds


def file_seeds(bad: Path, good: Path, limit: int | None = None, fields: Fields = NO_FIELDS) -> list[Seed]:
    """Labelled rows of two files, at most `limit` usable ones of each.

    Raises:
        InputError: a file cannot be read, holds a row that cannot be used, or has too few rows.
    """
    check_fields((bad, good), fields)
    seeds = []
    for path, is_bad in ((bad, True), (good, False)):
        n = 0
        for row in usable_rows(path, fields):
            # The pair's name, the prompt, or the row itself decides what must stay together.
            group = str(row.record.get("pair") or row.prompt or row.sha256)
            topic = row.record.get("topic")
            seeds.append(Seed(row, is_bad, group, "" if topic is None else str(topic)))
            n += 1
            if n == limit:
                break
        if n < MIN_ROWS:
            raise InputError(f"{path}: {n} rows; a bank needs at least {MIN_ROWS} on each side")
    return seeds


def build(
    name: str,
    target: Target,
    seeds: Sequence[Seed],
    reader: FeatureReader,
    size: int = SIZE,
    sources: dict[str, Any] | None = None,
    notify: Notify = print,
    reference: Pooled | None = None,
    system: str = "keep",
    centred: bool = False,
    priors: Sequence[Bank] = (),
) -> Bank:
    """Encode the seed rows and the background, learn the weights, check the bank on held-out folds.

    Args:
        reference: pooled background rows when they have been encoded already.
        system: what to do with system turns, see `tokens.render`.
        centred: compare rows with those of the same group only, so that what the group is about drops out.
        priors: banks of the same target whose weights this one may build on.

    Raises:
        InputError: a seed row cannot be encoded.
        BankError: the two sides do not differ.
    """
    labels = LabelCollector(reader.encoder.d_sae)
    notify(f"bank {name}: encoding {len(seeds)} seed rows ...")
    pooled = encode(reader, [s.row for s in seeds], labels, system)
    if reference is None:
        notify(f"bank {name}: encoding the background ...")
        reference = encode(reader, background_rows(), labels)
    directions = unit_decoder(target.sae_dir)
    notify(f"bank {name}: checking it on held-out rows ...")
    meta = {
        "description": BUILT_IN.get(name, "built from labelled seed rows"),
        "dtype": str(reader.dtype).removeprefix("torch."),
        "max_tokens": MAX_TOKENS,
        "system": system,
        "sources": sources or {},
    }
    bad, kinds = np.array([s.bad for s in seeds]), [s.kind for s in seeds]
    if left := usable(kinds, bad)[1]:
        notify(
            f"bank {name}: no scores for topics {', '.join(left)}; two topics or more are told apart, each with "
            f"{MIN_ROWS} bad and {MIN_ROWS} good rows at least"
        )
    about = {"name": target.name, "fingerprint": target.fingerprint, "hook": str(target.hook), "d_sae": len(directions)}
    bank = learn(
        name, about, directions, pooled, bad, [s.group for s in seeds], [s.row.response for s in seeds], reference,
        size=size, labels=labels.words(reader), centred=centred, priors=priors, kinds=kinds, meta=meta,
    )  # fmt: skip
    shown = exhibits(
        reader, bank.toxic, lambda i: encode_row(seeds[i].row, reader.tokenizer, MAX_TOKENS, system), pooled,
        bank.background,
    )  # fmt: skip
    examples = [
        [
            {"text": e["text"], "strong": e["strong"], "bad": seeds[e["row"]].bad, "topic": seeds[e["row"]].kind}
            for e in of_feature
        ]
        for of_feature in shown
    ]
    return replace(bank, meta=bank.meta | {"examples": examples})


def encode(
    reader: FeatureReader, rows: Sequence[Row], labels: LabelCollector | None = None, system: str = "keep"
) -> Pooled:
    """Pool rows through the target.

    Raises:
        InputError: a row has nothing left to score.
    """
    encoded = []
    for row in rows:
        try:
            encoded.append(encode_row(row, reader.tokenizer, MAX_TOKENS, system))
        except RowError as error:
            raise InputError(f"{row.file}, line {row.line}: {error}") from None
    return Pooled.of(reader.read(encoded, observe=labels.observe if labels else None), reader.encoder.d_in)


class LabelCollector:
    """Remembers, for every feature, the tokens it was most active on."""

    def __init__(self, d_sae: int) -> None:
        self._best: list[dict[int, float]] = [{} for _ in range(d_sae)]

    def observe(self, tokens: np.ndarray, features: np.ndarray, values: np.ndarray) -> None:
        """Take in activations: token ids, features and values, one entry each."""
        # Strongest first, so that each (feature, token) needs to be seen once.
        order = np.lexsort((-values, tokens, features))
        f, t, v = features[order], tokens[order], values[order]
        first = np.ones(len(f), bool)
        first[1:] = (f[1:] != f[:-1]) | (t[1:] != t[:-1])
        for feature, token, value in zip(f[first].tolist(), t[first].tolist(), v[first].tolist(), strict=True):
            best = self._best[feature]
            if value > best.get(token, 0.0):
                best[token] = value

    def words(self, reader: FeatureReader) -> list[str]:
        """Per feature its strongest tokens, joined; empty for one that never fired."""
        out = []
        for best in self._best:
            strongest = sorted(best, key=lambda token: (-best[token], token))
            names: list[str] = []
            for token in strongest:
                word = json.dumps(str(reader.tokenizer.decode([token])).strip(), ensure_ascii=False)[1:-1]
                if word and word not in names:
                    names.append(word)
                if len(names) == LABEL_TOKENS:
                    break
            out.append(" · ".join(names))
        return out


def find(
    names: Sequence[str], target: Target, precision: str, make_reader: Callable[[], FeatureReader], notify: Notify
) -> list[Bank]:
    """The banks to score with: built-in names or folders; the two built-in ones when none is named.

    A built-in bank comes from the package when it ships for this target, else from the cache, else it is
    built now and cached, one for each way of reading the target.

    Args:
        precision: see `model.precision`.

    Raises:
        BankError: not found, or made for another target.
    """
    banks = []
    reference: Pooled | None = None
    for name in names or BUILT_IN:
        if name not in BUILT_IN:
            path = Path(name)
            if not path.exists():
                raise BankError(f"--bank {name}: neither a built-in bank ({', '.join(BUILT_IN)}) nor a folder")
            banks.append(Bank.load(path, target.fingerprint))
            continue

        def make(folder: Path, name: str = name, reference: Pooled | None = reference) -> None:
            notify(f"building the bank {name} for {target.name}, once ...")
            build(name, target, built_in_seeds(name), make_reader(), sources=built_in_sources(name),
                  notify=notify, reference=reference, centred=True).save(folder)  # fmt: skip

        path = made_once(cached(name, target, precision), lambda folder: (folder / "bank.json").is_file(), make, notify)
        banks.append(Bank.load(path, target.fingerprint))
        reference = banks[-1].reference
    if len({b.name for b in banks}) < len(banks):
        raise BankError("two banks have the same name; rename one of their folders' bank.json")
    return banks


def built_in_sources(name: str) -> dict[str, Any]:
    """Provenance of a built-in bank."""
    files = {"contrast": f"{name}.jsonl", "topics": "topics.toml", "background": "background.jsonl"}
    return {k: {"file": v, "sha256": file_sha256(package_data("contrast", v))} for k, v in files.items()}


def cached(name: str, target: Target, precision: str) -> Path:
    """Folder of a built-in bank for a target, see `bank.built_in_folder`."""
    return built_in_folder(name, target.name, target.fingerprint, precision, built_in_sources(name))


def build_from_files(
    bad: Path,
    good: Path,
    out: Path,
    choice: TargetChoice,
    loading: Loading,
    size: int = SIZE,
    limit: int | None = None,
    system: str = "keep",
    offline: bool = False,
    notify: Notify = print,
    prior: bool = True,
    fields: Fields = NO_FIELDS,
) -> Bank:
    """Build a bank from two files of labelled rows and save it at `out`.

    Args:
        prior: build on the weights of the built-in banks, which are made for the target if they are not there yet.
        fields: columns of the rows.

    Raises:
        InputError, TargetError, BankError: see `file_seeds`, `targets.resolve` and `build`.
    """
    seeds = file_seeds(bad, good, limit, fields)
    target = resolve(choice, offline=offline, notify=notify)
    sources = {
        side: {
            "file": path.name,
            "sha256": file_sha256(path),
            "rows": sum(s.bad is is_bad for s in seeds),
            **({"fields": dict(fields)} if fields else {}),
        }
        for side, path, is_bad in (("bad", bad, True), ("good", good, False))
    }
    reader = checked_reader(target, loading, notify)
    priors = find((), target, model.precision(loading), lambda: reader, notify) if prior else []
    reference = priors[0].reference if priors else None
    bank = build(
        out.resolve().name, target, seeds, reader, size, sources, notify, reference, system=system, priors=priors
    )
    bank.save(out)
    return bank


def open_bank(
    name: str, choice: TargetChoice, loading: Loading, offline: bool, notify: Notify, required: bool = False
) -> Bank:
    """A bank by folder or built-in name.

    Args:
        required: check that it is for the chosen target; a built-in one always needs a target.

    Raises:
        BankError, TargetError: not found, or made for another target.
    """
    if name not in BUILT_IN and not required:
        return Bank.load(Path(name))
    target = resolve(choice, offline=offline, notify=notify)
    return find(
        [name],
        target,
        model.precision(loading),
        lambda: checked_reader(target, loading, notify),
        notify,
    )[0]
