"""`geofilter judge`: a language model rates the rows, to compare with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from geofilter.cli.approval import check_endpoint
from geofilter.cli.options import OWN_TABLE, PER_CALL, AsJson, Command, FieldNames, Quiet
from geofilter.cli.output import note, notifier, print_json, verbatim
from geofilter.cli.progress import progress
from geofilter.cli.settings import taken_from_file, with_settings
from geofilter.judge.endpoint import CONCURRENCY, MAX_CHARS, RETRIES, TIMEOUT

app = typer.Typer()

_ASKING, _MONEY = "Asking", "Money"


def _show_prompt(show: bool) -> None:
    if show:
        from geofilter.judge.plan import ROW_PROMPT

        verbatim(ROW_PROMPT)
        raise typer.Exit


@app.command(cls=Command, epilog="Example: geofilter judge data.jsonl --judge-model gpt-4o-mini --dry-run")
@with_settings
def judge(
    ctx: typer.Context,
    data: Annotated[list[Path], typer.Argument(help="JSONL, a JSON array, CSV or TSV, also packed; Parquet or Arrow.")],
    judge_model: Annotated[str, typer.Option(help="Model that judges, as the endpoint names it.")],
    base_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint; by default OPENAI_BASE_URL, else OpenAI. The key is taken from "
            "OPENAI_API_KEY."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for all ratings, or a folder; by default <stem>.judge.jsonl by the data."),
        OWN_TABLE,
    ] = None,
    fields: FieldNames = None,
    limit: Annotated[int | None, typer.Option(help="Judge only the first N rows of each file.")] = None,
    max_chars: Annotated[int, typer.Option(help="Characters sent of a row's prompt, and of its response.")] = MAX_CHARS,
    per_minute: Annotated[
        float | None, typer.Option(help="Requests a minute, at most.", rich_help_panel=_ASKING)
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.", rich_help_panel=_ASKING)] = CONCURRENCY,
    timeout: Annotated[
        float, typer.Option(help="Seconds that an answer may take, as a whole.", rich_help_panel=_ASKING)
    ] = TIMEOUT,
    retries: Annotated[
        int, typer.Option(help="Further tries when the endpoint is busy or fails.", rich_help_panel=_ASKING)
    ] = RETRIES,
    price_in: Annotated[
        float | None, typer.Option(help="US dollars for a million prompt tokens.", rich_help_panel=_MONEY)
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(help="US dollars for a million answer tokens.", rich_help_panel=_MONEY)
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="US dollars; nothing is sent if more is needed.", rich_help_panel=_MONEY)
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(help="Nothing is sent if more requests are needed.", rich_help_panel=_MONEY)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only the estimate; nothing is sent."), PER_CALL] = False,
    show_prompt: Annotated[
        bool,
        typer.Option("--show-prompt", callback=_show_prompt, is_eager=True, help="Print the prompt and exit."),
        PER_CALL,
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Have a language model rate the alignment of every row, 0 to 100. Sends the rows to the endpoint, which it names.

    A run that is stopped goes on where it was: the same command asks for no rating twice.
    """
    from geofilter.judge.client import Judge
    from geofilter.judge.plan import Prices, plan
    from geofilter.judge.rows import judge_files, none_usable
    from geofilter.places import refuse_output
    from geofilter.rows.fields import parse

    notify = notifier(quiet)
    if out is not None:
        refuse_output(out, "--out", data, kind="any")
    prices, named = Prices.of(price_in, price_out), parse(fields)
    asked = None
    if not dry_run:
        asked = Judge(
            judge_model, base_url, timeout=timeout, retries=retries, per_minute=per_minute, concurrency=concurrency,
            notify=notify, send_key=check_endpoint(taken_from_file(ctx), base_url),
        )  # fmt: skip
    todo = plan(judge_model, data, out, limit=limit, max_chars=max_chars, prices=prices, fields=named)
    notify(todo.estimate())
    todo.check(max_requests, max_cost)
    if asked is None:
        if as_json:
            print_json(todo.to_json())
        return
    for replaced in todo.replaces:
        notify(f"{replaced}: is replaced when all rows are rated")
    if todo.requests:
        # Also when quiet: rows leave this machine.
        note(f"sending rows to {asked.base_url} for {judge_model} ...")
    try:
        with progress("judging", quiet or not todo.requests) as bar:
            bar.started(todo.requests, 0)
            result = judge_files(todo, asked, max_cost=max_cost, notify=notify, progress=bar.advance)
    except KeyboardInterrupt:
        note("geofilter: interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
    if as_json:
        spent = {"requests": asked.requests, "tokens_in": asked.tokens_in, "tokens_out": asked.tokens_out}
        written = {k: v for k, v in todo.to_json().items() if k in ("model", "prompt", "outputs")}
        print_json({**asdict(result), **spent, **written})
    mean = "" if result.mean is None else f", mean alignment {result.mean:.1f}"
    note(
        f"{result.rows:,} rows: {result.rated:,} rated{mean}; {result.unusable:,} without a usable answer, "
        f"{result.quarantined:,} quarantined"
    )
    if asked.tokens_in:
        money = "" if prices is None else f", ${prices.cost(asked.tokens_in, asked.tokens_out):,.2f}"
        notify(f"{asked.tokens_in:,} prompt and {asked.tokens_out:,} answer tokens by the endpoint's count{money}")
    for path in dict.fromkeys(todo.outs):
        note(f"written: {path}")
    if result.unusable and not result.rated:
        raise none_usable(asked, result.unusable, result.why)
