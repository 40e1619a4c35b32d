"""Reports of a cut: one dictionary, rendered as JSON, Markdown, HTML and a terminal summary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter import __version__
from geofilter.cut import Outputs, Selection, reason
from geofilter.inputs import read_lines
from geofilter.records import Row, parse_line
from geofilter.store import atomic, write_json
from geofilter.style import SHOWN, STYLE

SCHEMA = 1
FLAGGED = 0.99
"""percentile from which a row counts as flagged; ordinary chat has 1 % of such rows for one bank"""
TOP_ROWS = 50
TOP_FEATURES = 15
BINS = 40
OTHER_CUTS = {
    "length": ("longest", "shortest"),
    "bullets": ("most bullets", "fewest bullets"),
    "digits": ("most digits", "fewest digits"),
    "code": ("most code", "least code"),
}
"""names of the cuts by length and format, largest values first, that a cut is compared with"""
TEXT = 400
"""characters of a prompt or response that are shown"""


def build(selection: Selection, outputs: list[Outputs]) -> dict[str, Any]:
    """Everything the report says, JSON-able. `outputs` are the files that were written."""
    run, a, removed = selection.run, selection.arrays, selection.removed
    manifest = run.manifest
    counts = manifest["counts"]
    n_removed = int(removed.sum())
    flagged = a["percentile"] >= FLAGGED
    top = np.argsort(-a["score"], kind="stable")
    details = run.score_lines(np.flatnonzero(removed).tolist() + top[: TOP_ROWS + 10].tolist())
    shown = [int(i) for i in top[:TOP_ROWS] if removed[i]]
    near = [int(i) for i in top if not removed[i]][:5]
    return {
        "schema": SCHEMA,
        "headline": manifest["headline"],
        "cut": str(selection.cut),
        "cutoff_score": selection.cutoff,
        "counts": {
            **counts,
            "removed": n_removed,
            "kept": counts["scored"] - n_removed,
            "flagged": int(flagged.sum()),
            "not_scanned": sum(f["lines"] - f["rows"] for f in manifest["data"]),
        },
        "files": [
            {
                "input": manifest["data"][o.index]["path"],
                "rows": manifest["data"][o.index]["rows"],
                "not_scanned": manifest["data"][o.index]["lines"] - manifest["data"][o.index]["rows"],
                "kept": o.n_kept,
                "removed": o.n_removed,
                "quarantined": o.n_quarantined,
                "outputs": {"kept": str(o.kept), "removed": str(o.removed), "quarantined": str(o.quarantined)},
            }
            for o in outputs
        ],
        "tail": _tail_note(float(flagged.mean()), len(manifest["banks"])),
        "power": manifest["power"],
        "histogram": _histogram(a["score"], removed),
        "features": _features(details[i] for i in np.flatnonzero(removed).tolist()),
        "controls": _controls(a, removed, flagged),
        "by_bank": {b["name"]: int((a["bank"][removed] == i).sum()) for i, b in enumerate(manifest["banks"])},
        "removed_rows": _rows(selection, shown, details),
        "nearest_kept_rows": _rows(selection, near, run.score_lines(near)),
        "removed_rows_shown": len(shown),
        "quarantine": run.quarantine()[:TOP_ROWS],
        "made_with": {
            "geofilter": __version__,
            "run": str(run.path),
            **{k: manifest[k] for k in ("target", "scorer", "encoding", "versions", "seconds", "banks", "seed")},
        },
    }


def _tail_note(share: float, n_banks: int) -> str:
    expected = (1 - FLAGGED) * n_banks
    text = f"{share:.1%} of the rows score above {FLAGGED:.0%} of ordinary chat (where about {expected:.0%} do)"
    if share <= 2 * expected:
        return f"No separable tail: {text}. The cut takes the highest scores of a set that looks ordinary."
    return f"{text}."


def _histogram(score: npt.NDArray[np.float64], removed: npt.NDArray[np.bool_]) -> dict[str, list[float]]:
    low, high = np.percentile(score, [0.1, 99.9])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    inside = np.clip(score, edges[0], edges[-1])
    return {
        "edges": [round(float(e), 4) for e in edges],
        "kept": np.histogram(inside[~removed], edges)[0].tolist(),
        "removed": np.histogram(inside[removed], edges)[0].tolist(),
    }


def _features(details: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Toxic features behind the removed rows, by the sum of the shares of the features nearest to each."""
    total: dict[tuple[str, int], dict[str, Any]] = {}
    for detail in details:
        for t in detail["top_features"]:
            entry = total.setdefault(
                (detail["bank"], t["nearest_toxic"]),
                {"bank": detail["bank"], "feature": t["nearest_toxic"], "label": t["nearest_label"],
                 "share": 0.0, "rows": set(), "through": {}},
            )  # fmt: skip
            entry["share"] += t["share"]
            entry["rows"].add((detail["file"], detail["line"]))
            through = entry["through"].setdefault(t["feature"], [t["label"], 0.0])
            through[1] += t["share"]
    ordered = sorted(total.values(), key=lambda e: (-e["share"], e["feature"]))[:TOP_FEATURES]
    return [
        {
            **e,
            "share": round(e["share"], 4),
            "rows": len(e["rows"]),
            "through": [
                {"feature": f, "label": label, "share": round(s, 4)}
                for f, (label, s) in sorted(e["through"].items(), key=lambda kv: -kv[1][1])[:3]
            ],
        }
        for e in ordered
    ]


