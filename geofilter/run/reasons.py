"""A row's reason in a sentence, and how what it is made of is said."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from geofilter.run.manifest import BankScore, NamedFeature, ScoreLine

SAID = 3
"""features that a sentence names; of more it says how many"""
NO_WORDS = "no words of its own"
TONE = "tone and punctuation"


def reason(row: ScoreLine) -> str:
    """Why a row scores as it does under its bank, in one sentence; what `RowScore.explained` is of, is what it says it
    is from.
    """
    under: BankScore = row["banks"].get(row["bank"], row)  # verify reads lines that say nothing of their bank
    score, percentile = under["score"], under["percentile"]
    above = "above all" if percentile >= 1 else f"above {percentile:.1%} of"
    text = f"scores {above} ordinary rows under {row['bank']}"
    if row["topic"]:
        text += f"; if harmful, most like its topic {row['topic']}"
    named, last = row["top_features"], _rejected(row)
    if not named:
        return text + last
    parts = [feature_said(feature, first=not i) for i, feature in enumerate(named[:SAID])]
    if (more := len(named) - SAID) > 0:
        parts.append(f"{more} more features" if more > 1 else "one more feature")
    if row["common"] > 0:
        part = min(1.0, row["common"] / score) if score > 0 else 1.0
        # What most of it is from comes first.
        parts.insert(0 if part > row["explained"] / 2 else len(parts), f"{TONE} ({part:.0%})")
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{text}; {row['explained']:.0%} of it from {listed}{last}"


def _rejected(row: ScoreLine) -> str:
    """What the rejected answer of a preference scores; nothing of another row."""
    rejected = row.get("rejected_score")
    return "" if rejected is None else f"; the chosen answer scores {row['score']:.2f}, the rejected one {rejected:.2f}"


def feature_said(named: NamedFeature, *, first: bool = True) -> str:
    """A feature, by its words and how strong it is.

    Args:
        first: say what its strength is measured by.
    """
    times = _times(named["times"], first)
    if named["label"]:
        return f"{named['label']} (feature {named['feature']}, {times})"
    return f"feature {named['feature']} ({NO_WORDS}, {times})"


@lru_cache(4096)
def _times(times: float | None, first: bool) -> str:
    """The same few numbers come again and again, since they have three digits."""
    said = times_said(times)
    return said if first else said.removesuffix(" as strong as in ordinary chat")


def standing(named: Mapping[str, Any]) -> str:
    """Whether a feature is one of the bank's toxic ones, and which of them it is near to; empty if neither."""
    near = named["near"]
    parts = ["yes"] if named["toxic"] else []
    if near:
        parts.append(f"near {near['feature']} ({near['label'] or NO_WORDS}), cosine {near['cosine']:.2f}")
    return ", ".join(parts)


def times_said(times: float | None) -> str:
    """How strong a feature is beside ordinary chat."""
    if times is None:
        return "never in ordinary chat"
    if times < 1:
        return "weaker than in ordinary chat"
    return f"{times_short(times)} times as strong as in ordinary chat"


def times_short(times: float | None) -> str:
    """The number alone; a dash where ordinary chat never has the feature."""
    if times is None:
        return "-"
    return f"{times:,.0f}" if times >= 10 else f"{times:.1f}".removesuffix(".0")
