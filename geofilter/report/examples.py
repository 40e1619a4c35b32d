"""The labelled rows of the banks that the rows of a report are most like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from geofilter.bank.bank import Bank
from geofilter.bank.known import quoted
from geofilter.report.document import Examples, ShownRow


def examples_of(rows: Iterable[ShownRow], banks: Mapping[str, Bank]) -> Examples:
    """By bank and number: those that the rows name.

    Args:
        banks: by name, those that are still there.
    """
    found: Examples = {}
    for row in rows:
        bank = banks.get(row["bank"])
        if bank is None or bank.rows is None:
            continue
        like = row.get("like", {})
        for side, known in bank.rows.named(like).items():
            near = like["bad" if side == "bad" else "good"]
            found.setdefault(bank.name, {})[str(near["row"])] = known
    return found


def likeness(row: ShownRow, examples: Examples) -> str:
    """The bad row of its bank that a row is most like, in a sentence; nothing where there is none."""
    near = row.get("like", {}).get("bad")
    known = None if near is None else examples.get(row["bank"], {}).get(str(near["row"]))
    return "" if known is None else f"its features are like those of: {quoted(known)}"
