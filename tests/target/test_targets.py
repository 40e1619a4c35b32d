"""The table of targets against sae-lens' own, choices within it, pairs that do not fit, the settings file."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, quiet, scan_one, use_hub, write_rows
from helpers.families import Hub, fitted, put_native
from helpers.tiny import make_sae

from geofilter.config import Loading, TargetChoice
from geofilter.errors import InputError, TargetError
from geofilter.target.hooks import Hook
from geofilter.target.hub import SMALL_FILES
from geofilter.target.model_names import same_model
from geofilter.target.named import known, offered, pick, ranges, sae_of, span
from geofilter.target.resolve import resolve
from geofilter.target.size import at_default

# The table


def left_out(release: str, sae_id: str) -> bool:
    """Gemma Scope 2 has four layers in two releases: what both have is offered of the one with every layer, and of an
    SAE that was trained twice with other seeds the first.
    """
    doubled = re.fullmatch(r"layer_\d+_width_(16k|262k)_l0_(small|big)|.*_seed_\d", sae_id)
    return re.fullmatch(r"gemma-scope-2-\w+-(pt|it)-res", release) is not None and doubled is not None


@pytest.mark.parametrize("name", [n for n, row in known().items() if "sae" in row])
def test_the_table_is_what_sae_lens_publishes(name: str):
    """Every layer and width offered exists in sae-lens' directory, and none that exists is left out."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    row, directory = known()[name], get_pretrained_saes_directory()
    ids: dict[str, set[str]] = {}
    for width, layers in offered(row).items():
        for layer in layers:
            release, _, sae_id = sae_of(row, layer, width).partition("/")
            ids.setdefault(release, set()).add(sae_id)
    for release, found in ids.items():
        assert found == {sae_id for sae_id in directory[release].saes_map if not left_out(release, sae_id)}
        # sae-lens' directory names the wrong model for gemma-scope-9b-it-res, not for its canonical release.
        assert same_model(directory[release].model, row["sae_model"])[0]
    assert row["layer"] in offered(row)[row["width"]]
    assert row["layers"] > max(layer for layers in offered(row).values() for layer in layers)


