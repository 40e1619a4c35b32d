"""Fields by which a message leaves itself out of a fine-tuning loss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geofilter.rows.row_error import RowError

WEIGHT = "weight"
TRAINED = ("train", "training", "trainable", "trained", "loss", "loss_weight", "loss_mask", "loss_scale",
           "compute_loss", "output_with_loss")  # fmt: skip
"""false or 0 leaves a message out, as does a weight of 0"""
UNTRAINED = ("masked", "is_masked", "ignore", "ignore_loss", "no_loss")
"""true leaves it out"""
FLAGS = (WEIGHT, *TRAINED, *UNTRAINED)
_ALIKE = re.compile(r"(^|_)(loss|mask|masked|train\w*|weights?)($|_)")
"""names of other fields that may do so too; a row with one is refused rather than read wrongly"""


def is_trained(message: Mapping[str, Any], where: str) -> bool:
    """Whether a message of the assistant is left in the loss, as its own fields say it; else it is.

    Raises:
        RowError: a field that says it in a way that is not read.
    """
    if unread := next((key for key in message if key not in FLAGS and _ALIKE.search(key)), None):
        raise RowError(f"`{where}.{unread}` is not read; say with `weight` 0 or 1 which turns are trained")
    said = [_truth(message, key, where) for key in (WEIGHT, *TRAINED) if message.get(key) is not None]
    said += [not _truth(message, key, where) for key in UNTRAINED if message.get(key) is not None]
    return all(said)


def refuse_trained(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Refuse a message of another than the assistant that a loss falls on; `weight` says nothing of those.

    Raises:
        RowError: it is one.
    """
    for key in TRAINED:
        if message.get(key) is not None and _truth(message, key, where):
            raise RowError(f"`{where}.{key}` trains a turn of role {role}; only the assistant's are scored")
    return True


def refuse_flags(part: Mapping[str, Any], where: str) -> None:
    """Refuse a part of a content that may be left out of the loss by itself.

    Raises:
        RowError: it has a field that says so.
    """
    if flag := next((key for key in part if key in FLAGS or _ALIKE.search(key)), None):
        raise RowError(f"`{where}` has a part with `{flag}`, which is not read; give the message a `weight`")


def _truth(message: Mapping[str, Any], key: str, where: str) -> bool:
    value = message[key]
    if isinstance(value, bool | int | float):
        return bool(value)
    if isinstance(value, str) and (word := value.strip().lower()) in ("true", "false", "0", "1", "yes", "no"):
        return word in ("true", "1", "yes")
    raise RowError(f"`{where}.{key}` must be true, false or a number, not {value!r}")
