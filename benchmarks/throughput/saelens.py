"""SAELens' own way: a HookedSAETransformer of the same weights, one row a pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput.plain import RowMean, load_sae, row_mean
from geofilter.encode.tokens import Encoded

LIKE = {"gemma2": "google/gemma-2-2b", "gemma3_text": "google/gemma-3-1b-pt", "llama": "meta-llama/Llama-3.1-8B"}
"""by model_type, a model of which transformer-lens knows the configuration by heart: what an architecture computes is
taken from there, its dimensions from the model at hand"""


def hooked(model: Any, n_ctx: int) -> Any:
    """A HookedSAETransformer with the weights, device and dtype of a whole model of transformers.

    Args:
        n_ctx: longest row, in tokens.
    """
    from sae_lens.analysis.hooked_sae_transformer import HookedSAETransformer
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_hf_model_config
    from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights

    own = model.config
    same = own.num_key_value_heads == own.num_attention_heads
    settings = convert_hf_model_config(LIKE[own.model_type]) | {
        "d_model": own.hidden_size, "d_head": own.head_dim, "n_heads": own.num_attention_heads,
        "d_mlp": own.intermediate_size, "n_layers": own.num_hidden_layers, "n_ctx": n_ctx, "eps": own.rms_norm_eps,
        "d_vocab": own.vocab_size, "n_key_value_heads": None if same else own.num_key_value_heads,
        "rotary_dim": own.head_dim, "init_weights": False, "device": str(model.device), "dtype": model.dtype,
        "model_name": own.model_type, "tokenizer_name": None,
    }  # fmt: skip
    if own.model_type == "llama":
        rope = own.rope_parameters
        settings |= {"rotary_base": rope["rope_theta"], "use_NTK_by_parts_rope": rope["rope_type"] == "llama3"}
    else:
        local = ["local" if kind == "sliding_attention" else "global" for kind in own.layer_types]
        settings |= {"window_size": own.sliding_window, "attn_types": local}
    config = HookedTransformerConfig.from_dict(settings)
    convert = convert_llama_weights if own.model_type == "llama" else convert_gemma_weights
    found = HookedSAETransformer(config, move_to_device=False)
    with torch.no_grad():
        found.load_and_process_state_dict(
            convert(model, config), fold_ln=False, center_writing_weights=False, center_unembed=False,
            fold_value_biases=False,
        )  # fmt: skip
    found.move_model_modules_to_device()
    return found.eval()


class SAELens:
    """The two ways in which SAELens is used, row by row."""

    def __init__(self, model: Any, sae_dir: Path, n_ctx: int) -> None:
        self.model = hooked(model, n_ctx)
        self.device = model.device
        self.sae = load_sae(sae_dir, self.device)
        # Its reconstruction goes on through the model, which takes its own dtype alone.
        self.inside = load_sae(sae_dir, self.device, model.dtype)
        self.hook = self.sae.cfg.metadata.hook_name

    @torch.inference_mode()
    def with_saes(self, rows: Sequence[Encoded]) -> list[RowMean]:
        """As its tutorials do: the SAE within the whole model, and everything kept."""
        out = []
        for row in rows:
            ids = torch.tensor([row.ids], device=self.device)
            _, cache = self.model.run_with_cache_with_saes(ids, saes=[self.inside])
            acts, x = (cache[f"{self.hook}.hook_sae_{what}"][0] for what in ("acts_post", "input"))
            out.append(row_mean(acts, x, torch.tensor(row.mask, device=self.device)))
        return out

    @torch.inference_mode()
    def stopped(self, rows: Sequence[Encoded]) -> list[RowMean]:
        """As somebody who knows it does: stopped at the hook, of which alone is kept, then the SAE."""
        out, layer = [], int(self.hook.split(".")[1])
        for row in rows:
            ids = torch.tensor([row.ids], device=self.device)
            _, cache = self.model.run_with_cache(ids, names_filter=[self.hook], stop_at_layer=layer + 1)
            x = cache[self.hook][0]
            out.append(row_mean(self.sae.encode(x.float()), x, torch.tensor(row.mask, device=self.device)))
        return out