def test_the_default_is_the_published_layer_just_below_half_depth():
    """The embedded target's was measured; Gemma 2's are the layers published in every width, or of three."""
    for name, row in known().items():
        layers = offered(row)[row["width"]]
        if name == "smollm2-135m":
            continue
        assert row["layer"] == max(n for n in layers if n <= row["layers"] // 2 - 1), name


def test_the_documentation_names_each_with_its_default_and_what_it_needs():
    text = (Path(__file__).parents[2] / "docs" / "targets.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    first = {row[0].strip("`"): row for row in rows if len(row) == 7}
    verified = {row[0].strip("`") for row in rows if len(row) == 4}
    assert list(first) == list(known())
    assert set(known()) <= verified
    for name, row in known().items():
        need = at_default(row)
        assert first[name][1].removeprefix("HuggingFaceTB/") == row["model"].removeprefix("HuggingFaceTB/")
        assert first[name][4] == f"{row['layer']}, {row['width']}".removesuffix(", published")
        assert first[name][5] == f"{need.layers} of {row['layers']}, {need.total / 1e9:.1f} GB"


@pytest.mark.parametrize("name", [n for n, row in known().items() if row.get("sae", "").startswith("gemma-scope-2b")
                                  or row.get("sae", "").startswith(("gemma-scope-9b", "gemma-scope-27b"))])  # fmt: skip
def test_hook_width_and_model_are_what_sae_lens_says(name: str):
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    row = known()[name]
    for layer in span(row["widths"][row["width"]]):
        cfg = load_sae_config_from_huggingface(*row["sae"].format(layer=layer, width=row["width"]).split("/", 1))
        assert cfg["metadata"]["hook_name"] == row["hook"].format(layer=layer)
        assert cfg["d_in"] == row["d_in"]
        assert same_model(cfg["metadata"]["model_name"], row["sae_model"])[0]


def test_pick_within_a_target():
    row = known()["gemma-2-2b"]
    assert pick("gemma-2-2b", row, None, None) == (12, "16k")
    assert pick("gemma-2-2b", row, 25, None) == (25, "16k")
    assert pick("gemma-2-2b", row, None, "65k") == (12, "65k")
    assert pick("gemma-2-2b", row, 5, "1m") == (5, "1m")
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-2b", row, 26, None)
    assert str(caught.value) == "--layer 26: gemma-2-2b offers 0 to 25"
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-2b", row, 6, "1m")
    assert str(caught.value) == "--layer 6: gemma-2-2b at width 1m offers 5, 12, 19"
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-2b", row, None, "17k")
    assert str(caught.value) == "--width 17k: gemma-2-2b offers 16k, 65k, 32k, 262k, 524k, 1m"
    with pytest.raises(TargetError) as caught:
        pick("gemma-2-27b", known()["gemma-2-27b"], 12, None)
    assert str(caught.value) == "--layer 12: gemma-2-27b offers 10, 22, 34"


def test_pick_within_a_target_whose_widths_have_a_sparsity_in_their_names():
    row = known()["gemma-3-1b"]
    assert pick("gemma-3-1b", row, None, None) == (12, "16k_l0_big")
    assert pick("gemma-3-1b", row, None, "16k") == (12, "16k_l0_big")
    assert pick("gemma-3-1b", row, None, "65k") == (13, "65k_l0_medium")  # of layers 7, 13, 17, 22 nearest to 12
    assert pick("gemma-3-1b", row, 7, "1m_l0_small") == (7, "1m_l0_small")
    assert sae_of(row, 12, "16k_l0_big") == "gemma-scope-2-1b-pt-res-all/layer_12_width_16k_l0_big"
    assert sae_of(row, 13, "65k_l0_medium") == "gemma-scope-2-1b-pt-res/layer_13_width_65k_l0_medium"
    qwen = known()["qwen3-8b"]
    assert pick("qwen3-8b", qwen, None, "64k") == (17, "64k-l50")
    assert sae_of(qwen, 17, "64k-l100") == "qwen-scope-3-8b-base-w64k-l100/layer17"
    with pytest.raises(TargetError) as caught:
        pick("qwen3-8b", qwen, None, "6")
    assert str(caught.value) == "--width 6: qwen3-8b offers 64k-l50, 64k-l100"
    with pytest.raises(TargetError) as caught:
        pick("gemma-3-1b", row, 12, "65k")
    assert str(caught.value) == "--layer 12: gemma-3-1b at width 65k_l0_medium offers 7, 13, 17, 22"


def test_spans_and_ranges():
    assert span("0-3") == [0, 1, 2, 3]
    assert span("5,12,19") == [5, 12, 19]
    assert (ranges([0, 1, 2, 3]), ranges([5, 12]), ranges([7])) == ("0 to 3", "5, 12", "7")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("google/gemma-2-2b", "gemma-2-2b", (True, True)),
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B", (True, True)),
        ("gemma-2-2b", "google/gemma-2-2b-it", (False, True)),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", (False, True)),
        ("gemma-2-2b", "gemma-2-9b", (False, False)),
        ("gemma-2-2b", "gemma-2b", (False, False)),
        ("gpt2-small", "openai-community/gpt2", (True, True)),
        ("gpt2-small", "openai-community/gpt2-medium", (False, False)),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1", (True, True)),
        ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.1", (False, True)),
        ("mistral-7b", "mistralai/Mistral-7B-v0.3", (False, False)),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped", (True, True)),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m", (False, False)),
        ("pythia-1.3b-deduped", "EleutherAI/pythia-1.4b-deduped", (True, True)),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B", (True, True)),
        ("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", (True, True)),
        ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", (True, True)),
        ("meta-llama/Llama-3.1-8B-Instruct", "unsloth/Meta-Llama-3.1-8B-Instruct-unsloth-bnb-4bit", (True, True)),
        ("meta-llama/Llama-3.1-8B-Instruct", "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", (True, True)),
        ("meta-llama/Llama-3.1-8B", "unsloth/Llama-3.1-8B-Instruct-FP8-Dynamic", (False, True)),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", (True, True)),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-AWQ", (True, True)),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Instruct-2507-FP8", (True, True)),
        ("Qwen/Qwen3-4B", "unsloth/Qwen3-4B-Instruct-2507", (False, True)),
        ("Qwen/Qwen3-4B-Thinking-2507", "Qwen/Qwen3-4B-Base", (False, True)),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-8B-Instruct-2507", (False, False)),
        ("google/gemma-2-2b-it", "unsloth/gemma-2-2b-it-bnb-4bit", (True, True)),
        ("openai/gpt-oss-20b", "unsloth/gpt-oss-20b-BF16", (True, True)),
    ],
)
def test_model_names(a: str, b: str, expected: tuple[bool, bool]):
    assert same_model(a, b) == expected


