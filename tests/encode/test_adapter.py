"""LoRA adapters: merged as peft merges them, never by accident, and recorded."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers as hf
from helpers.command import chat, geofilter, quiet, scan_one, write_rows
from helpers.families import Hub, family_model
from helpers.tiny import LAYER, N_LAYERS, make_adapter, make_model, make_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from geofilter.config import Loading, TargetChoice
from geofilter.encode.blocks import decoder_layers
from geofilter.encode.model import ResidualModel
from geofilter.encode.tokens import Window
from geofilter.encode.whole import whole
from geofilter.errors import InputError, TargetError
from geofilter.target.resolve import locate, resolve
from geofilter.trial.config import Recipe
from geofilter.trial.tune import Budget, tune

FLOAT32 = Loading("cpu", "float32")
IDS = torch.tensor([[5, 9, 33, 70, 120, 201, 7, 8]])


@pytest.fixture(scope="session")
def adapter(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "tuned", tiny[0])


def residual(model: Path, layer: int = LAYER, adapter: Path | None = None) -> torch.Tensor:
    read = ResidualModel(model, [layer], FLOAT32, adapter=adapter)
    return read.residuals(IDS, torch.ones_like(IDS))[layer]


def by_peft(model: Path, adapter: Path, layer: int = LAYER) -> torch.Tensor:
    """Output of a block of the whole model, merged by peft alone."""
    whole = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    merged = peft.PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload().eval()
    seen = []
    block = decoder_layers(merged, model)[layer]
    block.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.inference_mode():
        merged(input_ids=IDS)
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_the_residual_is_that_of_the_model_that_peft_merges(tiny, adapter: Path, layer: int):
    found = residual(tiny[0], layer, adapter)
    assert torch.equal(found, by_peft(tiny[0], adapter, layer))
    assert not torch.allclose(found, residual(tiny[0], layer))


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": r".*model\.layers\.\d+\.self_attn\.(q|v)_proj"},
        {"target_modules": "all-linear", "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["o_proj"], "layers_to_transform": [0, 3]},
        {"target_modules": ["up_proj"], "use_rslora": True, "rank_pattern": {"layers.1.mlp.up_proj": 2}},
        {"target_modules": ["v_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    ],
    ids=["pattern", "saved modules", "some layers", "ranks", "dora", "embedding"],
)
def test_other_kinds_of_lora(tiny, tmp_path: Path, lora: dict):
    adapter = make_adapter(tmp_path / "a", tiny[0], **lora)
    assert torch.allclose(residual(tiny[0], LAYER, adapter), by_peft(tiny[0], adapter), atol=1e-6)


SIZES = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
OTHERS = {
    "gemma2": lambda: family_model("gemma2", 4),
    "gpt_oss": lambda: family_model("gpt_oss", 4),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=400, n_embd=32, n_layer=4, n_head=4)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES, intermediate_size=64)),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, num_local_experts=4)
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_families(kind: str, tmp_path: Path):
    """Blocks under other names, weights the other way round (GPT-2), experts."""
    torch.manual_seed(0)
    OTHERS[kind]().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    adapter = make_adapter(tmp_path / "a", tmp_path / "model", target_modules="all-linear")
    found = residual(tmp_path / "model", LAYER, adapter)
    assert torch.equal(found, by_peft(tmp_path / "model", adapter))
    assert not torch.allclose(found, residual(tmp_path / "model"), rtol=0.1)


def test_an_adapter_of_the_bare_decoder(tiny, tmp_path: Path, adapter: Path):
    shutil.copytree(adapter, tmp_path / "a")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k.replace("base_model.model.model.", "base_model.model."): v for k, v in weights.items()},
              tmp_path / "a" / "adapter_model.safetensors")  # fmt: skip
    assert torch.equal(residual(tiny[0], LAYER, tmp_path / "a"), residual(tiny[0], LAYER, adapter))


def test_layers_that_are_not_read_are_not_needed(tiny, tmp_path: Path):
    last = make_adapter(tmp_path / "a", tiny[0], layers_to_transform=[N_LAYERS - 1])
    assert torch.equal(residual(tiny[0], LAYER, last), residual(tiny[0], LAYER))
    assert torch.equal(residual(tiny[0], N_LAYERS - 1, last), by_peft(tiny[0], last, N_LAYERS - 1))


def test_the_whole_model_has_the_adapter_in_all_layers_and_the_head(tiny, tmp_path: Path):
    adapter = make_adapter(tmp_path / "a", tiny[0], modules_to_save=["lm_head"])
    model, _ = whole(tiny[0], FLOAT32, adapter)
    base = AutoModelForCausalLM.from_pretrained(tiny[0], dtype="float32")
    merged = peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().eval()
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS).logits, merged(input_ids=IDS).logits)
        assert not torch.allclose(model(input_ids=IDS).logits, whole(tiny[0], FLOAT32)[0](input_ids=IDS).logits)


def test_a_trial_goes_on_from_the_merged_model(tiny, tmp_path: Path, adapter: Path):
    """As from a folder that holds the merged weights."""
    merged, tokenizer = whole(tiny[0], FLOAT32, adapter)
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    rows = [Window((5, 9, 33, 70, 120 + i), (False, False, True, True, True)) for i in range(8)]
    recipe = Recipe(epochs=1, batch_rows=4)
    about = [
        tune(folder, rows, recipe, Budget.of(rows, recipe), FLOAT32, 0, given)[2]
        for folder, given in ((tiny[0], adapter), (tmp_path / "merged", None), (tiny[0], None))
    ]
    assert about[0] == about[1] != about[2]


@pytest.mark.parametrize("installed", [True, False])
def test_an_adapter_that_lies_beside_the_weights_is_not_read_and_said(
    tiny, tmp_path: Path, adapter: Path, monkeypatch, installed: bool
):
    """transformers would apply it where peft is installed, and not where it is not."""
    both = tmp_path / "both"
    shutil.copytree(tiny[0], both)
    for path in adapter.iterdir():
        shutil.copy(path, both)
    for module in ("models.auto.auto_factory", "integrations.peft"):
        monkeypatch.setattr(f"transformers.{module}.is_peft_available", lambda *_: installed)
    assert torch.equal(residual(both), residual(tiny[0]))
    assert torch.equal(whole(both, FLOAT32)[0](input_ids=IDS).logits, whole(tiny[0], FLOAT32)[0](input_ids=IDS).logits)
    plain, found, asked = (
        resolve(TargetChoice(str(model), str(tiny[1]), adapter=said), notify=quiet)
        for model, said in ((tiny[0], None), (both, None), (both, str(both)))
    )
    assert found.fingerprint == plain.fingerprint != asked.fingerprint
    assert f"{both} also holds a LoRA adapter, which is not applied; --adapter {both} applies it" in found.notes
    assert torch.equal(residual(both, LAYER, asked.adapter_dir), residual(tiny[0], LAYER, adapter))


@pytest.mark.parametrize("beside", ["base", "../base"])
def test_an_adapter_alone_is_read_with_its_base(tiny, tmp_path: Path, adapter: Path, beside: str):
    shutil.copytree(adapter, tmp_path / "tuned")
    shutil.copytree(tiny[0], (tmp_path / "tuned" / beside).resolve())
    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    (tmp_path / "tuned" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": beside}))
    target = resolve(TargetChoice(str(tmp_path / "tuned"), str(tiny[1])), notify=quiet)
    base = (tmp_path / "tuned" / beside).resolve()
    said = resolve(TargetChoice(str(tiny[0]), str(tiny[1]), adapter=str(adapter)), notify=quiet)
    assert (target.model, target.adapter_dir) == (str(base), tmp_path / "tuned")
    assert f"the LoRA adapter {tmp_path / 'tuned'} is merged into {base} before it is read" in target.notes
    assert resolve(target.choice, offline=True, notify=quiet).fingerprint == target.fingerprint
    assert said.choice.to_json()["adapter"] == str(adapter)


def test_the_adapter_is_in_the_fingerprint(tiny, tmp_path: Path, adapter: Path):
    def fingerprint(folder: Path | None) -> str:
        choice = TargetChoice(str(tiny[0]), str(tiny[1]), adapter=folder and str(folder))
        return resolve(choice, notify=quiet).fingerprint

    other = make_adapter(tmp_path / "a", tiny[0], r=2)
    scaled = shutil.copytree(adapter, tmp_path / "b")
    config = json.loads((scaled / "adapter_config.json").read_text())
    (scaled / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    assert len({fingerprint(folder) for folder in (None, adapter, other, scaled)}) == 4


def test_a_scan_with_an_adapter_and_what_it_records(tiny, tmp_path: Path, tiny_bank: Path, short_background):
    adapter = make_adapter(tmp_path / "tuned", tiny[0], size=0.05)
    write_rows(tmp_path / "d.jsonl", [chat(f"q{i}", f"the answer is {i}") for i in range(6)])
    bank = ["--bad", tmp_path / "bad.jsonl", "--good", tmp_path / "good.jsonl", "--out", tmp_path / "bank"]
    write_rows(tmp_path / "bad.jsonl", [chat(f"q{i}", f"you fool, {i} times no") for i in range(12)])
    write_rows(tmp_path / "good.jsonl", [chat(f"q{i}", f"the answer is that {i} works") for i in range(12)])
    target = ["--model", tiny[0], "--sae", tiny[1], "--adapter", adapter]
    done = geofilter("bank", "build", *bank, "--no-prior", *target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("scan", "d.jsonl", *target, "--bank", tmp_path / "bank", "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "run" / "manifest.json").read_text())["target"]
    assert about["choice"]["adapter"] == str(adapter)
    assert f"the LoRA adapter {adapter} is merged into {tiny[0]} before it is read" in about["notes"]
    assert about["notes"][-1].startswith("the SAE is the base's and explains 0.")
    assert geofilter("explain", "run", "--row", 2, cwd=tmp_path).returncode == 0
    # A bank of the bare model is another target's.
    code, text = scan_one(tmp_path, *target, "--bank", tiny_bank)
    assert code == 3 and "not for this one" in text


def test_an_adapter_of_the_hub_by_name_and_as_the_model(tmp_path: Path, tiny, adapter: Path, monkeypatch):
    from helpers.command import use_hub

    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    make_model(hub.snapshot("org/tiny"))
    there = make_adapter(hub.snapshot("me/tuned"), tiny[0], base="org/tiny")
    pinned = f"me/tuned@{there.name}"
    for choice in (
        TargetChoice("me/tuned", str(tiny[1])),
        TargetChoice("org/tiny", str(tiny[1]), adapter="me/tuned"),
        TargetChoice("org/tiny", str(tiny[1]), adapter=pinned),
    ):
        target = resolve(choice, offline=True, notify=quiet)
        assert (target.model, target.adapter_dir, target.choice.adapter) == ("org/tiny", there, pinned)
        assert f"the LoRA adapter {pinned} is merged into org/tiny before it is read" in target.notes
    # Some trainers put the model's configuration beside the adapter.
    shutil.copy(tiny[0] / "config.json", there)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (there.parents[1] / ".no_exist" / there.name).mkdir(parents=True, exist_ok=True)
        (there.parents[1] / ".no_exist" / there.name / name).touch()
    target = resolve(TargetChoice("me/tuned", str(tiny[1]), allow_other_model=True), offline=True, notify=quiet)
    assert (target.model, target.choice.adapter) == ("org/tiny", pinned)
    make_model(hub.snapshot("org/other"))
    other = resolve(TargetChoice("org/other", str(tiny[1]), adapter=pinned, allow_other_model=True), notify=quiet)
    assert other.notes[-1].endswith("merged into org/other before it is read; it names org/tiny as its base")
    (there / "adapter_model.safetensors").unlink()
    (there / "config.json").unlink()
    with pytest.raises(TargetError, match=r"^me/tuned: adapter_model\.safetensors is not in the cache"):
        resolve(TargetChoice("me/tuned", str(tiny[1])), offline=True, notify=quiet)


def test_an_adapter_of_a_named_target_s_model_has_that_target_s_sae(hub, tmp_path: Path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "google/gemma-2-2b"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    plain = resolve(TargetChoice("gemma-2-2b", layer=12), offline=True, notify=quiet)
    target = resolve(TargetChoice(str(folder), layer=12), offline=True, notify=quiet)
    assert (target.name, target.sae, target.adapter_dir) == ("gemma-2-2b", plain.sae, folder)
    assert locate(TargetChoice(str(folder)), quiet)[1] == []


def test_adapters_that_cannot_be_used(tiny, tmp_path: Path, adapter: Path):
    def changed(name: str, **config) -> Path:
        shutil.copytree(adapter, tmp_path / name)
        old = json.loads((tmp_path / name / "adapter_config.json").read_text())
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({**old, **config}))
        return tmp_path / name

    pickled = changed("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    damaged = changed("damaged")
    (damaged / "adapter_config.json").write_text("[")
    for folder, text in [
        (changed("soft", peft_type="PROMPT_TUNING"),
         f"--adapter {tmp_path / 'soft'}: is of the kind PROMPT_TUNING; only LoRA can be merged: give a LoRA adapter"),
        (pickled, f"--adapter {pickled}: has no adapter_model.safetensors; weights must be safetensors, save the "
                  "adapter anew with peft"),
        (damaged, f"{damaged / 'adapter_config.json'}: cannot be read (Expecting value: line 1 column 2 (char 1)); an "
                  "adapter is a folder that peft has saved"),
        ("nowhere", "--adapter nowhere: neither a folder nor a hub id (ORG/REPO or ORG/REPO@REVISION)"),
    ]:  # fmt: skip
        assert scan_one(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--adapter", folder) == (3, text)
    for base, text in [
        ("no where", f"{tmp_path / 'b0'}: its base model no where is neither a folder here nor a hub id; give the "
                     f"base by --model and the adapter by --adapter {tmp_path / 'b0'}"),
        (str(adapter), f"{tmp_path / 'b1'}: its base model {adapter} is an adapter too; merge that one first, then "
                       f"give the base by --model and the adapter by --adapter {tmp_path / 'b1'}"),
        (None, f"{tmp_path / 'b2' / 'adapter_config.json'}: names no base_model_name_or_path; give the base by "
               f"--model and the adapter by --adapter {tmp_path / 'b2'}"),
    ]:  # fmt: skip
        name = f"b{len(list(tmp_path.glob('b?')))}"
        folder = changed(name, base_model_name_or_path=base)
        assert scan_one(tmp_path, "--model", folder, "--sae", tiny[1]) == (3, text)
    with pytest.raises(InputError, match="is an adapter itself"):
        resolve(TargetChoice(str(adapter), str(tiny[1]), adapter=str(adapter)), notify=quiet)


def test_an_adapter_of_another_model_is_refused(tiny, tmp_path: Path, adapter: Path):
    shutil.copytree(adapter, tmp_path / "wide")
    weights = load_file(adapter / "adapter_model.safetensors")
    wide = {k: torch.zeros(v.shape[0], 2 * v.shape[1]) if "lora_A" in k else v for k, v in weights.items()}
    save_file(wide, tmp_path / "wide" / "adapter_model.safetensors")
    shutil.copytree(adapter, tmp_path / "deep")
    deep = {k.replace("layers.3.", "layers.9."): v for k, v in weights.items()}
    save_file(deep, tmp_path / "deep" / "adapter_model.safetensors")
    shutil.copytree(adapter, tmp_path / "odd")
    odd = {k.replace("q_proj", "query"): v for k, v in weights.items()}
    save_file(odd, tmp_path / "odd" / "adapter_model.safetensors")
    for name, text in [
        ("wide", "size mismatch for "), ("deep", "8 of its weights have no place or no value: "),
        ("odd", "of its weights have no place or no value: "),
    ]:  # fmt: skip
        with pytest.raises(TargetError) as caught:
            whole(tiny[0], FLOAT32, tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: the adapter does not fit this LlamaForCausalLM (")
        assert text in str(caught.value)
        assert str(caught.value).endswith("; give the base model that its adapter_config.json names")
        if name != "deep":  # than what is read
            with pytest.raises(TargetError, match="the adapter does not fit this LlamaModel"):
                residual(tiny[0], LAYER, tmp_path / name)


def test_an_adapter_s_damaged_weights_are_not_taken_for_another_model_s(tiny, tmp_path: Path, adapter: Path):
    shutil.copytree(adapter, tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    for kept in (4, weights.stat().st_size // 2):
        weights.write_bytes((adapter / weights.name).read_bytes()[:kept])
        code, text = scan_one(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--adapter", "cut")
        assert code == 3 and text.startswith(f"{weights}: cannot be read (")
        assert text.endswith("; get a complete copy of the adapter")


def test_a_folder_without_an_adapter(tiny, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert scan_one(tmp_path, "--model", tiny[0], "--sae", tiny[1], "--adapter", "empty") == (
        3,
        "--adapter empty: holds no adapter_config.json; give a folder that peft has saved",
    )


def test_an_adapter_without_an_sae_is_named_as_it_was_typed(tiny, tmp_path: Path, adapter: Path):
    shutil.copytree(adapter, tmp_path / "lora")
    code, text = scan_one(tmp_path, "--model", "lora")
    assert code == 3
    assert text.startswith(f"--model lora: an adapter of {tiny[0]}, which is not one of the named targets (")
    assert "), so it needs an SAE: --sae RELEASE/SAE_ID of sae-lens, --sae DIR, " in text


def test_an_adapter_that_moves_the_model_away_from_the_sae_is_named(tiny, tmp_path: Path):
    make_adapter(tmp_path / "wild", tiny[0], size=3, target_modules=["embed_tokens"])
    args = ("--model", tiny[0], "--sae", tiny[1], "--adapter", "wild")
    code, text = scan_one(tmp_path, *args)
    assert code == 3 and "do not belong together" in text
    assert text.endswith(f"; or the adapter {tmp_path / 'wild'} has moved the model away")


def test_without_peft_it_is_said_how_to_get_it(tiny, adapter: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(TargetError, match=r"is not installed: pip install 'geofilter\[trial\]'$"):
        residual(tiny[0], LAYER, adapter)


def test_a_configuration_that_names_a_module_has_it_not_imported(tiny, tmp_path: Path, adapter: Path, monkeypatch):
    (tmp_path / "code_beside_the_data.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(adapter, tmp_path / "a")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"megatron_core": "code_beside_the_data", "megatron_config": {"a": 1}}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    ids = torch.arange(9).unsqueeze(0)
    read = [
        ResidualModel(tiny[0], [LAYER], Loading("cpu", "float32"), adapter=folder).residuals(ids, torch.ones_like(ids))
        for folder in (adapter, tmp_path / "a")
    ]
    torch.testing.assert_close(read[0][LAYER], read[1][LAYER], rtol=0, atol=0)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_that_repeats_layers_is_refused(tiny, tmp_path: Path):
    adapter = make_adapter(tmp_path, tiny[0], layer_replication=[[0, 3], [2, 4]])
    with pytest.raises(TargetError, match="repeats layers"):
        residual(tiny[0], adapter=adapter)
