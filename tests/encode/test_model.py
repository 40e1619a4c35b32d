import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.families import D_IN, VOCAB, family_model, family_tokenizer
from safetensors.torch import load_file, save_file

from geofilter.config import Loading
from geofilter.encode.model import ResidualModel, choose_device
from geofilter.encode.reader import outlier_free_padded
from geofilter.errors import InputError, TargetError

FAMILIES = ["gemma2", "gemma3_text", "llama", "qwen3", "gpt_oss"]

LAYERS = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A random model of each family with its tokenizer."""
    out = {}
    for kind in FAMILIES:
        out[kind] = tmp_path_factory.mktemp(kind)
        family_model(kind, LAYERS).save_pretrained(out[kind])
        family_tokenizer(kind).save_pretrained(out[kind])
    return out


def whole(path: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path).eval()


def some_ids(rows: int = 2, length: int = 11, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def read(path: Path, layer: int, ids: torch.Tensor, kind: str = "hook_resid_post", dtype: str = "float32"):
    model = ResidualModel(path, [layer], Loading("cpu", dtype), kind)
    assert len(model.model.layers) == layer + 1  # nothing above the hook was built
    return model.residuals(ids, torch.ones_like(ids))[layer]


@pytest.mark.parametrize("kind", FAMILIES)
def test_residual_is_the_output_of_the_layer_in_the_whole_model(folders, kind: str):
    full = whole(folders[kind])
    seen: dict[int, torch.Tensor] = {}
    for i, layer in enumerate(full.model.layers):
        layer.register_forward_hook(
            lambda m, a, out, i=i: seen.__setitem__(i, out[0] if isinstance(out, tuple) else out)
        )
    ids = some_ids()
    with torch.inference_mode():
        hidden = full(ids, output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        torch.testing.assert_close(read(folders[kind], layer, ids), seen[layer])
        before = seen[layer - 1] if layer else hidden[0]
        torch.testing.assert_close(read(folders[kind], layer, ids, "hook_resid_pre"), before)
    # The last hidden state has been through the final norm: it is not the residual.
    assert not torch.allclose(hidden[-1], seen[LAYERS - 1], atol=1e-2)


@pytest.mark.parametrize("kind", FAMILIES)
def test_attention_and_mlp_add_up_to_the_residual(folders, kind: str):
    """resid_post = resid_pre + attn_out + mlp_out holds only if each is read where it enters the stream."""
    ids = some_ids()
    full = whole(folders[kind])
    for layer in range(LAYERS):
        parts = {k: read(folders[kind], layer, ids, k) for k in
                 ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", "attn.hook_z")}  # fmt: skip
        total = parts["hook_resid_pre"] + parts["hook_attn_out"] + parts["hook_mlp_out"]
        torch.testing.assert_close(total, parts["hook_resid_post"], rtol=1e-4, atol=1e-4)
        block = full.model.layers[layer]
        with torch.inference_mode():
            projected = block.self_attn.o_proj(parts["attn.hook_z"])
            if kind.startswith("gemma"):
                projected = block.post_attention_layernorm(projected)
        torch.testing.assert_close(projected, parts["hook_attn_out"])
        assert parts["attn.hook_z"].shape == (2, 11, 4 * 8)  # heads x head dimension, side by side


def test_a_sublayer_of_an_unknown_model_type_is_refused(tmp_path: Path):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, head_dim=8)  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    family_tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(TargetError) as caught:
        ResidualModel(tmp_path, [1], Loading("cpu"), "hook_mlp_out")
    assert str(caught.value) == (
        f"{tmp_path}: blocks.1.hook_mlp_out is known for gemma2, gemma3_text, llama, qwen3, gpt_oss only, not for "
        "mistral; use an SAE of the residual stream (hook_resid_pre, hook_resid_post)"
    )


@pytest.mark.parametrize("kind", ["Qwen3", "Mistral", "GPTNeoX", "GPT2", "Phi3"])
def test_the_residual_of_any_other_decoder(kind: str, tmp_path: Path):
    import transformers as hf

    config = getattr(hf, f"{kind}Config")(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    full = getattr(hf, f"{kind}ForCausalLM" if kind != "GPT2" else "GPT2LMHeadModel")(config).eval()
    full.save_pretrained(tmp_path)
    family_tokenizer("llama").save_pretrained(tmp_path)
    ids = some_ids()
    with torch.inference_mode():
        hidden = full(ids, output_hidden_states=True).hidden_states
    model = ResidualModel(tmp_path, [0, 1], Loading("cpu", "float32"))
    got = model.residuals(ids, torch.ones_like(ids))
    for layer in (0, 1):
        torch.testing.assert_close(got[layer], hidden[layer + 1], rtol=0, atol=1e-6)


def test_gemma_s_soft_cap_on_attention_scores_is_applied(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    ids, out = some_ids(), {}
    for cap in (50.0, 0.05):
        model = family_model("gemma2", LAYERS)
        model.config.attn_logit_softcapping = cap
        model.save_pretrained(tmp_path / str(cap))
        family_tokenizer("gemma2").save_pretrained(tmp_path / str(cap))
        out[cap] = read(tmp_path / str(cap), 1, ids)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / str(cap), attn_implementation="eager").eval()
        with torch.inference_mode():
            expected = plain(ids, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(out[cap], expected)
    assert not torch.allclose(out[50.0], out[0.05], atol=1e-2)


@pytest.mark.parametrize("kind", FAMILIES)
def test_right_padding_changes_nothing(folders, kind: str):
    model = ResidualModel(folders[kind], [1, 3], Loading("cpu", "float32"))
    ids = some_ids(2, 9, 2)
    attention = torch.ones_like(ids)
    attention[0, 5:] = 0
    padded = model.residuals(ids, attention)
    alone = model.residuals(ids[:1, :5], torch.ones(1, 5, dtype=torch.int64))
    for layer in (1, 3):
        assert padded[layer].shape == (2, 9, D_IN)
        torch.testing.assert_close(padded[layer][0, :5], alone[layer][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "tolerance"), [("gemma2", 0.02), ("llama", 0.02), ("gpt_oss", 0.05)])
def test_bfloat16_stays_within_its_tolerance(folders, kind: str, tolerance: float):
    """Median relative error of a token's residual. gpt-oss tokens whose experts flip are further off, so no maximum."""
    ids = some_ids(8, 40)
    exact, rounded = (read(folders[kind], 2, ids, dtype=d).float() for d in ("float32", "bfloat16"))
    error = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 0 < float(error.median()) < tolerance