def _controls(
    a: dict[str, npt.NDArray[Any]], removed: npt.NDArray[np.bool_], flagged: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """The cut beside a random removal of equal size, and its overlap with cuts by length and format."""
    n, k = len(removed), int(removed.sum())
    keep = ~removed
    share = k / n
    overlap = {}
    for name in SHOWN:
        column = a["style"][:, STYLE.index(name)]
        for word, sign in zip(OTHER_CUTS[name], (-1, 1), strict=True):
            chosen = np.argsort(sign * column, kind="stable")[:k]
            overlap[word] = round(float(removed[chosen].mean()), 4) if k else 0.0
    return {
        "mean_score": {
            "all": round(float(a["score"].mean()), 4),
            "kept": round(float(a["score"][keep].mean()), 4) if keep.any() else None,
            # A random removal leaves the mean where it is, in expectation.
            "kept_after_random_removal": round(float(a["score"].mean()), 4),
        },
        "flagged": {
            "all": int(flagged.sum()),
            "kept": int((flagged & keep).sum()),
            "kept_after_random_removal": round(float(flagged.sum()) * (1 - share), 1),
        },
        "removed_share": round(share, 4),
        "overlap_with_equal_cut_by": overlap,
        "style": {
            name: {
                "removed": round(float(a["style"][removed, STYLE.index(name)].mean()), 4) if k else None,
                "kept": round(float(a["style"][keep, STYLE.index(name)].mean()), 4) if keep.any() else None,
            }
            for name in SHOWN
        },
    }


def _rows(selection: Selection, wanted: list[int], details: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Score details and the beginning of the text of the given scored rows."""
    rank = selection.rank()
    texts: dict[tuple[str, int], Row] = {}
    by_file: dict[str, set[int]] = {}
    for i in wanted:
        by_file.setdefault(details[i]["file"], set()).add(details[i]["line"])
    fields = selection.run.fields
    for file, lines in by_file.items():
        for number, line in enumerate(read_lines(Path(file)), start=1):
            if number in lines and isinstance(found := parse_line(line, file, number, fields), Row):
                texts[file, number] = found
    out = []
    for i in wanted:
        d = details[i]
        row = texts.get((d["file"], d["line"]))
        out.append(
            {
                **{k: d[k] for k in ("file", "line", "score", "percentile", "bank", "n_tokens", "top_features")},
                "rank": int(rank[i]),
                "reason": reason(d),
                "prompt": shorten(row.prompt) if row else "",
                "response": shorten(row.response) if row else "",
            }
        )
    return out


def shorten(text: str) -> str:
    """The beginning of a text, control characters shown as marks so that they stay inert anywhere."""
    cut = text if len(text) <= TEXT else text[: TEXT - 1] + "…"
    return "".join(c if c in "\n\t" or c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in cut)


def write(report: dict[str, Any], outputs: list[Outputs], run_path: Path) -> list[Path]:
    """Write JSON, Markdown and HTML beside each input's kept rows, and into the run; return the HTML paths."""
    pages = []
    text = {"md": markdown(report), "html": html(report)}
    # A file name may hold bytes that are not text.
    rendered = {"json": None, **{kind: t.encode("utf-8", "backslashreplace") for kind, t in text.items()}}
    for place in [*outputs, None]:
        for kind, content in rendered.items():
            path = place.report(kind) if place else run_path / f"report.{kind}"
            if content is None:
                write_json(path, report)
            else:
                with atomic(path) as handle:
                    handle.write(content)
            if kind == "html":
                pages.append(path)
    return pages


def html(report: dict[str, Any]) -> str:
    """A self-contained page: no script, no network; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("geofilter"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(r=report, bars=_bars(report["histogram"]))


def _bars(histogram: dict[str, list[float]]) -> list[dict[str, float]]:
    """Heights in per cent of the highest bar, on a square-root scale so that a thin tail stays visible."""
    top = max(1.0, *(k + r for k, r in zip(histogram["kept"], histogram["removed"], strict=True)))
    out = []
    for i, (kept, removed) in enumerate(zip(histogram["kept"], histogram["removed"], strict=True)):
        height = 100 * ((kept + removed) / top) ** 0.5
        part = height * removed / (kept + removed) if kept + removed else 0.0
        out.append(
            {"x": i, "kept": round(height - part, 2), "removed": round(part, 2),
             "low": histogram["edges"][i], "n_kept": kept, "n_removed": removed}
        )  # fmt: skip
    return out


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown; row text is put where it cannot act as markup."""
    c = report["counts"]
    lines: list[str] = []
    add = lines.append
    add("# geofilter report\n")
    add(f"**{_md(report['headline'])}**\n")
    add(
        f"{c['rows']:,} rows: {c['kept']:,} kept, {c['removed']:,} removed, {c['quarantined']:,} quarantined "
        f"({report['cut']}; target {_md(report['made_with']['target']['name'])})."
    )
    if c["not_scanned"]:
        add(f"\n{c['not_scanned']:,} further rows were not scanned (--limit) and are in no output file.")
    add(f"\n{report['tail']}\n")
    add("| input | rows | kept | removed | quarantined |\n|---|---:|---:|---:|---:|")
    for f in report["files"]:
        add(f"| {_md(f['input'])} | {f['rows']:,} | {f['kept']:,} | {f['removed']:,} | {f['quarantined']:,} |")
    add("\n## Toxic features behind the removed rows\n")
    add("| bank | feature | strongest tokens | share | rows |\n|---|---:|---|---:|---:|")
    for f in report["features"]:
        add(f"| {_md(f['bank'])} | {f['feature']} | {_md(f['label'])} | {f['share']:.2f} | {f['rows']} |")
    control = report["controls"]
    add("\n## Controls\n")
    add(
        f"Rows over the 99th percentile: {control['flagged']['all']} in all, {control['flagged']['kept']} left by this "
        f"cut, {control['flagged']['kept_after_random_removal']:.0f} left by a random removal of equal size."
    )
    add(f"\nOverlap with an equal cut by length or format (by chance {control['removed_share']:.0%}):\n")
    add("| cut by | overlap |\n|---|---:|")
    for name, value in control["overlap_with_equal_cut_by"].items():
        add(f"| {name} | {value:.0%} |")
    add(f"\n## Highest removed rows ({report['removed_rows_shown']} of {c['removed']:,})\n")
    add("| rank | row | score | why |\n|---:|---|---:|---|")
    for row in report["removed_rows"][:20]:
        add(f"| {row['rank']} | {_md(row['file'])}:{row['line']} | {row['score']:.2f} | {_md(row['reason'])} |")
    made = report["made_with"]
    target = made["target"]
    add(f"\nTarget: {_md(target['model'])}, {target['hook']}, SAE {_md(target['sae'])}.")
    for text in target["notes"]:
        add(f"Note: {_md(text)}.")
    add(f"\nMade by geofilter {made['geofilter']} from run `{made['run']}`, scorer {made['scorer']}.\n")
    return "\n".join(lines)


def _md(text: str) -> str:
    """Text that cannot act as Markdown or HTML."""
    flat = re.sub(r"\s+", " ", shorten(text))
    return re.sub(r"([\\`*_{}\[\]<>|#~!&])", r"\\\1", flat)


def summary(report: dict[str, Any]) -> Iterator[str]:
    """The terminal summary, line by line, plain text."""
    c, control = report["counts"], report["controls"]
    yield report["headline"]
    yield ""
    yield (
        f"{c['rows']:,} rows = {c['kept']:,} kept + {c['removed']:,} removed + {c['quarantined']:,} quarantined  "
        f"({report['cut']})"
    )
    if c["not_scanned"]:
        yield f"{c['not_scanned']:,} further rows were not scanned (--limit) and are in no output file"
    yield report["tail"]
    yield ""
    yield "scores (# kept, x removed)"
    yield from _text_histogram(report["histogram"])
    yield ""
    yield "toxic features behind the removed rows"
    for f in report["features"][:8]:
        yield f"  {f['share']:8.2f}  {f['rows']:6d} rows  {f['bank']} {f['feature']}: {f['label']}"
    flagged = control["flagged"]
    yield ""
    yield (
        f"over the 99th percentile: {flagged['all']} before, {flagged['kept']} kept by this cut, "
        f"{flagged['kept_after_random_removal']:.0f} by a random removal of equal size"
    )
    overlap = control["overlap_with_equal_cut_by"]
    worst = max(overlap, key=lambda name: overlap[name])
    yield (
        f"overlap with an equal cut by length or format: at most {overlap[worst]:.0%} ({worst}); "
        f"by chance {control['removed_share']:.0%}"
    )


def _text_histogram(histogram: dict[str, list[float]], rows: int = 12, width: int = 48) -> Iterator[str]:
    step = BINS // rows + 1
    top = 1.0
    groups = []
    for i in range(0, BINS, step):
        kept, removed = sum(histogram["kept"][i : i + step]), sum(histogram["removed"][i : i + step])
        groups.append((histogram["edges"][i], kept, removed))
        top = max(top, kept + removed)
    for edge, kept, removed in groups:
        bar = "#" * round(width * kept / top) + "x" * (max(1, round(width * removed / top)) if removed else 0)
        yield f"  {edge:7.2f} {bar} {int(kept + removed)}"
