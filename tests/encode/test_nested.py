"""Text decoders that are a part of a multimodal model: read as in the whole model, and nothing of its other towers."""

import json
from pathlib import Path

import pytest
import torch
from helpers.command import quiet, scan_one, use_hub
from helpers.families import VOCAB, Hub, family_tokenizer, fitted, put_native
from helpers.nested import NESTED, nested_folder, nested_model
from helpers.tiny import make_sae
from safetensors.torch import load_file, save_file

from geofilter.config import Loading, TargetChoice
from geofilter.encode.blocks import decoder_layers
from geofilter.encode.model import ResidualModel, parameters
from geofilter.encode.whole import whole
from geofilter.errors import TargetError
from geofilter.target.decoder import is_wanted, layer_of, prefix_of
from geofilter.target.hub import INDEX
from geofilter.target.resolve import resolve, whole_model

LAYERS = 6

CPU = Loading("cpu", "float32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: nested_folder(tmp_path_factory.mktemp(kind), kind, LAYERS) for kind in NESTED}


def some_ids(rows: int = 2, length: int = 21) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def hidden_states(model, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return model(input_ids=ids, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("kind", NESTED)
def test_the_residual_of_text_rows_is_the_whole_model_s(folders, kind: str):
    ids = some_ids()
    expected = hidden_states(nested_model(kind, LAYERS), ids)
    model = ResidualModel(folders[kind], [0, 3, 4], CPU)
    assert model.model.config.model_type == NESTED[kind]
    assert len(model.model.layers) == 5  # nothing above the hook was built, nor anything that sees
    assert not [name for name, _ in model.model.named_modules() if "vis" in name]
    for layer, found in model.residuals(ids, torch.ones_like(ids)).items():
        torch.testing.assert_close(found, expected[layer + 1], rtol=0, atol=0)
    text = model.model.get_input_embeddings().weight.numel() + sum(p.numel() for p in model.model.layers.parameters())
    assert parameters(folders[kind], 5) == text + 32  # and the last norm


@pytest.mark.parametrize("kind", NESTED)
def test_a_tower_of_as_many_blocks_is_not_taken_for_the_decoder(kind: str):
    """In Qwen3.5 the vision blocks come first and lie as deep: their number and place tell nothing."""
    model = nested_model(kind, LAYERS)
    blocks = decoder_layers(model, Path("m"))
    inner = model.model.language_model
    assert blocks is inner.layers
    tower = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and m is not blocks]
    assert LAYERS in map(len, tower)


@pytest.mark.parametrize("kind", NESTED)
def test_right_padding_changes_nothing(folders, kind: str):
    """Nor in linear attention, which carries a state from token to token."""
    model = ResidualModel(folders[kind], [4], CPU)
    ids = some_ids()
    attention = torch.ones_like(ids)
    attention[0, 7:] = 0
    padded = model.residuals(ids, attention)[4]
    alone = model.residuals(ids[:1, :7], torch.ones(1, 7, dtype=torch.int64))[4]
    torch.testing.assert_close(padded[0, :7], alone[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", NESTED)
def test_the_whole_text_model_gives_the_multimodal_one_s_logits(folders, kind: str):
    """What a trial fine-tunes."""
    ids = some_ids()
    with torch.inference_mode():
        expected = nested_model(kind, LAYERS)(input_ids=ids).logits
        found = whole(folders[kind], CPU)[0](input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "language_model.", "model."])
def test_the_decoder_is_found_by_any_name_it_is_saved_under(folders, tmp_path: Path, prefix: str):
    own = "language_model.model."
    stored = load_file(folders["gemma3"] / "model.safetensors")
    assert prefix_of(stored) == own
    renamed = {name.replace(own, prefix) if name.startswith(own) else name: value for name, value in stored.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folders["gemma3"] / "config.json").read_text())
    family_tokenizer("gemma2").save_pretrained(tmp_path)
    ids = some_ids()
    found = ResidualModel(tmp_path, [3], CPU).residuals(ids, torch.ones_like(ids))[3]
    assert torch.equal(found, ResidualModel(folders["gemma3"], [3], CPU).residuals(ids, torch.ones_like(ids))[3])


def test_names_of_tensors():
    """Qwen3.5's file: a tower of vision, and a head that predicts further tokens, have blocks of their own."""
    text = [f"model.language_model.layers.{n}.mlp.up_proj.weight" for n in range(4)]
    table, head = "model.language_model.embed_tokens.weight", "lm_head.weight"
    others = ["model.visual.blocks.0.attn.qkv.weight", "mtp.layers.0.mlp.up_proj.weight", "mtp.norm.weight",
              "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight", "multi_modal_projector.weight"]  # fmt: skip
    prefix = prefix_of([*others, table, head, *text])
    assert prefix == "model.language_model."
    assert [name for name in [*others, table, head, *text] if is_wanted(name, 2, prefix)] == [table, *text[:2]]
    assert [name for name in [*others, table, head, *text] if is_wanted(name, None, prefix)] == [table, head, *text]
    assert [layer_of(name, prefix) for name in [*others, text[3]]] == [None] * 5 + [3]
    assert prefix_of(["wte.weight", "h.0.mlp.weight"]) == ""
    assert prefix_of(others) is None


@pytest.mark.parametrize("kind", NESTED)
def test_of_a_multimodal_repository_the_text_s_files_alone_are_needed(kind: str, tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = nested_folder(hub.snapshot("org/sees"), kind, LAYERS, shard="30KB")
    sae = put_native(tmp_path / "sae", fitted(folder, 2), "blocks.2.hook_resid_post", "org/sees")
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    text = {name: file for name, file in index.items() if "language_model" in name or "lm_head" in name}
    kept = {
        file for name, file in text.items() if ".layers." not in name or name[name.index(".layers.") :] < ".layers.4"
    }
    gone = sorted({*index.values()} - kept)
    for name in gone:
        (folder / name).unlink()
    assert [name for name in index if index[name] in gone and "vis" in name]
    choice = TargetChoice("org/sees", str(sae))
    target = resolve(choice, offline=True, notify=quiet)
    wanted = json.loads((target.model_dir / INDEX).read_text())["weight_map"]
    assert {layer for name in wanted if (layer := layer_of(name)) is not None} == {0, 1, 2, 3}
    assert not [name for name in wanted if "vis" in name or "projector" in name or "lm_head" in name]
    ids = some_ids()
    found = ResidualModel(target.model_dir, [2], CPU).residuals(ids, torch.ones_like(ids))[2]
    assert torch.equal(found, hidden_states(nested_model(kind, LAYERS), ids)[3])
    with pytest.raises(TargetError) as caught:  # all of the text, for a trial; still nothing that sees
        whole_model(target, offline=True)
    missing = sorted({*text.values()} & {*gone})
    assert str(caught.value).startswith(f"org/sees: {', '.join(missing)} not in the cache")


def test_an_adapter_of_a_multimodal_model_is_merged_into_its_text_decoder(folders, tmp_path: Path):
    """Its names go by the whole model's, a pattern of modules may ask for them, and it may change the tower too."""
    import peft

    torch.manual_seed(0)
    pattern = r"(?:.*?(?:language|vision).*?(?:self_attn).*?(?:q_proj|v_proj))"
    tuned = peft.get_peft_model(nested_model("gemma3", LAYERS), peft.LoraConfig(r=4, target_modules=pattern))
    for name, value in tuned.named_parameters():
        if "lora_" in name:
            value.data.normal_(0, 0.2)
    tuned.save_pretrained(tmp_path)
    assert any("vision_tower" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    ids = some_ids()
    expected = hidden_states(tuned.merge_and_unload().eval(), ids)
    plain = ResidualModel(folders["gemma3"], [3], CPU).residuals(ids, torch.ones_like(ids))[3]
    found = ResidualModel(folders["gemma3"], [3], CPU, adapter=tmp_path).residuals(ids, torch.ones_like(ids))[3]
    torch.testing.assert_close(found, expected[4], rtol=0, atol=1e-4)
    assert not torch.allclose(plain, found, atol=1e-2)
    logits = whole(folders["gemma3"], CPU, tmp_path)[0](input_ids=ids).logits
    torch.testing.assert_close(logits, tuned.base_model(input_ids=ids).logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7]},
        # nothing that a LoRA changes is built for layer 3
        {"target_modules": r".*language_model\.layers\.5\..*q_proj", "modules_to_save": ["embed_tokens"]},
    ],
    ids=["tokens", "above the hook"],
)
def test_an_adapter_that_changes_the_table_of_tokens(folders, tmp_path: Path, lora: dict):
    import peft

    torch.manual_seed(0)
    tuned = peft.get_peft_model(nested_model("gemma3", LAYERS), peft.LoraConfig(r=4, **lora))
    for value in tuned.parameters():
        if value.requires_grad:
            value.data.add_(0.1 * torch.randn_like(value))
    tuned.save_pretrained(tmp_path)
    ids = torch.cat([some_ids(), torch.tensor([[5, 6, 7]] * 2)], 1)
    expected = hidden_states(tuned.eval(), ids)[4]
    plain = ResidualModel(folders["gemma3"], [3], CPU).residuals(ids, torch.ones_like(ids))[3]
    found = ResidualModel(folders["gemma3"], [3], CPU, adapter=tmp_path).residuals(ids, torch.ones_like(ids))[3]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(plain, found, atol=1e-2)


def test_an_adapter_whose_names_lack_what_peft_puts_before_them_is_refused(folders, tmp_path: Path):
    """Its weights would be taken for those of another tower, and nothing be merged."""
    import peft

    peft.get_peft_model(nested_model("gemma3", LAYERS), peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(
        tmp_path
    )
    file = tmp_path / "adapter_model.safetensors"
    save_file({name.removeprefix("base_model.model."): value for name, value in load_file(file).items()}, file)
    with pytest.raises(TargetError, match="of its weights have no place"):
        ResidualModel(folders["gemma3"], [3], CPU, adapter=tmp_path)


def test_layers_that_are_reckoned_from_the_number_of_all(tmp_path: Path):
    """Gemma 4: the last layers share keys and values, and each has an input of its own."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    torch.manual_seed(0)
    config = Gemma4TextConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, global_head_dim=8, hidden_size_per_layer_input=8, sliding_window=8,
        vocab_size_per_layer_input=VOCAB, num_kv_shared_layers=2, initializer_range=0.2,
        layer_types=["sliding_attention", "full_attention"] * (LAYERS // 2),
    )  # fmt: skip
    model = Gemma4ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    family_tokenizer("gemma2").save_pretrained(tmp_path)
    ids = some_ids()
    expected = hidden_states(model, ids)
    for layer in range(LAYERS - 1):
        read = ResidualModel(tmp_path, [layer], CPU)
        assert len(read.model.layers) == layer + 1
        found = read.residuals(ids, torch.ones_like(ids))[layer]
        torch.testing.assert_close(found, expected[layer + 1], rtol=0, atol=0)


def test_gemma_3_in_float16_is_refused(folders, tmp_path: Path):
    sae = make_sae(tmp_path / "sae", layer=3, metadata={"model_name": "m", "hook_name": "blocks.3.hook_resid_post"})
    pair = ["--model", folders["gemma3"], "--sae", sae]
    said = f"{folders['gemma3']}: Gemma 3's numbers are too large for float16; use --dtype bfloat16 or float32"
    assert scan_one(tmp_path, *pair, "--dtype", "float16") == (3, said)
    with pytest.raises(TargetError, match="too large for float16"):
        whole(folders["gemma3"], Loading("cpu", "float16"))


def test_a_text_decoder_that_is_not_built_by_itself_is_refused(tmp_path: Path, folders):
    config = json.loads((folders["gemma3"] / "config.json").read_text())
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "model_type": "mllama", "text_config": {}}))
    code, said = scan_one(tmp_path, "--model", tmp_path / "m", "--sae", make_sae(tmp_path / "sae"))
    assert (code, said) == (
        3,
        f"{tmp_path / 'm'}: its text decoder, mllama_text_model, is none that transformers builds by itself; give a "
        "text-only copy of the model",
    )


@pytest.mark.parametrize("layer", [1, 5, 6])
def test_a_decoder_that_runs_layers_in_loops_is_refused(tmp_path: Path, layer: int):
    """Its first layers alone would loop over fewer, or take other ones for the last section."""
    from transformers import DoryConfig, DoryForCausalLM

    torch.manual_seed(0)
    config = DoryConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, n_input_layers=2, n_output_layers=2,
    )  # fmt: skip
    DoryForCausalLM(config).eval().save_pretrained(tmp_path)
    family_tokenizer("gemma2").save_pretrained(tmp_path)
    ids = some_ids()
    with pytest.raises(TargetError, match="runs some layers in loops"):
        ResidualModel(tmp_path, [layer], CPU).residuals(ids, torch.ones_like(ids))


def test_layers_that_are_scaled_by_the_number_of_all(tmp_path: Path):
    from transformers import MiniCPM3Config, MiniCPM3ForCausalLM

    torch.manual_seed(0)
    config = MiniCPM3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        initializer_range=0.2,
    )  # fmt: skip
    model = MiniCPM3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    family_tokenizer("llama").save_pretrained(tmp_path)
    ids = some_ids()
    found = ResidualModel(tmp_path, [2], CPU).residuals(ids, torch.ones_like(ids))[2]
    torch.testing.assert_close(found, hidden_states(model, ids)[3], rtol=0, atol=0)
