"""The named targets, and the layers and widths that each offers: targets.toml."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Sequence
from typing import Any

from geofilter.errors import TargetError


def known() -> dict[str, dict[str, Any]]:
    """The table of named targets, as in targets.toml."""
    return tomllib.loads(importlib.resources.files("geofilter.target").joinpath("targets.toml").read_text("utf-8"))


def span(text: str) -> list[int]:
    """Layers of a targets.toml entry: `0-25` or `5,12,19`."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(n) for n in text.split(",")]


def ranges(layers: Sequence[int]) -> str:
    """The other way round, for messages: `0 to 25` or `5, 12, 19`."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def pick(name: str, row: dict[str, Any], layer: int | None, width: str | None) -> tuple[int, str]:
    """Layer and width of a named target, within what is published.

    Raises:
        TargetError: a layer or width that is not offered; the message lists those that are.
    """
    offered = {w: span(layers) for w, layers in row["widths"].items()}
    if width is not None and width not in offered:
        raise TargetError(f"--width {width}: {name} offers {', '.join(offered)}")
    if layer is None:
        layer = row["layer"] if row["layer"] in offered[width or row["width"]] else offered[width or row["width"]][0]
    widths = [width] if width else [row["width"], *offered]
    for candidate in widths:
        if layer in offered[candidate]:
            return layer, candidate
    layers = offered[width] if width else sorted({n for each in offered.values() for n in each})
    raise TargetError(f"--layer {layer}: {name}{f' at width {width}' if width else ''} offers {ranges(layers)}")
