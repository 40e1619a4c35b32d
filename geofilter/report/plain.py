"""A report as Markdown, and its statistics as plain text."""

from __future__ import annotations

from collections.abc import Iterator

from geofilter.bank.words import BETWEEN
from geofilter.cut.mask import MaskReport
from geofilter.report.content import BINS
from geofilter.report.document import Controls, Explained, Histogram, PairsReport, ReportDocument, ShownRow
from geofilter.report.examples import likeness
from geofilter.report.grouped import group_said
from geofilter.run.banks import exclusions_said
from geofilter.run.reasons import NO_WORDS, TONE, standing, times_short
from geofilter.text import counted, inert, markdown_cell, markdown_text

ALIKE = 0.25
"""of the way from chance to the same rows, from which on a cut by length or format is alike"""
LEFT = {
    "score": "A cut by score takes the highest, so this tells how many it reaches, and not that what stays is "
    "harmless.",
    "difference": "This cut goes by chosen less rejected: a chosen answer that scores high stays where the rejected "
    "one scores higher still.",
}
"""what rows over the 99th percentile are no proof of, by what rows are ranked by"""


def markdown(report: ReportDocument) -> str:
    """The report as Markdown; row text is put where it cannot act as markup."""
    c = report["counts"]
    lines: list[str] = []
    add, cell, whole = lines.append, markdown_cell, markdown_text
    add("# geofilter report\n")
    said = report["verdict"]
    add(f"**{whole(said['sentence'])}**\n")
    if said["stays"]:
        add(f"{whole(said['stays'])}\n")
    add(f"{whole(said['action'])}\n")
    if said["command"]:
        add(f"    {inert(said['command'])}\n")
    add(
        f"{c['rows']:,} rows: {c['kept']:,} kept, {c['removed']:,} removed, {c['quarantined']:,} quarantined "
        f"({whole(report['cut'])}; target {whole(report['made_with']['target']['name'])})."
    )
    if c["not_scanned"]:
        add(f"\n{c['not_scanned']:,} further rows were not scanned (--limit) and are in no output file.")
    lines += [f"\n{whole(text)}." for text in replaced_said(report)]
    if pairs := report.get("pairs"):
        add(f"\n{whole(pairs_said(pairs))}")
    add(f"\n{whole(report['tail'])}\n")
    add("\n".join(f"- {whole(text)}" for text in said["why"]) + "\n")
    add("| input | rows | kept | removed | quarantined |\n|---|---:|---:|---:|---:|")
    for f in report["files"]:
        add(f"| {cell(f['input'])} | {f['rows']:,} | {f['kept']:,} | {f['removed']:,} | {f['quarantined']:,} |")
    if mask := report.get("mask"):
        add(f"\n{whole(mask_said(mask))}")
    if labels := report.get("labels"):
        add("\n## Labelled rows\n")
        add("| rows | number | removed |\n|---|---:|---:|")
        for part in labels["parts"]:
            add(f"| {cell(part['name'])} | {part['rows']:,} | {part['removed']:,} |")
        add(f"\n{whole(labels['text'])}")
    for title, removed in (("removed rows", True), ("the highest kept rows", False)):
        if groups := [group for group in report["groups"] if group["removed"] is removed]:
            add(f"\n## Groups of {title}\n")
            lines += [f"- {whole(group_said(group))}" for group in groups]
    add("\n## Features behind the removed rows\n")
    if explained := report["explained"]:
        add(f"{_explained(explained)}\n")
    add(
        "| bank | feature | its words here | in the bank's texts | share | rows | times ordinary | toxic |\n"
        "|---|---:|---|---|---:|---:|---:|---|"
    )
    for t in report["features"]:
        add(
            f"| {cell(t['bank'])} | {t['feature']} | {cell(BETWEEN.join(t['words']))} | {cell(t['label'] or NO_WORDS)} "
            f"| {t['share']:.2f} | {t['rows']} | {times_short(t['times'])} | {cell(standing(t))} |"
        )
    control = report["controls"]
    add("\n## Controls\n")
    add(
        f"Rows over the 99th percentile: {control['flagged']['all']} in all, {control['flagged']['kept']} left by this "
        f"cut, {control['flagged']['kept_after_random_removal']:.0f} left by a random removal of equal size. "
        f"{LEFT[report['ranked_by']]}"
    )
    add(f"\n{overlap_said(control)}\n")
    add(f"Overlap with an equal cut by length or format (by chance {control['removed_share']:.0%}):\n")
    add("| cut by | overlap |\n|---|---:|")
    for name, value in control["overlap_with_equal_cut_by"].items():
        add(f"| {cell(name)} | {value:.0%} |")
    add(f"\n## Highest removed rows ({report['removed_rows_shown']} of {c['removed']:,})\n")
    by = "score" if report["ranked_by"] == "score" else "chosen less rejected"
    add(f"| rank | row | {by} | why |\n|---:|---|---:|---|")
    for row in report["removed_rows"][:20]:
        add(f"| {row['rank']} | {cell(row['file'])}:{row['line']} | {ranked(row):.2f} | {cell(row['reason'])} |")
    if like := [
        (row["rank"], text) for row in report["removed_rows"][:20] if (text := likeness(row, report["examples"]))
    ]:
        add("\nThe bank's rows that these are most like:\n")
        lines += [f"- {rank}: {whole(text)}" for rank, text in like]
    made = report["made_with"]
    target = made["target"]
    add(f"\nTarget: {whole(target['model'])}, {whole(target['hook'])}, SAE {whole(target['sae'])}.")
    for text in [*target["notes"], *made["read"], *exclusions_said(made["banks"])]:
        add(f"Note: {whole(text)}.")
    by, run, scorer = whole(made["geofilter"]), whole(made["run"]), whole(made["scorer"])
    add(f"\nMade by geofilter {by} from run {run}, scorer {scorer}.\n")
    return "\n".join(lines)


