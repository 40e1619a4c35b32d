from pathlib import Path

import pytest
import torch
from conftest import D_IN, N_LAYERS, make_model

from geofilter.config import Loading
from geofilter.errors import InputError, TargetError
from geofilter.features import outlier_free
from geofilter.model import ResidualModel, choose_device


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_residual_is_the_output_of_the_layer_in_the_whole_model(tmp_path: Path, kind: str):
    from transformers import AutoModelForCausalLM

    path = make_model(tmp_path / kind, kind)
    full = AutoModelForCausalLM.from_pretrained(path)
    seen: dict[int, torch.Tensor] = {}
    for i, layer in enumerate(full.model.layers):
        layer.register_forward_hook(
            lambda m, a, out, i=i: seen.__setitem__(i, out[0] if isinstance(out, tuple) else out)
        )
    ids = torch.randint(0, 400, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden = full(ids, output_hidden_states=True).hidden_states
    for layer in range(N_LAYERS):
        truncated = ResidualModel(path, [layer], Loading("cpu", "float32"))
        assert len(truncated.model.layers) == layer + 1  # nothing above the hook was built
        got = truncated.residuals(ids, torch.ones_like(ids))[layer]
        torch.testing.assert_close(got, seen[layer], rtol=0, atol=0)
    # The last hidden state has been through the final norm: it is not the residual.
    assert not torch.allclose(hidden[-1], seen[N_LAYERS - 1], atol=1e-2)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_right_padding_changes_nothing(tmp_path: Path, kind: str):
    model = ResidualModel(make_model(tmp_path / kind, kind), [1, 3], Loading("cpu", "float32"))
    ids = torch.randint(0, 400, (2, 9), generator=torch.Generator().manual_seed(2))
    attention = torch.ones_like(ids)
    attention[0, 5:] = 0
    padded = model.residuals(ids, attention)
    alone = model.residuals(ids[:1, :5], torch.ones(1, 5, dtype=torch.int64))
    for layer in (1, 3):
        assert padded[layer].shape == (2, 9, D_IN)
        torch.testing.assert_close(padded[layer][0, :5], alone[layer][0], rtol=0, atol=1e-5)


def test_errors(tiny, tmp_path: Path):
    with pytest.raises(TargetError) as caught:
        ResidualModel(tiny[0], [9], Loading("cpu", "float32"))
    assert str(caught.value) == f"{tiny[0]}: layer 9 is not in the model; choose 0 to 3"
    with pytest.raises(TargetError, match="not a loadable model"):
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
    assert outlier_free(residual, mask).tolist() == [[False, True, False, True], [True, True, True, False]]
