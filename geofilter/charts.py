"""Charts as self-contained SVG, by plain string building: no script, no fonts to load, light and dark by themselves.

Every text is escaped; what XML cannot hold is shown as a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from geofilter.text import inert, shorten

WIDTH = 900
SIZE = 13
"""of the letters, in px"""
LABEL = 54
"""letters of a label; a longer one is cut short, its title has all of it"""
LINE = 18
"""least distance of two labels"""
_STYLE = """
svg { color-scheme: light dark; --ink: #1c2127; --soft: #5c6773; --line: #d9dee4; --paper: #ffffff;
  --main: #c2492f; --other: #2f6fb2; --control-0: #6b7785; --control-1: #8a6d1f; --control-2: #3f7d58;
  --control-3: #7a5aa6; --control-4: #a04d78; --control-5: #2d7f86; }
@media (prefers-color-scheme: dark) { svg { --ink: #e4e8ec; --soft: #9aa6b2; --line: #333b44; --paper: #14181d;
  --main: #ee7a5c; --other: #6fa8e6; --control-0: #9aa6b2; --control-1: #d0b25c; --control-2: #7fc49a;
  --control-3: #b79be0; --control-4: #e08fb6; --control-5: #6fc3ca; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
text.title { font-size: 16px; font-weight: 600; } text.soft { fill: var(--soft); }
.paper { fill: var(--paper); } .grid { stroke: var(--line); stroke-width: 1; }
.series, .lead, .range { fill: none; stroke: var(--hue); } .series { stroke-width: 2; stroke-linejoin: round; }
.series.main { stroke-width: 3.5; } .series.control { stroke-dasharray: 6 3; } .series.reference { stroke-width: 1.5;
  stroke-dasharray: 2 4; } .lead { stroke-width: 1; opacity: .6; } .range { stroke-width: 2.5; stroke-linecap: round; }
.dot { fill: var(--hue); } text.name { fill: var(--hue); } text.main { font-weight: 600; }
"""


class Series(NamedTuple):
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y) by rising x"""
    role: str = "other"
    """main (thick), other, control (dashed), or reference (dotted)"""


class Interval(NamedTuple):
    """A value with its interval."""

    label: str
    value: float
    low: float
    high: float


def curves(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    title: str,
    description: str = "",
    note: str = "",
    x_max: float | None = None,
) -> str:
    """Lines over x and y from 0, both shares shown in per cent; each is named at its right end.

    Args:
        description: for those who cannot see the picture; by default it lists the curves' right ends.
        note: a line below the title.
        x_max: right end of the x axis, the largest x by default.
    """
    height, left, top, bottom = 560, 74, 84, 60
    right = WIDTH - 40 - max(_width(shorten(s.name, LABEL)) for s in series) - 24
    end = x_max or max(x for s in series for x, _ in s.points)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / end, height - bottom - (height - bottom - top) * y

    out = []
    for step in _steps(end):
        x, y = at(step, 0)
        out.append(_line(x, top, x, y, "grid") + _text(x, y + 20, f"{step:.0%}", "soft", "middle"))
    for step in _steps(1.0):
        x, y = at(0, step)
        out.append(_line(left, y, right, y, "grid") + _text(left - 8, y + 4, f"{step:.0%}", "soft", "end"))
    out.append(_text((left + right) / 2, height - 16, x_label, "soft", "middle"))
    out.append(_text(24, top - 14, y_label, "soft"))
    shown = [[p for p in s.points if p[0] <= end + 1e-9] for s in series]
    ends = [at(*points[-1]) for points in shown]
    names = _apart([y for _, y in ends], top, height - bottom)
    hues = _hues(series)
    for s, points, (x, y), name_y, hue in zip(series, shown, ends, names, hues, strict=True):
        path = "M" + " L".join(f"{px:.1f} {py:.1f}" for px, py in (at(*p) for p in points))
        out.append(
            f'<g style="--hue: var(--{hue})"><title>{_safe(s.name)}</title><path class="series {s.role}" d="{path}"/>'
            f'<path class="lead" d="M{x + 2:.1f} {y:.1f} L{right + 20:.1f} {name_y:.1f}"/>'
            f"{_text(right + 24, name_y + 4, shorten(s.name, LABEL), f'name {s.role}')}</g>"
        )
    listed = "; ".join(f"{s.name}: {p[-1][1]:.0%} at {p[-1][0]:.0%}" for s, p in zip(series, shown, strict=True))
    return _page(height, title, description or f"{y_label} against {x_label}. {listed}.", note, out)


def intervals(
    rows: Sequence[Interval],
    x_label: str,
    title: str,
    reference: float | None = 0.0,
    description: str = "",
    note: str = "",
) -> str:
    """A dot and its interval for each row, on one axis.

    Args:
        reference: where a vertical line is drawn: no effect, or chance; None for none.
    """
    values = [v for r in rows for v in (r.low, r.high, r.value)] + ([] if reference is None else [reference])
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    ticks = _ticks(low - margin, high + margin)
    low, high = low - margin, high + margin
    digits = max(len(f"{t:.8f}".rstrip("0").partition(".")[2]) for t in ticks)
    n = digits + 1
    shown = [f"{r.value:.{n}f} [{r.low:.{n}f}, {r.high:.{n}f}]" for r in rows]
    top, step = 84, 30
    height = top + step * len(rows) + 64
    left = 24 + max(_width(shorten(r.label, LABEL)) for r in rows) + 20
    right = WIDTH - 24 - max(_width(text) for text in shown) - 14

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    foot = top + step * len(rows)
    out = [
        _line(at(t), top - 6, at(t), foot, "grid") + _text(at(t), foot + 18, f"{t:.{digits}f}", "soft", "middle")
        for t in ticks
    ]
    out.append(_text((left + right) / 2, height - 14, x_label, "soft", "middle"))
    if reference is not None:
        out.append(
            f'<path class="series reference" style="--hue: var(--ink)" d="M{at(reference):.1f} {top - 6} V{foot}"/>'
        )
    for i, (r, text) in enumerate(zip(rows, shown, strict=True)):
        y = top + step * (i + 0.5)
        out.append(
            f'<g style="--hue: var(--other)"><title>{_safe(f"{r.label}: {text}")}</title>'
            f"{_text(left - 14, y + 4, shorten(r.label, LABEL), '', 'end')}"
            f'<path class="range" d="M{at(r.low):.1f} {y} H{at(r.high):.1f}"/>'
            f'<circle class="dot" cx="{at(r.value):.1f}" cy="{y}" r="5"/>'
            f"{_text(right + 14, y + 4, text, 'soft')}</g>"
        )
    listed = "; ".join(f"{r.label}: {text}" for r, text in zip(rows, shown, strict=True))
    return _page(height, title, description or f"{x_label}. {listed}.", note, out)


def _page(height: float, title: str, description: str, note: str, parts: Sequence[str]) -> str:
    below = _text(24, 52, note, "soft") if note else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">\n'
        f"<title>{_safe(title)}</title>\n<desc>{_safe(description)}</desc>\n"
        f'<style>{_STYLE}</style>\n<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>\n'
        f"{_text(24, 30, title, 'title')}\n{below}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_safe(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}"/>'


def _safe(text: str) -> str:
    return escape(inert(text))


def _width(text: str) -> float:
    """Room for a label in px; no font is measured, so the mean letter of a wide one is taken."""
    return 0.53 * SIZE * len(text)


def _apart(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Heights near the wanted ones, in their order, no two closer than a line, between top and bottom if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    out = [0.0] * len(wanted)
    least = top
    for i in order:  # downwards: each below the one before
        out[i] = max(wanted[i], least)
        least = out[i] + LINE
    most = max(bottom, top + LINE * (len(wanted) - 1))
    for i in reversed(order):  # and up again where they run over the end
        out[i] = min(out[i], most)
        most = out[i] - LINE
    return out


def _hues(series: Sequence[Series]) -> list[str]:
    out, controls = [], 0
    for s in series:
        if s.role == "control":
            out.append(f"control-{controls % 6}")
            controls += 1
        else:
            out.append({"main": "main", "reference": "soft"}.get(s.role, "other"))
    return out


def _steps(end: float) -> list[float]:
    n = 5 if end > 0.3 else 4
    return [end * i / n for i in range(n + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """About five round marks between low and high."""
    rough = (high - low) / 5
    power = 1.0
    while power > rough:
        power /= 10
    while power * 10 <= rough:
        power *= 10
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first = -int(-low // step)
    return [round(step * i, 10) for i in range(first, int(high // step) + 1)]
