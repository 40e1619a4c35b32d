"""Labels of features as bank.json has them."""

from __future__ import annotations

import json

from geofilter.text import one_line


def escaped(label: str) -> str:
    """A label as bank.json has it: JSON's escapes for quotes and the like stand in the text itself."""
    return json.dumps(label, ensure_ascii=False)[1:-1]


def readable(stored: str) -> str:
    """The other way round; what is no such text stays as it is."""
    if "\\" not in stored:
        return stored
    try:
        return one_line(str(json.loads(f'"{stored}"')))
    except ValueError:
        return stored
