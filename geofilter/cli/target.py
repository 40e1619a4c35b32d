"""`geofilter targets` and `geofilter doctor`: which models, and is everything in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from geofilter.cli.options import AsJson, Command
from geofilter.cli.output import note, print_json, print_table, say
from geofilter.cli.progress import loading_libraries
from geofilter.cli.settings import with_settings
from geofilter.config import Loading, TargetChoice

app = typer.Typer()


@app.command(cls=Command, epilog="Example: geofilter targets gemma-3-4b-it")
def targets(
    name: Annotated[str | None, typer.Argument(help="One of them, with all that is known of it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Models that are known by name, how much of them a scan reads, and what it needs.

    The share of layers and the memory are those of the default layer and width on a GPU: the model in bfloat16, the
    SAE's encoder in float32, and what is worked with. `geofilter doctor` reckons for others, and for this machine.
    """
    from geofilter.target.named import known
    from geofilter.target.size import at_default

    table = known()
    if name is not None and name not in table:
        from geofilter.errors import TargetError
        from geofilter.text import did_you_mean

        raise TargetError(f"{name}: no target of that name; geofilter targets lists them{did_you_mean(name, table)}")
    shown = table if name is None else {name: table[name]}
    if as_json:
        print_json({each: {**row, "at_default": asdict(at_default(row))} for each, row in shown.items()})
    elif name is not None:
        for line in _details(table[name]):
            say(line)
    else:
        print_table("", ["target", "layers read", "GPU memory", "chat", "access"], [_line(*at) for at in table.items()])
        say("of one, with its model, SAEs, layers and widths: geofilter targets NAME; see docs/targets.md")
        say("any other: --model ID|FOLDER|FILE.gguf --sae RELEASE/SAE_ID|ORG/REPO/FOLDER|FOLDER")
        say("one that has no SAE: geofilter sae train")


def _line(name: str, row: dict[str, Any]) -> list[str]:
    from geofilter.target.size import at_default

    need = at_default(row)
    access = "embedded" if "wheel" in row else "gated" if row["gated"] else "open"
    layers = f"{need.layers} of {row['layers']}"
    return [name, layers, f"{need.total / 1e9:.1f} GB", "yes" if row["chat"] else "no", access]


def _details(row: dict[str, Any]) -> Iterator[str]:
    from geofilter.target.named import offered, ranges, together
    from geofilter.target.size import at_default

    need = at_default(row)
    sae = " and ".join(at["sae"] for at in (row, row.get("also", {})) if "sae" in at) or "ships with geofilter"
    other = "" if row["sae_model"] == row["model"] else f", trained on {row['sae_model']}"
    yield f"model    {row['model']} ({row['license']}{', gated' if row['gated'] else ''}; {row['dtype']})"
    yield f"         {'chat template' if row['chat'] else 'no chat template: turns are joined by blank lines'}"
    yield f"SAE      {sae}{other}"
    yield f"reads    {row['hook']}, {row['d_in']:,} dimensions"
    yield f"default  layer {row['layer']}, width {row['width']}: {row['why']}"
    for names, layers in together(offered(row)):
        yield f"offers   layers {ranges(layers)} in width {', '.join(names)}"
    yield (
        f"needs    {need.layers} of {row['layers']} layers, about {need.total / 1e9:.1f} GB on a GPU: model "
        f"{need.model / 1e9:.1f} (bfloat16), encoder {need.encoder / 1e9:.1f} (float32), working memory "
        f"{need.working / 1e9:.1f}"
    )


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
