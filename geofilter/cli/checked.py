"""`geofilter scan --check`: what would be scored of the rows, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from geofilter.rows.check import Checked, Kind
from geofilter.rows.shapes import REMARKS
from geofilter.text import counted, inert, shorten

CHARS = 300
"""characters shown of a text"""
REASONS = 20
"""reasons shown why rows cannot be scored"""


def lines(checked: Checked) -> Iterator[str]:
    """Plain text, line by line."""
    scored = sum(kind.rows for kind in checked.kinds.values())
    bad = sum(checked.reasons.values())
    passed = f", {checked.passed_over:,} passed over by --only" if checked.passed_over else ""
    yield f"{counted(checked.rows, 'row')}: {scored:,} can be scored, {bad:,} cannot{passed}"
    for kind in sorted(checked.kinds.values(), key=lambda kind: -kind.rows):
        yield ""
        yield from _kind(kind)
    if checked.remarks:
        yield ""
        yield from (f"{counted(n, 'row')} {REMARKS[name]}" for name, n in checked.remarks.items())
    for title, reasons in (
        ("cannot be scored:", checked.reasons),
        ("preferences whose rejected answer cannot be scored:", checked.one_sided),
    ):
        if reasons:
            yield ""
            yield title
        for reason, n in reasons.most_common(REASONS):
            file, line = reasons.first[reason]
            yield f"  {counted(n, 'row')}, first {inert(file)}, line {line}: {inert(reason)}"
        if len(reasons) > REASONS:
            yield f"  and {len(reasons) - REASONS} other reasons"
    yield ""
    yield "not what is trained? --fields, --train, --only and --score-thinking say what is"


def _kind(kind: Kind) -> Iterator[str]:
    yield f"{counted(kind.rows, 'row')} of shape {kind.shape}, read from {', '.join(map(inert, kind.keys))}"
    if kind.not_read:
        yield f"  not read: {', '.join(inert(key) for key, _ in kind.not_read.most_common(12))}"
    for example in kind.examples:
        yield f"  {inert(example.file)}, line {example.line}"
        yield from _texts("prompt", [example.prompt] if example.prompt else [])
        yield from _texts("scored", example.scored)
        yield from _texts("rejected", example.rejected)
        yield from _texts("left out", example.left_out)


def _texts(name: str, texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield f"    {name:<8}  {shorten(' '.join(text.split()), CHARS)}"
        name = ""