def test_a_device_map_reads_the_same(folders):
    ids = some_ids()
    model = ResidualModel(folders["llama"], [2], Loading(dtype="float32", device_map="auto"))
    got = model.residuals(ids, torch.ones_like(ids))[2]
    torch.testing.assert_close(got.cpu(), read(folders["llama"], 2, ids), rtol=0, atol=1e-5)


def test_weights_that_are_missing_are_an_error(folders, tmp_path: Path):
    shutil.copytree(folders["gemma2"], tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TargetError) as caught:
        ResidualModel(tmp_path / "m", [2], Loading("cpu"))
    assert str(caught.value) == (
        f"{tmp_path / 'm'}: 1 weights are missing from its files and would be random (layers.1.mlp.up_proj.weight); "
        "get the model again"
    )
    ResidualModel(tmp_path / "m", [0], Loading("cpu"))  # layer 1 is not needed here


def test_mxfp4_weights_are_read_as_what_they_stand_for(folders, tmp_path: Path):
    """gpt-oss is published in MXFP4. On the CPU it is dequantised; the values must be those of the code table."""
    path = tmp_path / "m"
    shutil.copytree(folders["gpt_oss"], path)
    weights = load_file(path / "model.safetensors")
    plain = dict(weights)
    generator = torch.Generator().manual_seed(3)
    for name in [n for n in weights if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, rows, columns = weights.pop(name).transpose(1, 2).shape  # stored as (experts, in, out)
        codes = torch.randint(0, 16, (experts, rows, columns // 32, 32), generator=generator)
        exponents = torch.randint(121, 127, (experts, rows, columns // 32), generator=generator)
        weights[f"{name}_blocks"] = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
        weights[f"{name}_scales"] = exponents.to(torch.uint8)
        # OCP microscaling format: sign, two exponent bits, one mantissa bit; one power of two for 32 values.
        magnitude = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        value = torch.where(codes >= 8, -1, 1) * magnitude[codes % 8] * 2.0 ** (exponents - 127).unsqueeze(-1)
        plain[name] = value.reshape(experts, rows, columns).transpose(1, 2).contiguous()
    save_file({k: v.contiguous() for k, v in weights.items()}, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    shutil.copytree(folders["gpt_oss"], tmp_path / "plain")
    save_file(plain, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    ids = some_ids()
    for dtype in ("auto", "float32", "bfloat16"):
        expected = read(tmp_path / "plain", 2, ids, dtype="bfloat16" if dtype == "bfloat16" else "float32")
        got = read(path, 2, ids, dtype=dtype)
        assert got.dtype == expected.dtype
        error = (got - expected).float().norm() / expected.float().norm()
        assert float(error) < (0.05 if dtype == "bfloat16" else 1e-5), dtype


def test_errors(tiny, tmp_path: Path):
    with pytest.raises(TargetError) as caught:
        ResidualModel(tiny[0], [9], Loading("cpu", "float32"))
    assert str(caught.value) == f"{tiny[0]}: layer 9 is not in the model; choose 0 to 3"
    with pytest.raises(TargetError, match="its configuration or tokenizer cannot be read"):
        ResidualModel(tmp_path, [0], Loading("cpu", "float32"))
    with pytest.raises(TargetError) as caught:
        choose_device("abacus")
    assert str(caught.value) == "--device abacus: not available here; use --device auto or cpu"
    with pytest.raises(InputError) as bad:
        Loading(dtype="float8")
    assert str(bad.value) == "--dtype float8: use auto, float32, bfloat16 or float16"


def test_outlier_tokens_are_masked_by_their_row_s_median():
    residual = torch.ones(2, 4, 3)
    residual[0, 2] *= 8  # 8 times the median
    residual[1, 1] *= 6
    mask = torch.tensor([[False, True, True, True], [True, True, True, False]])
    assert outlier_free_padded(residual, mask).tolist() == [[False, True, False, True], [True, True, True, False]]