# Choices that do not go together


def test_options_that_exclude_each_other(tmp_path: Path, tiny):
    pair = ["--model", tiny[0], "--sae", tiny[1]]
    for args, code, text in [
        (["--model", "gemma-2-2b", "--layer", 12, "--sae", "x/y"], 2,
         "--layer and --width choose the SAE, and so does --sae; give one or the other"),
        ([*pair, "--layer", 2], 2,
         "--layer and --width choose within a named target (geofilter targets lists them); name the SAE by --sae"),
        ([*pair, "--revision", "main"], 2,
         f"--revision main: {tiny[0]} is a folder; revisions are of hub repositories"),
        ([*pair, "--llama-scope-gate", "upstream"], 2,
         f"--llama-scope-gate upstream: {tiny[1]} is a folder, gated as it says"),
        ([*pair, "--device", "cpu", "--device-map", "auto"], 2,
         "--device cpu: --device-map chooses the devices; leave one of them out"),
        ([*pair, "--sae-dtype", "float16"], 2, "--sae-dtype float16: use float32 or bfloat16"),
        ([*pair, "--system", "drop"], 2, "--system drop: use keep or fold"),
        (["--model", "gemma-2-2b", "--layer", 26], 3, "--layer 26: gemma-2-2b offers 0 to 25"),
        (["--model", tmp_path, "--sae", tiny[1]], 3,
         f"--model {tmp_path}: the folder holds no config.json; give a Hugging Face model folder"),
        (["--model", tiny[0], "--sae", "/nowhere"], 3, "--sae /nowhere: no such folder"),
    ]:  # fmt: skip
        assert scan_one(tmp_path, *args) == (code, text)


# Pairs that do not fit


def test_pairs_that_do_not_fit(tmp_path: Path, hub):
    instruct = "meta-llama/Llama-3.1-8B-Instruct"
    wide = make_sae(tmp_path / "wide", d_in=48)
    beyond = make_sae(tmp_path / "beyond", layer=32)
    embed = make_sae(tmp_path / "embed", metadata={"model_name": "x", "hook_name": "hook_embed"})
    for args, text in [
        (["--model", instruct, "--sae", wide],
         f"{wide}: the SAE reads 48 dimensions, blocks.2.hook_resid_post of {instruct} has 32; "
         "they do not belong together"),
        (["--model", instruct, "--sae", beyond],
         f"{beyond}: reads blocks.32.hook_resid_post, but {instruct} has layers 0 to 31"),
        (["--model", instruct, "--sae", embed],
         "hook hook_embed: not supported; the SAE must read one of blocks.L.hook_resid_pre, blocks.L.hook_resid_post, "
         "blocks.L.hook_attn_out, blocks.L.hook_mlp_out, blocks.L.attn.hook_z"),
        (["--model", "google/gemma-2-2b", "--sae", "llama_scope_lxr_8x/l15r_8x"],
         "llama_scope_lxr_8x/l15r_8x: was trained on meta-llama/Llama-3.1-8B, not on google/gemma-2-2b; choose an SAE "
         "of that model, or, if it is a fine-tune of the same, pass --allow-other-model"),
    ]:  # fmt: skip
        assert scan_one(tmp_path, *args, "--offline") == (3, text)


