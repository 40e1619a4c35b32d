"""`geofilter targets` and `geofilter doctor`: which models, and is everything in place."""

from __future__ import annotations

import typer

from geofilter.cli.options import AsJson, Command
from geofilter.cli.output import note, print_json, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import with_settings
from geofilter.config import Loading, TargetChoice

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter targets --json")
def targets(as_json: AsJson = False) -> None:
    """Models that are known by name, and which SAEs of theirs are published."""
    from geofilter.target.named import known, ranges, span

    table = known()
    if as_json:
        print_json(table)
        return
    for name, row in table.items():
        widths = "; ".join(f"{w}: {ranges(span(layers))}" for w, layers in row["widths"].items())
        sae = row.get("sae", "ships with geofilter")
        say(f"{name}")
        say(
            f"  model    {row['model']} ({row['license']}{', gated' if row['gated'] else ''}; {row['dtype']}; "
            f"{'chat template' if row['chat'] else 'no chat template'})"
        )
        other = "" if row["sae_model"] == row["model"] else f", trained on {row['sae_model']}"
        say(f"  SAE      {sae}{other}")
        say(f"  reads    {row['hook']}, {row['d_in']:,} dimensions")
        say(f"  default  layer {row['layer']}, width {row['width']}: {row['why']}")
        say(f"  layers   {widths}")
    say("defaults: early-to-middle layers separate best in Minegishi et al. (arXiv 2605.00842); see docs/targets.md")
    say("any other: --model ID|FOLDER --sae RELEASE/SAE_ID|ORG/REPO/FOLDER|FOLDER")


@app.command(cls=Command, epilog="Example: geofilter doctor --model smollm2-135m")
@with_settings
def doctor(
    ctx: typer.Context,
    choice: TargetChoice,
    loading: Loading,
    as_json: AsJson = False,
) -> None:
    """Check packages, FAISS, the cache, and with --model the target: files, memory, and that the pair belongs together.

    Exit 3 on a failure. Uses no network: what is missing is listed with the command that gets it.
    """
    with loading_libraries():
        from geofilter.encode.doctor import examine

    checks = examine(choice, loading, note)
    if as_json:
        print_json([{"name": c.name, "ok": c.ok, "text": c.text} for c in checks])
    else:
        for c in checks:
            say(f"{'ok  ' if c.ok else 'FAIL'} {c.name}: {c.text}")
    if not all(c.ok for c in checks):
        raise typer.Exit(3)
