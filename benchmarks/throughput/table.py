"""What was measured of a target, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks.throughput.ways import READ, SCAN

COLUMNS = (
    "", "rows", "tokens/s", "features: times as fast (of a round)", "scan: times as fast (of a round)",
    "rank correlation", "largest difference",
)  # fmt: skip


def ratio(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times as many tokens a second: of the medians, and the least and most of a round."""

    def rate(way: dict[str, Any], seconds: float) -> float:
        return float(way["tokens"]) / seconds

    each = [rate(ours, a) / rate(other, b) for a, b in zip(ours["seconds"], other["seconds"], strict=True)]
    whole = rate(ours, median(ours["seconds"])) / rate(other, median(other["seconds"]))
    return {"of_medians": round(whole, 4), "least": round(min(each), 4), "most": round(max(each), 4)}


def with_ratios(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each way with its speed, and how geofilter's compares."""
    for way in ways.values():
        way["tokens_per_second"] = round(way["tokens"] / median(way["seconds"]), 1)
        way["rows_per_second"] = round(way["rows"] / median(way["seconds"]), 2)
        way["read_is_times"], way["scan_is_times"] = (ratio(ways[ours], way) for ours in (READ, SCAN))
    return ways


def _times(found: dict[str, float]) -> str:
    return f"{found['of_medians']:.2f} ({found['least']:.2f} to {found['most']:.2f})"


def _agreement(way: dict[str, Any]) -> str:
    found = way.get("agreement")
    if not found:
        return " | |"
    rank = min(each["spearman"] for each in found.values())
    return f" {rank:.5f} | {max(each['largest_difference'] for each in found.values()):.1e} |"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The tables of one target."""
    rows, ways = found["rows"], found["ways"]
    lengths = rows["lengths"]
    yield f"### {found['name']}, {found['dtype']}"
    yield ""
    yield (
        f"{rows['rows']:,} rows, {rows['tokens']:,} tokens, {rows['response_tokens']:,} of responses; tokens a row: "
        f"5 % up to {lengths['p5']:.0f}, half up to {lengths['p50']:.0f}, 95 % up to {lengths['p95']:.0f}. "
        f"{rows['in_prefixes_of_others']:.1%} of the tokens are in a beginning that an earlier row has too. Left out, "
        f"since longer than a pass: {rows['left_out']} rows."
    )
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" + "|---:" * (len(COLUMNS) - 1) + "|"
    for name, way in ways.items():
        yield (
            f"| {name} | {way['rows']:,} | {way['tokens_per_second']:,.0f} | {_times(way['read_is_times'])} | "
            f"{_times(way['scan_is_times'])} |{_agreement(way)}"
        )
    yield ""
    yield from _parts("Stages of a scan, in seconds", found["stages"])
    yield from _parts("Before the first row, in seconds", found["start_up"])
    for step, sizes in found.get("memory", {}).items():
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in sizes.items())
        yield f"GB of GPU memory, {step}: {parts}"


def _parts(title: str, parts: dict[str, float]) -> Sequence[str]:
    total = sum(parts.values())
    each = ", ".join(f"{name} {seconds:.2f} ({seconds / total:.1%})" for name, seconds in parts.items())
    return [f"{title}: {each}; together {total:.2f}.", ""]
