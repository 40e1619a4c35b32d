"""`geofilter sae`: train an SAE for a model that has none, and measure one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.options import (
    OWN_TABLE,
    PER_CALL,
    AsJson,
    Command,
    FieldNames,
    Offline,
    Quiet,
    System,
    declared,
    typer_option,
)
from geofilter.cli.output import note, notifier, print_json, say
from geofilter.cli.progress import loading_libraries, training_progress
from geofilter.cli.settings import with_settings
from geofilter.config import Loading
from geofilter.dictionary.config import SaeConfig
from geofilter.errors import TargetError

app = typer.Typer(
    no_args_is_help=True,
    help="Train an SAE for a model that has none, and measure one.",
    epilog="Example: geofilter sae train --model org/model --data text.jsonl --out my-sae",
)

MODEL = "Model"
_MODEL = "Name (see `geofilter targets`), Hugging Face id, model folder or GGUF file."
Model = Annotated[str | None, typer.Option(help=_MODEL, rich_help_panel=MODEL)]


@app.command(
    "train",
    cls=Command,
    epilog="Example: geofilter sae train --model org/model --data text.jsonl --out my-sae",
)
@with_settings
def sae_train(
    ctx: typer.Context,
    data: Annotated[list[str], typer_option("data", declared(SaeConfig, "data")), PER_CALL],
    out: Annotated[Path, typer.Option(help="Folder of the SAE; a training that was stopped there goes on."), OWN_TABLE],
    loading: Loading,
    model: Model = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch of the model.", rich_help_panel=MODEL)
    ] = None,
    layer: Annotated[str, typer_option("layer", declared(SaeConfig, "layer")), PER_CALL] = "auto",
    width: Annotated[str, typer_option("width", declared(SaeConfig, "width")), PER_CALL] = "16k",
    k: Annotated[int, typer_option("k", declared(SaeConfig, "k"))] = 64,
    architecture: Annotated[str, typer_option("architecture", declared(SaeConfig, "architecture"))] = "topk",
    weights: Annotated[str, typer_option("weights", declared(SaeConfig, "weights"))] = "float32",
    tokens: Annotated[str | None, typer_option("tokens", declared(SaeConfig, "tokens"))] = None,
    batch: Annotated[int | None, typer_option("batch", declared(SaeConfig, "batch"))] = None,
    lr: Annotated[float | None, typer_option("lr", declared(SaeConfig, "lr"))] = None,
    seed: Annotated[int, typer_option("seed", declared(SaeConfig, "seed"))] = 0,
    fields: FieldNames = None,
    system: System = "keep",
    max_tokens: Annotated[int, typer_option("max_tokens", declared(SaeConfig, "max_tokens"))] = 1024,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a TopK or BatchTopK SAE on a model's activations over your text, and measure it on held-out rows of it.

    The folder is one of SAELens with a card beside it: geofilter scan --model M --sae FOLDER reads it. Stopped at any
    moment, the same command goes on. Exit 3 when the SAE explains another layer better than its own.
    """
    from geofilter.places import refuse_output
    from geofilter.rows.fields import parse
    from geofilter.rows.gather import gather

    refuse_output(out, "--out", kind="folder")
    files, origins = gather(data, split=None, config=None, offline=offline, notify=notifier(quiet))
    config = SaeConfig(
        files, model, revision, layer, width, k, architecture, weights, tokens, batch, lr, seed, system, max_tokens,
        parse(fields), loading, origins,
    )  # fmt: skip
    try:
        with training_progress(quiet) as progress:
            from geofilter.dictionary.train import train_sae

            card = train_sae(config, out, offline=offline, notify=notifier(quiet), progress=progress)
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
    from geofilter.dictionary.card import in_words

    if as_json:
        print_json(card)
    else:
        for line in in_words(card):
            say(line)
        note(f"to use: geofilter scan data.jsonl --model {card['choice']['model']} --sae {out}")
    if not card["pair"]["ok"]:
        raise TargetError(f"{card['pair']['text']}; train on more tokens, or at another layer")


@app.command("check", cls=Command, epilog="Example: geofilter sae check my-sae --data fresh.jsonl")
@with_settings
def sae_check(
    ctx: typer.Context,
    sae: Annotated[Path, typer.Argument(help="Folder of an SAE, in SAELens' layout.")],
    loading: Loading,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to measure on, as in scan; may be repeated. Default: chat that ships with the package."
        ),
        PER_CALL,
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"{_MODEL} Default: the card's.", rich_help_panel=MODEL), PER_CALL
    ] = None,
    fields: FieldNames = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure an SAE on text it was not trained on, and name what differs from its card.

    Exit 3 when it explains another layer better than its own.
    """
    from geofilter.rows.fields import parse
    from geofilter.rows.gather import gather

    files, _ = gather(data or (), split=None, config=None, offline=offline, notify=notifier(quiet))
    with loading_libraries(quiet):
        from geofilter.dictionary.check import check_sae
    from geofilter.dictionary.card import differences, in_words

    card, measured = check_sae(
        sae, files, model=model, fields=parse(fields), loading=loading, offline=offline, notify=notifier(quiet)
    )
    differ = list(differences(card, measured)) if card else []
    if as_json:
        print_json({**measured, "card": card, "differences": differ})
    else:
        for line in in_words({**{k: v for k, v in (card or {}).items() if k != "dead_features"}, **measured}):
            say(line)
        for text in differ if card else ["the folder has no card"]:
            say(f"  differs      {text}" if card else f"  {text}")
    if not measured["pair"]["ok"]:
        raise TargetError(measured["pair"]["text"])
