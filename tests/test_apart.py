"""Processes of their own that are started ahead, and what a scan loads into its own."""

from helpers.command import write_rows
from helpers.processes import loaded
from helpers.scanning import rows, scan_args

from geofilter import apart
from geofilter.apart import end, end_unused, start, start_ahead

MODULE = "encode.template_apart"
NEEDLESS = {
    "sae_lens", "transformer_lens", "datasets", "pandas", "pyarrow", "wandb", "matplotlib", "plotly", "sklearn", "nltk",
    "statsmodels", "peft", "openai", "gguf", "jsonlines", "scipy.stats", "geofilter.dictionary.train",
}  # fmt: skip


def test_a_process_that_was_started_ahead_is_given_out_once():
    before = start(MODULE, "5.0")
    start_ahead(MODULE, "5.0")
    start_ahead(MODULE, "5.0")
    other, ahead, after = start(MODULE, "4.0"), start(MODULE, "5.0"), start(MODULE, "5.0")
    try:
        assert before.pid < ahead.pid < other.pid < after.pid
    finally:
        for process in (before, other, ahead, after):
            end(process)


def test_what_was_started_ahead_and_ended_is_not_given_out():
    start_ahead(MODULE, "5.0")
    ((_, process),) = apart._AHEAD.values()
    process.kill()
    process.wait()
    end(started := start(MODULE, "5.0"))
    assert started.pid != process.pid
    start_ahead(MODULE, "5.0")
    ((_, process),) = apart._AHEAD.values()
    end_unused()
    assert process.returncode is not None


def test_a_scan_of_a_target_that_is_there_loads_only_what_it_needs(tiny, tiny_bank, tmp_path):
    write_rows(tmp_path / "d.jsonl", rows(6))
    args = ["geofilter", *map(str, scan_args(tiny, tiny_bank, "--run", "run", "-q"))]
    code = f"import os, sys; os.chdir({str(tmp_path)!r}); sys.argv = {args!r}\n" + (
        "from geofilter.cli.app import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    found = loaded(code)
    assert (tmp_path / "run" / "scores.jsonl").is_file()
    assert not found & NEEDLESS
