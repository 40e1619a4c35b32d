"""`geofilter targets` and `geofilter doctor`: which models, and is everything in place."""

from __future__ import annotations

from dataclasses import asdict

import typer

from geofilter.cli.options import AsJson, Command
from geofilter.cli.output import note, print_json, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import with_settings
from geofilter.config import Loading, TargetChoice

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter targets --json")
def targets(as_json: AsJson = False) -> None:
    """Models that are known by name, which SAEs of theirs are published, and what a scan reads and needs."""
    from geofilter.target.named import known, offered, ranges, together
    from geofilter.target.size import at_default

    table = known()
    needs = {name: at_default(row) for name, row in table.items()}
    if as_json:
        print_json({name: {**row, "at_default": asdict(needs[name])} for name, row in table.items()})
        return
    for name, row in table.items():
        widths = "; ".join(f"{', '.join(names)}: {ranges(layers)}" for names, layers in together(offered(row)))
        sae = " and ".join(at["sae"] for at in (row, row.get("also", {})) if "sae" in at) or "ships with geofilter"
        need = needs[name]
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
        say(
            f"  needs    {need.layers} of {row['layers']} layers, about {need.total / 1e9:.1f} GB on a GPU: model "
            f"{need.model / 1e9:.1f} (bfloat16), encoder {need.encoder / 1e9:.1f} (float32), working memory "
            f"{need.working / 1e9:.1f}"
        )
    say("needs: of layer and width by default; `geofilter doctor` reckons for others, and for what is on this machine")
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