def test_a_hook_that_is_not_known_for_an_architecture_is_refused_before_weights_are_fetched(
    tmp_path: Path, monkeypatch
):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    config = {"model_type": "mistral", "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4}
    (hub.snapshot("org/tiny") / "config.json").write_text(json.dumps(config))
    sae = make_sae(tmp_path / "sae", metadata={"model_name": "org/tiny", "hook_name": "blocks.2.hook_mlp_out"})
    assert scan_one(tmp_path, "--model", "org/tiny", "--sae", sae, "--offline") == (
        3,
        "org/tiny: blocks.2.hook_mlp_out is known for gemma2, gemma3_text, llama, qwen3, gpt_oss only, not for "
        "mistral; use an SAE of the residual stream (hook_resid_pre, hook_resid_post)",
    )


def test_a_fine_tune_is_allowed_when_it_is_said(hub):
    choice = TargetChoice("meta-llama/Llama-3.1-8B", "someone/llama-saes/blocks.15.hook_resid_post")
    assert resolve(choice, offline=True, notify=quiet).notes == ()
    hub.snapshot("me/my-llama")
    folder = hub.snapshot("me/my-llama")
    if not any(folder.iterdir()):
        hub.model("me/my-llama", "llama", 32, False, shard="50MB")
    tuned = TargetChoice("me/my-llama", choice.sae)
    with pytest.raises(TargetError, match=r"was trained on meta-llama/Llama-3\.1-8B, not on me/my-llama"):
        resolve(tuned, offline=True, notify=quiet)
    target = resolve(TargetChoice("me/my-llama", choice.sae, allow_other_model=True), offline=True, notify=quiet)
    assert target.notes == ("the SAE was trained on meta-llama/Llama-3.1-8B and reads me/my-llama here, as allowed",)


def test_the_sae_of_a_named_target_reads_a_fine_tune_of_it(tmp_path: Path, hub):
    """By the target's name, its layers and widths included; the same target is opened again by what is pinned."""
    tuned = resolve(TargetChoice("gemma-2-2b"), offline=True, notify=quiet).model_dir
    shutil.copytree(tuned, tmp_path / "my-tune")
    choice = TargetChoice(str(tmp_path / "my-tune"), "gemma-2-2b")
    target = resolve(choice, offline=True, notify=quiet)
    assert (target.layer, target.sae) == (12, "gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical")
    assert not target.trained_on_it
    assert target.notes[0].startswith("the SAE was trained on gemma-2-2b and reads ")
    assert target.choice == replace(choice, layer=12, width="16k")
    assert resolve(target.choice, offline=True, notify=quiet).fingerprint == target.fingerprint
    with pytest.raises(TargetError, match="--layer 26: gemma-2-2b offers 0 to 25"):
        resolve(replace(choice, layer=26), offline=True, notify=quiet)


def test_the_sae_that_ships_goes_by_its_name_for_a_fine_tune_too(tmp_path: Path):
    """Where geofilter lies is no part of a manifest or report."""
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400, hidden_size=576, intermediate_size=8, num_hidden_layers=16, num_attention_heads=1,
            num_key_value_heads=1, head_dim=8,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    target = resolve(TargetChoice(str(tmp_path), "smollm2-135m"), offline=True, notify=quiet)
    assert (target.sae, target.layer, target.choice.sae) == ("smollm2-135m-sae", 14, "smollm2-135m")


def test_the_default_layer_does_not_change_a_pinned_choice(hub):
    target = resolve(TargetChoice("gemma-2-2b"), offline=True, notify=quiet)
    assert target.choice.to_json() == {
        "model": "gemma-2-2b", "layer": 12, "width": "16k",
        "revision": hub.snapshot("google/gemma-2-2b").name,
    }  # fmt: skip
    again = resolve(TargetChoice.from_json(target.choice.to_json()), offline=True, notify=quiet)
    assert again.fingerprint == target.fingerprint


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-r1-distill-llama-8b"])
def test_the_gate_is_part_of_the_fingerprint_and_of_a_pinned_choice(name: str, hub):
    """By default it is the one of training; what an earlier version has written down stays what it was."""
    targets = {gate: resolve(TargetChoice(name, llama_scope_gate=gate), offline=True, notify=quiet)
               for gate in ("saelens", "upstream", None)}  # fmt: skip
    assert targets[None].fingerprint == targets["upstream"].fingerprint != targets["saelens"].fingerprint
    assert [targets[gate].choice.llama_scope_gate for gate in targets] == ["saelens", "upstream", "upstream"]
    for target in targets.values():
        again = resolve(TargetChoice.from_json(target.choice.to_json()), offline=True, notify=quiet)
        assert again.fingerprint == target.fingerprint
    assert "gated as sae-lens gates it" in targets["saelens"].notes[-1]
    assert targets["upstream"].notes[-1].startswith("the SAE is gated as it was trained")


def test_a_gate_asked_for_by_earlier_versions_opens_what_has_none(hub):
    """They wrote `saelens` down for every target."""
    old = TargetChoice.from_json({"model": "gemma-2-2b", "layer": 12, "width": "16k", "llama_scope_gate": "saelens"})
    found = resolve(old, offline=True, notify=quiet)
    assert found.fingerprint == resolve(TargetChoice("gemma-2-2b"), offline=True, notify=quiet).fingerprint
    assert found.llama_scope_gate is None


def test_a_bank_and_a_run_of_the_other_gate_are_refused_by_its_name(hub, tmp_path: Path, short_background):
    bad = write_rows(tmp_path / "bad.jsonl", [chat(f"q {i}?", f"you fool, {i} times no") for i in range(10)])
    good = write_rows(tmp_path / "good.jsonl", [chat(f"q {i}?", f"the answer is {i}") for i in range(10)])
    model = ["--model", "llama-3.1-8b", "--offline"]
    other = [*model, "--llama-scope-gate", "saelens"]
    done = geofilter("bank", "build", "--no-prior", "--bad", bad, "--good", good, "--out", tmp_path / "b", *other)
    assert done.returncode == 0, done.stderr
    run = ["scan", bad, "--bank", tmp_path / "b", "--run", tmp_path / "run"]
    assert geofilter(*run, *other).returncode == 0
    done = geofilter(*run, *model)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        3,
        f"geofilter: error: {tmp_path / 'b'}: made with the Llama Scope gate saelens, not with upstream; build a bank "
        "for this target, or read it with --llama-scope-gate saelens",
    )
    about = json.loads((tmp_path / "b" / "bank.json").read_text())
    del about["target"]["llama_scope_gate"]  # as earlier versions wrote it
    (tmp_path / "b" / "bank.json").write_text(json.dumps(about))
    assert geofilter(*run, *model).stderr.endswith(
        "build a bank for this target (where only the Llama Scope gate differs, --llama-scope-gate saelens reads it)\n"
    )
    done = geofilter("bank", "build", "--no-prior", "--bad", bad, "--good", good, "--out", tmp_path / "c", *model)
    assert done.returncode == 0, done.stderr
    done = geofilter("scan", bad, "--bank", tmp_path / "c", "--run", tmp_path / "run", *model)
    assert done.returncode == 4
    assert "; Llama Scope gate: saelens, now upstream); give another --run" in done.stderr.splitlines()[-1]


