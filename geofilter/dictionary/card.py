"""The card of an SAE: what it was trained on, and what it is worth; as JSON and in plain words. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.files import from_json, own_bytes
from geofilter.text import counted

CARD = "card.json"
FORMAT = 1
FEW_SEEN, FEW_DISTINCT = 400_000, 100_000
"""tokens below which more helped much, trained on and distinct; measured at width 4,096, see docs/sae.md"""
FEW_ROWS = 3
"""reasons of unusable rows that are told"""

Card = dict[str, Any]


def read_card(folder: Path) -> Card | None:
    """The card of an SAE's folder; None where it has none.

    Raises:
        InputError: it is damaged.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        found = from_json(own_bytes(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it, and measure the SAE with sae check") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; delete it, and measure the SAE with sae check")
    return found


def too_few(seen: int, distinct: int) -> str | None:
    """What is to be said where the tokens are few that are trained on, or the distinct ones among them."""
    measured = "of held-out rows (smollm2-135m, width 4,096; docs/sae.md)"
    if seen < FEW_SEEN:
        return (
            f"{seen:,} tokens are few to train on: up to {FEW_SEEN:,} each doubling explained at least 0.05 more of "
            f"the variance {measured}; give more --tokens{' and --data' if distinct < FEW_DISTINCT else ''}"
        )
    if distinct < FEW_DISTINCT:
        return (
            f"{distinct:,} distinct tokens are few: 25,000 seen sixteen times explained 0.05 less of the variance than "
            f"400,000 seen once, 100,000 seen four times 0.005 less, {measured}; give more --data"
        )
    return None


def unusable_said(unusable: dict[str, int], first: dict[str, str]) -> Iterator[str]:
    """A line on each of the most frequent reasons for which rows are not used."""
    ranked = sorted(unusable.items(), key=lambda item: -item[1])
    for reason, n in ranked[:FEW_ROWS]:
        yield f"note: {counted(n, 'row')} cannot be used, {first[reason]} first: {reason}"
    if rest := sum(n for _, n in ranked[FEW_ROWS:]):
        yield f"note: {counted(rest, 'row')} cannot be used for {len(ranked) - FEW_ROWS} other reasons"


def in_words(card: Card) -> Iterator[str]:
    """The card as lines of text; of a card from elsewhere as much as it has."""
    hook, model = card.get("hook"), card.get("model")
    k = f", k = {card['k']}" if card.get("k") else ""
    yield f"SAE of {model}, {hook}: {card['architecture']}, {card['d_sae']:,} features{k}"
    if "tokens_seen" in card:
        distinct = card["distinct_tokens"]
        rows = f", of {card['rows']:,} rows" if "rows" in card else ""
        yield (
            f"  trained on   {card['tokens_seen']:,} tokens, {distinct:,} distinct ones "
            f"({card['tokens_seen'] / max(1, distinct):.1f} passes){rows}"
        )
    if found := card.get("held_out"):
        yield (
            f"  held out     explained variance {found['explained_variance']:.3f}, L0 {found['l0']:.1f} "
            f"({found['tokens']:,} tokens)"
        )
    if "dead_features" in card:
        yield f"  dead         {counted(card['dead_features'], 'feature')} ({card['dead_share']:.1%})"
    if "not_active" in card:
        yield f"  not active   {counted(card['not_active'], 'feature')} on this text"
    loss = card.get("loss", {})
    if "recovered" in loss:
        yield (
            f"  loss         {loss['recovered']:.1%} recovered: {loss['clean']:.3f} clean, {loss['spliced']:.3f} with "
            f"the reconstruction, {loss['zero']:.3f} with zeros ({loss['tokens']:,} tokens)"
        )
    elif loss:
        yield f"  loss         not measured: {loss['not_measured']}"
    if near := card.get("pair"):
        ev = ", ".join(f"layer {n}: {value:.3f}" for n, value in near["explained_variance"].items())
        yield f"  pair         {'ok' if near['ok'] else 'FAIL'}: explained variance on ordinary chat {ev}"


def differences(card: Card, measured: Card) -> Iterator[str]:
    """What a new measurement finds otherwise than a card says, as lines of text."""
    for name, what in (("weights_sha256", "the weights"), ("model_fingerprint", "the model")):
        if name in card and name in measured and card[name] != measured[name]:
            yield f"{what}: not the same as the card is of (another hash)"
    old, new = card.get("held_out"), measured["held_out"]
    if isinstance(old, dict):
        for name, what, digits, least in (("explained_variance", "explained variance", 3, 0.01), ("l0", "L0", 1, 0.5)):
            a, b = float(old[name]), float(new[name])
            if abs(a - b) > least:
                yield f"{what}: {b:.{digits}f} on this text, {a:.{digits}f} on the card's held-out rows"
    was, now = card.get("loss", {}).get("recovered"), measured.get("loss", {}).get("recovered")
    if was is not None and now is not None and abs(was - now) > 0.01:
        yield f"loss recovered: {now:.1%} on this text, {was:.1%} by the card"
    if card.get("pair") and card["pair"]["ok"] != measured["pair"]["ok"]:
        yield f"the pair: {'ok' if measured['pair']['ok'] else 'fails'}, and not so by the card"
