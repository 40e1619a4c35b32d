"""Options that may stand in the settings file: which commands read which, and what wins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from geofilter.cli.options import OWN_TABLE, PER_CALL, typer_option
from geofilter.cli.output import note
from geofilter.cli.settings_file import SHOWN, Taken, read, refuse_outside
from geofilter.config import MEMORY, ROWS, RUN, SCORE, TARGET, Option
from geofilter.errors import InputError
from geofilter.text import did_you_mean, shorten

_TYPES: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
SETTINGS: dict[str, dict[str, Any]] = {}
"""type of each option that may stand in the settings file, by command as its table is called"""
OWN: set[tuple[str, str]] = set()
"""command and option, where the option may stand in the command's table only"""
_PLACES = {"model", "sae", "adapter", "bank", "labels", "other"}
"""options that may name a file or folder though they are no paths; those that are paths are told by their type"""
_TAKEN = "geofilter.taken"
"""under which a command's context keeps what was taken from the settings file"""
_RIVALS = ({"drop", "keep", "threshold"}, {"device", "device_map"}, {"trait", "bad"}, {"trait", "good"})
"""options of which a command takes one"""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a configuration that is an option."""

    name: str
    """of the option"""
    kind: Any
    """type of what is typed"""
    default: Any
    """`Parameter.empty` where it has to be given"""
    option: Option


@cache
def _fields(group: type) -> tuple[_Field, ...]:
    """The options of a configuration and of those within it, group by group as help shows them."""
    hints, found = get_type_hints(group), list[_Field]()
    for f in fields(group):
        if is_dataclass(hints[f.name]):
            found += _fields(hints[f.name])
        elif isinstance(said := f.metadata.get("option"), Option):
            kind, default = hints[f.name], _default(f)
            if get_origin(kind) is tuple:
                kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
            elif said.parse is not None:
                kind, default = str | None, None
            found.append(_Field(said.name or f.name, kind, default, said))
    order = (TARGET, ROWS, SCORE, RUN, MEMORY)
    return tuple(sorted(found, key=lambda f: order.index(f.option.panel) if f.option.panel in order else -1))


def _default(f: Field[Any]) -> Any:
    """What a field is left out as; `Parameter.empty` where it has to be given."""
    if f.default_factory is not MISSING:
        return f.default_factory()
    return inspect.Parameter.empty if f.default is MISSING else f.default


def _assembled(group: type, given: dict[str, Any]) -> Any:
    """A configuration of the options that were given, which are taken out of `given`."""
    hints, values = get_type_hints(group), dict[str, Any]()
    for f in fields(group):
        if is_dataclass(hints[f.name]):
            values[f.name] = _assembled(hints[f.name], given)
        elif isinstance(said := f.metadata.get("option"), Option):
            value = given.pop(said.name or f.name)
            if said.parse is not None:
                values[f.name] = said.parse(value)
            elif get_origin(hints[f.name]) is not tuple:
                values[f.name] = value
            elif value:  # an empty list of the settings file is the default too
                values[f.name] = tuple(value)
    return group(**values)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose options may stand in the settings file, in its own table or for all commands that have them.

    A parameter that is a configuration, `loading: Loading` for instance, becomes an option for each of its fields that
    are one, see `config.option`. The command needs `ctx: typer.Context`, and its function's name is that of its table.
    Its options and arguments are settings too, but for required arguments and what is marked `PER_CALL` or
    `OWN_TABLE`.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {
        name: p.annotation
        for name, p in signature.parameters.items()
        if isinstance(p.annotation, type) and is_dataclass(p.annotation)
    }
    parameters: list[inspect.Parameter] = []
    kinds = SETTINGS.setdefault(command.__name__, {})
    required: list[str] = []
    for given in signature.parameters.values():
        for parameter in _of_group(given) if given.name in groups else [given]:
            name = parameter.name
            kind, *marks = get_args(parameter.annotation) or (None,)
            per_call = PER_CALL in marks
            if parameter.default is parameter.empty and not per_call and any(isinstance(m, OptionInfo) for m in marks):
                # Typer would ask for it before the settings are read.
                required.append(name)
                shown = Annotated[kind | None, *map(_said_to_be_required, marks)]  # type: ignore[valid-type]
                parameter = parameter.replace(default=None, annotation=shown)
            if parameter.default is not parameter.empty and not per_call:
                kinds[name] = kind
            if OWN_TABLE in marks:
                OWN.add((command.__name__, name))
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> None:
        given |= from_settings(given["ctx"], command.__name__)
        for name in required:
            if given[name] is None:
                raise InputError(f"--{_dashed(name)} is missing; type it, or put {name} into the settings file")
        for name, group in groups.items():
            given[name] = _assembled(group, given)
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _of_group(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """A parameter for each option of a configuration."""
    for f in _fields(parameter.annotation):
        yield inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default,
            annotation=Annotated[f.kind, typer_option(f.name, f.option)],
        )  # fmt: skip


def _said_to_be_required(mark: Any) -> Any:
    if not isinstance(mark, OptionInfo):
        return mark
    option = copy(mark)
    option.help = f"{mark.help} Required, here or in the settings file."
    return option


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _typed(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def typed_options(ctx: typer.Context) -> tuple[str, ...]:
    """The options that were typed; the others are at their default, or from the settings file."""
    return tuple(name for name in ctx.params if _typed(ctx, name))


def key_for(ctx: typer.Context, key: str | None, labels: str, *others: str | None) -> str | None:
    """The field of --key where it is of use for labels: it gives way where they are FIELD=VALUE.

    It does not where it was typed and no `others` are a file either: `source.parse` then refuses it.
    """
    if not _is_field(labels) or (_typed(ctx, "key") and all(x is None or _is_field(x) for x in others)):
        return key
    return None


def _is_field(labels: str) -> bool:
    return "=" in labels and not Path(labels).is_file()


def _overruled(given: set[str]) -> set[str]:
    """What options that are given make void in a weaker place: themselves, their rivals, and what belongs to another
    model or SAE.
    """
    void = given.union(*(rivals for rivals in _RIVALS if rivals & given))
    of_the_sae = {"layer", "width", "sae_revision", "llama_scope_gate", "allow_other_model"}
    if "model" in given:
        return void | {"sae", "revision", "adapter"} | of_the_sae
    if "sae" in given:
        return void | of_the_sae
    return void | {"sae", "sae_revision"} if given & {"layer", "width"} else void


def from_settings(ctx: typer.Context, command: str) -> dict[str, Any]:
    """The options of a command that the settings file decides.

    What is typed wins over the command's own table, and that over what the file has for all commands. Options that
    this command does not have, but another has, are passed over. A `list[str]` may also be one string in the file.

    Raises:
        InputError: a key that no command has, so that a misspelt one is not silently without effect; a value of
            another type than the option's.
    """
    file = read(Path())
    found = file.values
    _check_keys(found)
    kinds = SETTINGS[command]
    void = _overruled({key for key in kinds if _typed(ctx, key)})
    decided, as_written = dict[str, Any](), dict[str, Any]()
    for table in (found.get(command, {}), {k: v for k, v in found.items() if k not in SETTINGS}):
        taken = {k: _of_kind(k, v, kinds[k]) for k, v in table.items() if k in kinds and k not in void}
        for key in taken:
            for value in _places(key, table[key], kinds[key]):
                refuse_outside(file.name, _dashed(key), value)
        decided |= taken
        as_written |= {_dashed(key): table[key] for key in taken}
        void |= _overruled(set(taken))
    if as_written:
        ctx.meta[_TAKEN] = Taken(file.name, as_written)
        # A file must not keep itself from being named: only a typed --quiet does.
        if not (_typed(ctx, "quiet") and ctx.params["quiet"]):
            note(f"settings: {ctx.meta[_TAKEN].said()}")
    return decided


def taken_from_file(ctx: typer.Context) -> Taken | None:
    """What the command has taken from the settings file; None where that is nothing."""
    found: Taken | None = ctx.meta.get(_TAKEN)
    return found


def _places(key: str, value: Any, kind: Any) -> list[str]:
    """What of an option's value may be a path."""
    inner = [k for part in (get_args(kind) or (kind,)) for k in (get_args(part) or (part,))]
    if key not in _PLACES and not any(isinstance(k, type) and issubclass(k, Path) for k in inner):
        return []
    if key == "labels" and _is_field(value):
        return []
    several = value if isinstance(value, list) else [value]
    return [text.partition("=")[2] for text in several] if key == "other" else several