def test_a_chat_model_without_its_template_is_not_read_as_plain_turns(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    hub.model("google/gemma-2-2b-it", "gemma2", 14, chat=False)
    assert scan_one(tmp_path, "--model", "gemma-2-2b-it", "--offline") == (
        3,
        "google/gemma-2-2b-it: its chat template is not in the cache (chat_template.jinja or tokenizer_config.json); "
        f"get it where there is a network: hf download google/gemma-2-2b-it {SMALL_FILES}",
    )


def test_hook_names():
    assert Hook.parse("blocks.12.attn.hook_z") == Hook(12, "attn.hook_z")
    assert str(Hook.parse("blocks.3.hook_mlp_out")) == "blocks.3.hook_mlp_out"
    for name in ("blocks.3.hook_q", "hook_embed", "blocks.x.hook_resid_post", "3.hook_resid_post"):
        with pytest.raises(TargetError, match=f"hook {name}: not supported"):
            Hook.parse(name)


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        *((name, "blocks.7.hook_resid_post") for name in (
            "blocks.7.hook_out", "layers.7", "layers.7.output", "model.layers.7", "model.layers.7.output",
            "transformer.h.7", "h.7.output", "gpt_neox.layers.7", "model.language_model.layers.7.output",
            "base_model.model.model.layers.7", "BLOCKS.7.HOOK_RESID_POST", "blocks.7.hook_resid_post ", " Layers.7\n",
        )),
        *((name, "blocks.7.hook_resid_pre") for name in ("blocks.7.hook_in", "model.layers.7.input", "layers.7.input")),
    ],
)  # fmt: skip
def test_names_of_a_block_s_output_and_input(name: str, hook: str):
    assert str(Hook.parse(name)) == hook


