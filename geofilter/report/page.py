"""A report as one self-contained HTML page.

Nothing is loaded from anywhere: the content security policy allows the page's own script and style by their hashes
and nothing else. The script gets its data as JSON and puts every text into the page as text.
"""

from __future__ import annotations

import base64
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from geofilter.bank.words import FUNCTION
from geofilter.config import FLAGGED
from geofilter.pages import shown, source_of, template
from geofilter.report.content import Report
from geofilter.report.document import Histogram, ShownExcerpt
from geofilter.report.facts import LEAST
from geofilter.report.plain import LEFT, mask_said, overlap_said, pairs_said, replaced_said
from geofilter.report.rows import MOST_LISTED, SAMPLE
from geofilter.run.labelled import MIN_SIDE, random_of
from geofilter.run.reasons import standing, times_short

SCRIPTS = ("base", "cut", "where", "groups", "card", "marks", "plan", "list", "compare", "start")
"""the parts of the page's script, in order"""
NAMED_FILES = 3
"""inputs that the title names"""
MOST_TOKENS = 65_535
"""that a row is said to have; of one that has more it is said"""
LISTED = ("percentile", "file", "line", "n_tokens", "bank", "sha256")
"""arrays of the scores that a page has of the rows it lists"""
PREFIX = 6
"""bytes of a row's sha256 that it is matched with those of another run by"""


def html(report: Report) -> str:
    """The page."""
    templates = files("geofilter.report").joinpath("templates")
    style = templates.joinpath("report.css").read_text("utf-8")
    script = "\n".join(templates.joinpath(f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    run = shlex.quote(report.selection.run.called)
    return template("geofilter.report", "report.html.j2").render(
        r=report.data,
        bars=_bars(report.data["histogram"]),
        marked=_marked,
        name=_name(report),
        times=times_short,
        standing=standing,
        sample=SAMPLE,
        overlap=overlap_said(report.data["controls"]),
        left=LEFT[report.data["ranked_by"]],
        replaced=list(replaced_said(report.data)),
        mask=mask_said(mask) if (mask := report.data.get("mask")) else "",
        pairs=pairs_said(pairs) if (pairs := report.data.get("pairs")) else "",
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {source_of(style)}; script-src {source_of(script)}; base-uri 'none'; "
        "form-action 'none'",
        label=f"geofilter label {run} --from labels.jsonl",
        check=f"geofilter label {run} --from labels.jsonl --no-learn",
        data=htmlsafe_json_dumps(_data(report), separators=(",", ":")),
    )


def _name(report: Report) -> str:
    """The inputs, by the names of their files."""
    names = [Path(f["input"]).name for f in report.data["files"]] or ["report"]
    more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
    return ", ".join(names[:NAMED_FILES]) + more


def _marked(example: ShownExcerpt) -> Markup:
    """A text with the tokens in bold that a feature is strongest on."""
    out, end = Markup(), 0
    for start, stop in example["strong"]:
        out += shown(example["text"][end:start]) + Markup("<b>") + shown(example["text"][start:stop]) + Markup("</b>")
        end = stop
    marked: Markup = out + shown(example["text"][end:])
    return marked


def _data(report: Report) -> dict[str, Any]:
    """What the script works on. Columns are in order of rank, as little-endian arrays in base64."""
    order, manifest = report.selection.order(), report.selection.run.manifest
    listed = order[:MOST_LISTED]
    a = {name: report.selection.columns[name].take(listed) for name in LISTED}
    everything = np.ones(len(order), bool)
    n_removed = int(report.selection.removed.sum())
    run = shlex.quote(report.selection.run.called)
    packed = base64.b64encode(report.gathered.texts.packed()).decode()
    return {
        "n": len(order),
        "listed": len(listed),
        "removed": n_removed,
        # A cut by percentile is not one by score where there are several banks.
        "by_score": bool(report.selection.removed[order[:n_removed]].all()),
        "taken": _column(report.selection.removed[listed], "<u1"),
        "cut": report.data["cut"],
        "over": FLAGGED,
        "flagged": report.data["counts"]["flagged"],
        "flagged_removed": report.data["counts"]["flagged"] - report.data["controls"]["flagged"]["kept"],
        "command": shown(f"geofilter filter {run} --drop"),
        "fingerprint": manifest["fingerprint"],
        "files": [shown(f["input"]) for f in report.data["files"]],
        "banks": [shown(b["name"]) for b in report.data["made_with"]["banks"]],
        "ranked_by": report.data["ranked_by"],
        "score": _column(report.selection.ranked_by.take(listed), "<f4"),
        "percentile": _column(a["percentile"], "<f4"),
        "file": _column(a["file"], "<u2"),
        "line": _column(a["line"], "<u4"),
        "tokens": _column(a["n_tokens"].clip(max=MOST_TOKENS), "<u2"),
        "bank": _column(a["bank"], "<u1"),
        "dimensions": [
            {"key": d.key, "title": d.title, "categories": shown(d.categories), "ordered": d.ordered,
             "rows": d.counts(everything), "removed": d.counts(report.selection.removed),
             "of": _column(d.of[listed], "<u1")}
            for d in report.dimensions
        ],
        "histogram": report.data["histogram"],
        "counts": report.data["counts"],
        "chat_99": round(float(np.quantile(manifest["reference_scores"], FLAGGED)), 4),
        "by": _telling(report),
        "run": run,
        "least": LEAST,
        "teach": MIN_SIDE,
        "mark": report.data["verdict"]["mark"],
        "function_words": sorted(FUNCTION),
        "drawn": report.gathered.drawn,
        "why_random": random_of(report.data["made_with"]["scores"], str(report.selection.cut)),
        "hashes": base64.b64encode(a["sha256"][:, :PREFIX].tobytes()).decode(),
        "texts": packed,
        "searched": {
            "removed": report.gathered.n_texts,
            "removed_rows": n_removed,
            "chars": report.gathered.texts.chars if report.gathered.texts.shortened else 0,
        },
        "rows": shown(report.rows),
        "examples": shown(report.examples),
        "groups": shown(report.data["groups"]),
        "group": _column(report.gathered.groups.of[listed], "<u2") if report.data["groups"] else "",
        "moved": {"keep": report.selection.cut.keep_groups, "drop": report.selection.cut.drop_groups},
        "cut_command": f"geofilter filter {run} {report.selection.cut.base.option}",
    }  # fmt: skip


def _telling(report: Report) -> str | None:
    """The way to divide the rows that is shown first: by source where there are several, else what says most."""
    keys = [d.key for d in report.dimensions]
    if "source" in keys:
        return "source"
    gone = report.selection.removed
    return max(report.dimensions, key=lambda d: d.information(gone)).key if keys else None


def _column(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _bars(histogram: Histogram) -> list[dict[str, float]]:
    """Heights in per cent of the highest bar, on a square-root scale so that a thin tail stays visible."""
    n = [k + r for k, r in zip(histogram["kept"], histogram["removed"], strict=True)]
    ordinary = np.array(histogram["ordinary_chat"], float) * sum(n) / max(1, sum(histogram["ordinary_chat"]))
    top = max(1.0, *n, *ordinary)
    heights = 100 * np.sqrt(np.array(n) / top)
    return [
        {"x": i, "height": round(float(heights[i]), 2), "rows": n[i],
         "gone": round(float(heights[i]) * histogram["removed"][i] / n[i], 2) if n[i] else 0.0,
         "ordinary": round(100 - 100 * float(ordinary[i] / top) ** 0.5, 2),
         "low": histogram["edges"][i], "high": histogram["edges"][i + 1]}
        for i in range(len(n))
    ]  # fmt: skip
