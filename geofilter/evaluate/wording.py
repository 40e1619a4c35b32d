"""Controls that know the wording of rows and no features: the model's loss per token, and the words of a bank's texts.

Neither has seen the labels. What a ranking by one of them finds needs no SAE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from geofilter.arrays import F64, Positions
from geofilter.bank.about import BankAbout
from geofilter.bank.bank import Bank
from geofilter.bank.built_in import built_in_sources
from geofilter.bank.validate import bag_of_words
from geofilter.config import BUILT_IN
from geofilter.evaluate.ranked import Ranked
from geofilter.rows.shipped import contrast_answers
from geofilter.run.power import FOLLOWS, LOSSES, loss_known
from geofilter.run.store import Run
from geofilter.stats import spearman


def loss_lines(run: Run, position: Positions) -> list[Ranked]:
    """The loss per token of a run that has it, with the prompt and without, in both directions like length.

    Args:
        position: (m,) of the rows; a row without a loss stands in the middle.
    """
    if not run.manifest["encoding"].get("with_loss"):
        return []
    out = []
    loss = run.arrays(["loss"])["loss"][position].astype(np.float64)
    for name, column in zip(LOSSES, loss.T, strict=True):
        known = loss_known(column)
        value = np.where(known, column, np.median(column[known]) if known.any() else 0.0)
        first = name.replace("loss per token", "loss per token first")
        out += [Ranked(f"higher {first}", "control", value), Ranked(f"lower {first}", "control", -value)]
    return out


def bank_word_lines(banks: Sequence[tuple[Bank, BankAbout]], texts: Sequence[str]) -> list[Ranked]:
    """A bag of words fitted on each bank's own labelled texts, which is what the bank has learnt from.

    Args:
        banks: each with what the run says of it.
        texts: (m,) responses to rank.
    """
    out = []
    for bank, about in banks:
        name, own, bad = _texts(bank, about)
        if any(bad) and not all(bad):
            score: F64 = bag_of_words(own, np.array(bad))(texts)
            out.append(Ranked(f"bag of words, {bank.name}'s {name}", "control", score))
    return out


def _texts(bank: Bank, about: BankAbout) -> tuple[str, list[str], list[bool]]:
    """What a bank has learnt from: whole texts where they ship with the package, else the beginnings that it keeps."""
    if not about["path"] and bank.name in BUILT_IN and about["sources"] == built_in_sources(bank.name):
        whole = list(contrast_answers(bank.name))
        return "texts", [text for text, _ in whole], [bad for _, bad in whole]
    kept = [] if bank.rows is None else bank.rows.texts
    return "texts, beginnings", [row["text"].removesuffix("\u2026") for row in kept], [row["bad"] for row in kept]


def followed(own: Ranked, controls: Sequence[Ranked]) -> Iterator[str]:
    """What is to be said where a score ranks much as a control of wording does.

    Args:
        controls: of this module; of a loss both directions.
    """
    for control in controls:
        loss = control.name.startswith("higher ")
        if control.name.startswith("lower ") or abs(rho := spearman(own.score, control.score)) < FOLLOWS:
            continue
        what = control.name.removeprefix("higher ").replace(" first", "") if loss else f"a {control.name}"
        said = "how ordinary the wording is" if loss else "the words of the bank's own texts"
        yield f"The ranking follows {said}: rank correlation {rho:+.2f} with {what}."
