"""Building a bank: seed rows are encoded, the weights learnt and checked, labels and examples collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geofilter.arrays import F32, digests
from geofilter.bank.about import BankMeta, BankTarget, Source, TraitAbout
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.features import Pooled
from geofilter.bank.known import known_row
from geofilter.bank.learn import learn
from geofilter.bank.naming import first_known
from geofilter.bank.neighbours import keeping
from geofilter.bank.topics import MIN_ROWS, usable
from geofilter.build.excerpts import excerpts
from geofilter.build.seeds import Seed
from geofilter.build.words import WordCollector
from geofilter.config import BANK_SIZE, BUILT_IN
from geofilter.encode.reader import FeatureReader, refuse_infinite
from geofilter.encode.tokens import encode_row, encode_rows
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shipped import background_rows
from geofilter.target.sae_folder import unit_decoder
from geofilter.target.target import Target

MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How seed rows are read and learnt from."""

    size: int = BANK_SIZE
    """toxic features, and aligned ones, that the bank names"""
    system: str = "keep"
    """what to do with system turns, see `rendering.place`"""
    centred: bool = False
    """compare rows with those of the same group only, so that what the group is about drops out"""
    priors: Sequence[Bank] = ()
    """banks of the same target whose weights this one may build on"""
    examples: bool = True
    """the bank keeps beginnings of the rows, to show what a feature or a score stands for"""
    trait: TraitAbout | None = None
    """the sentence that the rows were made from"""


@dataclass(frozen=True, slots=True, eq=False)
class Ordinary:
    """The background as the target reads it."""

    pooled: Pooled
    rate: F32
    """(d_sae,) share of its response tokens on which each feature fires"""
    words: WordCollector | None = None
    """its words; None where a bank has been asked for the rest"""


def build(
    name: str,
    target: Target,
    seeds: Sequence[Seed],
    reader: FeatureReader,
    sources: dict[str, Source],
    options: BuildOptions,
    *,
    ordinary: Ordinary | None = None,
    notify: Notify = print,
) -> Bank:
    """Encode the seed rows and the background, learn the weights, check the bank on held-out folds.

    Args:
        sources: where the seed rows come from.
        ordinary: the background when it has been encoded already.

    Raises:
        InputError: a seed row cannot be encoded.
        BankError: the two sides do not differ.
    """
    if ordinary is None:
        notify(f"bank {name}: encoding the background ...")
        ordinary = read_ordinary(reader)
    words = WordCollector(reader.encoder.d_sae) if ordinary.words is None else ordinary.words.after()
    notify(f"bank {name}: encoding {len(seeds)} seed rows ...")
    pooled = encode(reader, [s.row for s in seeds], words, system=options.system)
    directions = unit_decoder(target.sae_dir)
    notify(f"bank {name}: checking it on held-out rows ...")
    bad, kinds = np.array([s.bad for s in seeds]), [s.kind for s in seeds]
    if left := usable(kinds, bad)[1]:
        notify(
            f"bank {name}: no scores for topics {', '.join(left)}; two topics or more are told apart, each with "
            f"{MIN_ROWS} bad and {MIN_ROWS} good rows at least"
        )
    examples = Examples(pooled, bad, [s.group for s in seeds], [s.row.response for s in seeds], kinds)
    about: BankTarget = {
        "name": target.name, "fingerprint": target.fingerprint, "hook": str(target.hook), "d_sae": len(directions),
    }  # fmt: skip
    if target.llama_scope_gate:
        about["llama_scope_gate"] = target.llama_scope_gate
    meta: BankMeta = {
        "description": _description(name, options.trait),
        "dtype": str(reader.dtype).removeprefix("torch."),
        "max_tokens": MAX_TOKENS,
        "system": options.system,
        "prompted": round(sum(bool(s.row.prompt) for s in seeds) / len(seeds), 4),
        "sources": sources,
    }
    if options.trait is not None:
        meta["trait"] = options.trait
    named = first_known(options.priors, words.named())
    how = LearnOptions(options.size, options.centred, options.priors, named.labels, ordinary.rate, named.content, meta)
    bank = learn(name, about, directions, examples, ordinary.pooled, how)
    if not options.examples:
        return bank
    shown = excerpts(
        reader, bank.toxic, seeds, lambda row: encode_row(row, reader.tokenizer, MAX_TOKENS, options.system), pooled,
        bank.background,
    )  # fmt: skip
    texts = [known_row(s.row.prompt, s.row.response, s.kind, s.bad) for s in seeds]
    content = digests(s.row.content_sha256 for s in seeds)
    prior = next(iter(options.priors), None)
    return keeping(replace(bank, meta={**bank.meta, "examples": shown}), pooled, texts, content, prior)


def _description(name: str, trait: TraitAbout | None) -> str:
    if trait is not None:
        return f'built from the sentence "{trait["sentence"]}"'
    return BUILT_IN.get(name, "built from labelled seed rows")


def read_ordinary(reader: FeatureReader) -> Ordinary:
    """Encode the background.

    Raises:
        TargetError: activations that are not finite.
    """
    words = WordCollector(reader.encoder.d_sae)
    pooled = encode(reader, background_rows(), words)
    return Ordinary(pooled, (words.fired() / pooled.n_tokens.sum()).astype(np.float32), words)


def encode(
    reader: FeatureReader, rows: Sequence[Row], words: WordCollector | None = None, *, system: str = "keep"
) -> Pooled:
    """Pool rows through the target.

    Raises:
        InputError: a row has nothing left to score, or a token that the model does not know.
        TargetError: activations that are not finite.
    """
    encoded = []
    for row in rows:
        (found,) = reader.readable(encode_rows([row], reader.tokenizer, MAX_TOKENS, system))
        if isinstance(found, RowError):
            raise InputError(f"{row.file}, line {row.line}: {found}")
        encoded.append(found)
    if words is not None:
        words.start(rows, encoded)
    features = reader.read(encoded, observe=words.observe if words is not None else None)
    refuse_infinite(features, ((row.file, row.line) for row in rows))
    return Pooled.of(features, reader.encoder.d_in)
