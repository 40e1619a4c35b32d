"""Names of features: what a person would call what each of them fires on, and how far the name can be trusted.

Names belong to the features of one target, whatever the bank. Those of the embedded target ship with the package;
`bank name` puts others into a bank.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, cast

from geofilter.files import from_json, package_data, slug
from geofilter.text import one_line
from geofilter.typed import check_typed

RIGHT = 0.7
"""balanced accuracy from which on a name is used"""


class FeatureName(TypedDict):
    """What one feature is called."""

    feature: int
    name: str
    right: NotRequired[float | None]
    """balanced accuracy with which it is told by the name alone in which pieces of text the feature fires; None, or not
    there, where that has not been tried"""
    pieces: NotRequired[int]
    """pieces that it was tried on, half of them with the feature"""


class Names(TypedDict):
    """Names of a target's features."""

    by: str
    """who has named them, and how"""
    link: NotRequired[str]
    """where they come from"""
    features: list[FeatureName]


def usable(names: Names) -> dict[int, FeatureName]:
    """The names by feature, each on one line, without those that were tried and found wanting."""
    return {
        n["feature"]: {**n, "name": one_line(n["name"])}
        for n in names["features"]
        if (right := n.get("right")) is None or right >= RIGHT
    }


def shipped_names(target: str, fingerprint: str) -> Names | None:
    """The names that ship with the package for a target; None where none do.

    Args:
        target: its name.
        fingerprint: see `Target.fingerprint`.
    """
    # A bank's file may have been made by another hand.
    path = package_data("names", f"{slug(target)}.json")
    if not path.is_file():
        return None
    text: dict[str, Any] = from_json(path.read_bytes())
    return checked_names(text) if text.get("fingerprint") == fingerprint else None


def checked_names(text: Any) -> Names:
    """What a file says, once it is known to be names.

    Raises:
        ValueError: it is something else.
    """
    check_typed(text, Names, "names")
    return cast("Names", text)