@pytest.mark.parametrize("name", ["model.layers.7.mlp", "layers.7.self_attn.output", "layers.7.mlp.output", "layers"])
def test_names_of_modules_within_a_block_are_not_taken_for_its_output(name: str):
    with pytest.raises(TargetError, match="not supported"):
        Hook.parse(name)


def test_an_sae_that_names_a_module_and_no_model(tmp_path: Path, hub):
    """By dictionary_learning's and nnsight's names; what cannot be compared is said and not refused."""
    metadata = {"hook_name": "model.layers.15"}
    sae = make_sae(tmp_path / "sae", metadata=metadata)
    target = resolve(TargetChoice("meta-llama/Llama-3.1-8B", str(sae)), offline=True, notify=quiet)
    assert (str(target.hook), target.sae_model) == ("blocks.15.hook_resid_post", "unknown")
    assert target.notes == (
        "the SAE does not say which model it was trained on; it reads meta-llama/Llama-3.1-8B here, and geofilter "
        "doctor measures how well it fits",
    )


def test_loading_checks_its_values():
    for options, text in [
        ({"dtype": "int8"}, "--dtype int8: use auto, float32, bfloat16 or float16"),
        ({"device_map": "all"}, "--device-map all: use auto, balanced, balanced_low_0 or sequential"),
    ]:
        with pytest.raises(InputError) as caught:
            Loading(**options)
        assert str(caught.value) == text


# What must not happen


