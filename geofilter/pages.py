"""Self-contained HTML pages: what they are made from, and what their content security policy lets them use."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from geofilter.text import shorten


@cache
def template(package: str, name: str) -> Template:
    """A page's template; to make it a program takes longer than to fill it in."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    return environment.get_template(name)


def shown(value: Any) -> Any:
    """The value, control characters in its texts shown as marks; file names and tokens are data too."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return shorten(value, len(value))
    if isinstance(value, list | tuple):
        return [shown(v) for v in value]
    return {k: shown(v) for k, v in value.items()} if isinstance(value, dict) else value


def source_of(text: str) -> str:
    """How a content security policy names a page's own style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
