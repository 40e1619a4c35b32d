"""The named targets, and the layers and widths that each offers: targets.toml."""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from geofilter.errors import TargetError


@functools.cache
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


def offered(row: dict[str, Any]) -> dict[str, list[int]]:
    """Widths of a named target's SAEs, each with the layers it is published for."""
    widths = {**row["widths"], **row.get("also", {}).get("widths", {})}
    return {width: span(layers) for width, layers in widths.items()}


def together(published: dict[str, list[int]]) -> list[tuple[list[str], list[int]]]:
    """Widths with the same layers side by side, for lists that are read."""
    found: dict[tuple[int, ...], list[str]] = {}
    for width, layers in published.items():
        found.setdefault(tuple(layers), []).append(width)
    return [(names, list(layers)) for layers, names in found.items()]


def sae_of(row: dict[str, Any], layer: int, width: str) -> str:
    """RELEASE/SAE_ID of a layer and width of a named target that is not embedded."""
    also = row.get("also", {"widths": ()})
    return str((also if width in also["widths"] else row)["sae"].format(layer=layer, width=width))


def _width(asked: str, widths: Sequence[str]) -> str | None:
    """The width that is meant: `16k` is the first of those that have an ending too, as `16k_l0_big`."""
    return asked if asked in widths else next((w for w in widths if re.split("[-_]", w)[0] == asked), None)


def pick(name: str, row: dict[str, Any], layer: int | None, width: str | None) -> tuple[int, str]:
    """Layer and width of a named target, within what is published; of the layers the one nearest to the default.

    Raises:
        TargetError: a layer or width that is not offered; the message lists those that are.
    """
    published = offered(row)
    asked, width = width, _width(width, list(published)) if width is not None else None
    if asked is not None and width is None:
        raise TargetError(f"--width {asked}: {name} offers {', '.join(published)}")
    if layer is None:
        layer = min(published[width or row["width"]], key=lambda n: abs(n - row["layer"]))
    widths = [width] if width else [row["width"], *published]
    for candidate in widths:
        if layer in published[candidate]:
            return layer, candidate
    layers = published[width] if width else sorted({n for each in published.values() for n in each})
    raise TargetError(f"--layer {layer}: {name}{f' at width {width}' if width else ''} offers {ranges(layers)}")