def replaced_said(report: ReportDocument) -> Iterator[str]:
    """How many removed rows were answered again, and where they are; one sentence an input."""
    for of in report.get("replaced", []):
        removed = counted(of["replaced"] + of["left_out"], "removed row")
        yield f"{of['replaced']:,} of {removed} of {of['input']} put back with another answer: {of['output']}"


def details(report: ReportDocument) -> Iterator[str]:
    """The statistics behind a report, line by line, plain text."""
    control = report["controls"]
    yield from report["verdict"]["why"]
    yield report["tail"]
    yield from exclusions_said(report["made_with"]["banks"])
    yield ""
    yield "scores (# kept, x removed)"
    yield from _text_histogram(report["histogram"])
    yield ""
    yield "features behind the removed rows"
    if explained := report["explained"]:
        yield _explained(explained)
    for f in report["features"][:8]:
        words = BETWEEN.join(f["words"]) or f["label"] or NO_WORDS
        yield f"  {f['share']:8.2f}  {f['rows']:6d} rows  {f['bank']} {f['feature']}: {words}"
    flagged = control["flagged"]
    yield ""
    yield (
        f"over the 99th percentile: {flagged['all']} before, {flagged['kept']} kept by this cut, "
        f"{flagged['kept_after_random_removal']:.0f} by a random removal of equal size"
    )
    yield overlap_said(control)


def overlap_said(control: Controls) -> str:
    """What the cuts by length and format say of this one."""
    overlap, chance = control["overlap_with_equal_cut_by"], control["removed_share"]
    worst = max(overlap, key=lambda name: overlap[name])
    most = f"a cut of equal size by {worst} removes {overlap[worst]:.0%} of the same rows, chance {chance:.0%}"
    if overlap[worst] > chance + ALIKE * (1 - chance):
        return f"The score may go by length or format here, and not by harm: {most}."
    return f"Length and format alone do not make this cut: at most, {most}."


def ranked(row: ShownRow) -> float:
    """What a row is ranked by: its score, less that of its rejected answer where that was read."""
    return row["score"] - row.get("rejected_score", 0.0)


def pairs_said(pairs: PairsReport) -> str:
    """What became of the preferences of a run that has scored both answers."""
    if not pairs["rows"]:
        return "Preferences: no row has a rejected answer that could be scored; rows are ranked by their scores."
    said = (
        f"Preferences: of {counted(pairs['rows'], 'pair')} the chosen answer scores higher than the rejected one in "
        f"{pairs['worse']:,} (about half would by chance). Rows are ranked by chosen less rejected; "
        f"{counted(pairs['removed'], 'pair')} went."
    )
    if swapped := pairs.get("swapped"):
        said += f" With their answers exchanged: {counted(swapped['rows'], 'pair')} of these, in {swapped['file']}."
    return said


def mask_said(mask: MaskReport) -> str:
    """What a mask leaves out of the kept rows."""
    share = mask["tokens"] / mask["of"] if mask["of"] else 0
    return (
        f"Loss mask: {mask['tokens']:,} of {mask['of']:,} response tokens of the kept rows ({share:.1%}) are to be "
        f"left out of the loss, in {counted(mask['rows'], 'row')} above a score of {mask['above']:g}."
    )


def _explained(explained: Explained) -> str:
    """How much of the removed rows' scores the features that rows name carry, with those of tone and punctuation."""
    return (
        f"The features that a row names and {TONE} carry {explained['median']:.0%} of a removed row's score (median), "
        f"half or more of it in {explained['half']:.0%} of these rows."
    )


def _text_histogram(histogram: Histogram, rows: int = 12, width: int = 48) -> Iterator[str]:
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