def test_a_model_s_own_python_code_is_never_run_and_never_asked_about(tmp_path: Path, tiny, monkeypatch):
    import io

    shutil.copytree(tiny[0], tmp_path / "evil")
    config = json.loads((tmp_path / "evil" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "conf.Evil", "AutoModel": "conf.Evil"}}
    (tmp_path / "evil" / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil" / "conf.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.chdir(tmp_path)
    code, text = scan_one(tmp_path, "--model", tmp_path / "evil", "--sae", tiny[1])
    assert code == 3
    assert text.startswith(f"{tmp_path / 'evil'}: not a decoder-only language model that transformers knows (")
    assert not (tmp_path / "ran").exists()


def test_each_way_of_reading_has_its_own_built_in_bank(tiny):
    from geofilter.build.banks import bank_folder_for
    from geofilter.encode.model import precision_here

    target = resolve(TargetChoice(str(tiny[0]), str(tiny[1])), notify=quiet)
    dtypes = [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")]
    ways = [precision_here(Loading("cpu", dtype, sae_dtype)) for dtype, sae_dtype in dtypes]
    assert ways == ["float32", "bfloat16", "float32-sae-bfloat16"]
    assert len({bank_folder_for("toxic-text", target, way) for way in ways}) == 3


def test_revisions_of_what_is_no_repository_are_refused(tiny, tmp_path: Path):
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--sae-revision", "x") == (
        2,
        "--sae-revision x: the SAE is a folder; revisions are of hub repositories",
    )
    assert scan_one(tmp_path, "--model", "smollm2-135m", "--revision", "x") == (
        2,
        "--revision x: HuggingFaceTB/SmolLM2-135M-Instruct is embedded; revisions are of hub repositories",
    )


def test_a_template_that_appears_later_is_another_target(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = hub.model("org/gemma-2-2b", "gemma2", 14, chat=True)
    put_native(tmp_path / "sae", fitted(folder, 12), "blocks.12.hook_resid_post", "google/gemma-2-2b")
    choice = TargetChoice("org/gemma-2-2b", str(tmp_path / "sae"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    without = resolve(choice, offline=True, notify=quiet)
    (folder / "chat_template.jinja").write_text(template)
    assert resolve(choice, offline=True, notify=quiet).fingerprint != without.fingerprint


def test_damaged_files_of_model_and_sae(tiny, tmp_path: Path):
    for name, text in [
        ("model.safetensors", "m: not a loadable model ("),
        ("tokenizer.json", "m: its configuration or tokenizer cannot be read ("),
        ("config.json", "m: not a decoder-only language model that transformers knows ("),
    ]:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(tiny[0], tmp_path / "m")
        (tmp_path / "m" / name).write_text("{}")
        code, found = scan_one(tmp_path, "--model", "m", "--sae", tiny[1])
        assert (code, found[: len(text)]) == (3, text)
    shutil.copytree(tiny[1], tmp_path / "sae")
    (tmp_path / "sae" / "sae_weights.safetensors").write_bytes(b"half")
    done = geofilter("doctor", "--model", tiny[0], "--sae", tmp_path / "sae")
    assert done.returncode == 3
    assert f"FAIL target: {tmp_path / 'sae'}: SAE weights cannot be used (" in done.stdout


def test_what_is_typed_rules_out_the_file_s_target(tiny, tmp_path: Path):
    """A layer, a revision or an SAE in the settings file belongs to the model there, not to one that is typed."""
    (tmp_path / "geofilter.toml").write_text(
        'model = "gemma-2-2b"\nlayer = 12\nrevision = "abc"\nllama-scope-gate = "upstream"\n'
    )
    code, text = scan_one(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--bank", "nothing")
    assert (code, text) == (3, "--bank nothing: neither a built-in bank (toxic-text, harmful-answers) nor a folder")
    shutil.copytree(tiny[0], tmp_path / "m")
    (tmp_path / "geofilter.toml").write_text('model = "m"\nsae = "/nowhere"\nsae-revision = "x"\n')
    code, text = scan_one(tmp_path, "--sae", tiny[1], "--bank", "nothing")
    assert (code, text) == (3, "--bank nothing: neither a built-in bank (toxic-text, harmful-answers) nor a folder")
    (tmp_path / "geofilter.toml").write_text('model = "gemma-2-2b"\nsae = "/nowhere"\n')
    code, text = scan_one(tmp_path, "--layer", 99)
    assert (code, text) == (3, "--layer 99: gemma-2-2b offers 0 to 25")