def _check_keys(found: dict[str, Any]) -> None:
    for_all = {key for name, kinds in SETTINGS.items() for key in kinds if (name, key) not in OWN}
    for name, value in found.items():
        if name in SETTINGS:
            if not isinstance(value, dict):
                raise InputError(f"settings file: {name} = {_shown(value)} must be a table: [{_dashed(name)}]")
            _check_known(f"[{_dashed(name)}]: ", value, SETTINGS[name])
        elif tables := sorted(_dashed(command) for command, key in OWN if key == name and key not in for_all):
            where = " or ".join(f"[{table}]" for table in tables)
            raise InputError(f"settings file: {name} says where a command writes; put it into {where}")
        else:
            _check_known("", [name], for_all)


def _check_known(where: str, keys: Iterable[str], known: Collection[str]) -> None:
    for key in keys:
        if key not in known:
            named = f"{', '.join(sorted(known))}{did_you_mean(key, known)}"
            raise InputError(f"settings file: {where}unknown key {_shown(key)}; known: {named}")


def _shown(value: Any) -> str:
    return shorten(repr(value), SHOWN)


def _of_kind(key: str, value: Any, kind: Any) -> Any:
    inner = next((k for k in get_args(kind) if k is not NoneType), kind) if get_origin(kind) is UnionType else kind
    several = get_origin(inner) is list
    element = get_args(inner)[0] if several else inner
    written: tuple[type, ...] = {Path: (str,), float: (float, int)}.get(element, (element,))
    values = value if several and isinstance(value, list) else [value]
    if any(type(v) not in written for v in values):  # not isinstance: true is no integer
        raise InputError(f"settings file: {key} = {_shown(value)} must be {_TYPES[written[0]]}")
    return [element(v) for v in values] if several else element(value)
