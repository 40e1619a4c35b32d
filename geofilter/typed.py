"""Is a value of a JSON file what a TypedDict says of it? Files of our own may have been made by another hand."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict


def check_typed(value: object, kind: Any, name: str = "it") -> None:
    """Refuse a value that is not of a type; keys that a TypedDict does not know are let pass.

    Args:
        kind: a TypedDict, or what one may say of a key: list[X], dict[str, X], X | None, str, int, float, bool, Any.
        name: of the value, in errors.

    Raises:
        ValueError: which part of the value is not what it should be.
    """
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        _check_fields(value, kind, name)
    elif origin in (Union, UnionType):
        if value is not None or type(None) not in of:
            check_typed(value, next(a for a in of if a is not type(None)), name)
    elif origin is list and isinstance(value, list):
        for i, item in enumerate(value):
            check_typed(item, of[0], f"{name}[{i}]")
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            check_typed(item, of[1], f"{name}.{key}")
    elif origin is not None or not _is(value, kind):
        raise ValueError(f"{name} is no {(origin or kind).__name__}")


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _check_fields(value: object, kind: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    prefix = "" if name == "it" else f"{name}."
    for key, (hint, required) in _fields(kind).items():
        if key in value:
            check_typed(value[key], hint, prefix + key)
        elif required:
            raise ValueError(f"{prefix}{key} is missing")


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Of each key its type, and whether it must be there."""
    found = {}
    for key, hint in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        found[key] = (get_args(hint)[0] if optional else hint, kind.__total__ and not optional)
    return found
