"""Names of SAEs as people write them, and whose model they are."""

import json
from pathlib import Path

import pytest
import torch
from helpers.command import quiet, use_hub
from helpers.families import D_IN, D_SAE, Hub
from helpers.family_saes import put_gemma_scope, random_sae
from safetensors.torch import save_file

from geofilter.errors import TargetError
from geofilter.target.directory import find, model_of
from geofilter.target.releases import published
from geofilter.target.sae_folder import read_cfg, source_of


@pytest.mark.parametrize(
    ("spec", "release", "sae_id"),
    [
        ("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "gemma-scope-2b-pt-res-canonical",
         "layer_12/width_16k/canonical"),
        ("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_22", "gemma-scope-2b-pt-res",
         "layer_12/width_16k/average_l0_22"),
        ("google/gemma-scope-2b-pt-res/layer_12/width_16k/canonical", "gemma-scope-2b-pt-res-canonical",
         "layer_12/width_16k/canonical"),
        ("fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x/", "llama_scope_lxr_8x", "l15r_8x"),
        ("andyrdt/saes-gpt-oss-20b/resid_post_layer_11/trainer_0", "gpt-oss-20b-andyrdt",
         "resid_post_layer_11_trainer_0"),
        ("Goodfire/Llama-3.1-8B-Instruct-SAE-l19/Llama-3.1-8B-Instruct-SAE-l19.pth", "goodfire-llama-3.1-8b-instruct",
         "layer_19"),
    ],
)  # fmt: skip
def test_a_folder_of_a_repository_that_a_release_lists_is_the_release_s(spec: str, release: str, sae_id: str):
    found = find(spec)
    assert found[:2] == (release, sae_id)
    assert found[2].release == release


def test_files_that_several_releases_list_are_read_alike_by_all():
    """Whichever is taken: the same loader, scaling and overrides."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    ways: dict[tuple[str, str], set] = {}
    for info in get_pretrained_saes_directory().values():
        for name, path in info.saes_map.items():
            way = (info.conversion_func, info.norm_scaling_factor.get(name), json.dumps(info.config_overrides))
            ways.setdefault((info.repo_id, path), set()).add(way)
    assert [at for at, found in ways.items() if len(found) > 1] == []


def test_what_is_not_listed_is_its_own_or_an_error_with_the_nearest():
    assert find("someone/saes/blocks.3.hook_resid_post") == ("someone/saes", "blocks.3.hook_resid_post", None)
    with pytest.raises(TargetError) as caught:
        find("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_83")
    assert "sae-lens lists google/gemma-scope-2b-pt-res, but no layer_12/width_16k/average_l0_83 of it; nearest: " in (
        str(caught.value)
    )
    assert "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82" in str(caught.value)
    with pytest.raises(TargetError, match="did you mean gemma-scope-2b-pt-res or gemma-scope-2b-pt-res-canonical"):
        find("google/gemma-scope-2b-pt-res")


def test_by_repository_and_by_release_it_is_the_same_sae(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    name = "layer_12/width_16k/average_l0_82"
    put_gemma_scope(hub, "gemma-scope-2b-pt-res", name, random_sae())
    folders = [published(f"{first}/{name}", lambda cfg: None, offline=True, notify=quiet)
               for first in ("gemma-scope-2b-pt-res", "google/gemma-scope-2b-pt-res")]  # fmt: skip
    assert folders[0] != folders[1]
    assert read_cfg(folders[0]) == read_cfg(folders[1])
    assert source_of(folders[0])["weights_sha256"] == source_of(folders[1])["weights_sha256"]


def test_the_release_says_whose_model_it_is_where_the_loader_has_another(tmp_path: Path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    use_hub(hub, monkeypatch)
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    folder = hub.snapshot("fnlp/Llama-Scope-R1-Distill") / "800M-Slimpajama-0-OpenR1-Math-220k" / "L15R"
    folder.mkdir(parents=True)
    sae = random_sae()
    weights = {
        "encoder.weight": sae.enc.T.contiguous(), "decoder.weight": sae.dec.T.contiguous(), "encoder.bias": sae.bias,
        "decoder.bias": sae.mean, "log_jumprelu_threshold": torch.zeros(D_SAE),
    }  # fmt: skip
    save_file(weights, folder / "sae_weights.safetensors")
    about = {"d_model": D_IN, "expansion_factor": D_SAE // D_IN, "hook_point_in": "blocks.15.hook_resid_post"}
    (folder / "config.json").write_text(json.dumps(about))
    seen: list[dict] = []
    made = published("llama_scope_r1_distill/l15r_800m_slimpajama", seen.append, offline=True, notify=quiet)
    named = {cfg["metadata"]["model_name"] for cfg in [*seen, read_cfg(made)]}
    assert named == {"deepseek-ai/DeepSeek-R1-Distill-Llama-8B"}


def test_where_both_name_stages_of_one_model_the_configuration_counts():
    """sae-lens' directory has the base model for gemma-scope-9b-it-res."""
    info = find("gemma-scope-9b-it-res/layer_20/width_16k/average_l0_91")[2]
    assert info.model == "gemma-2-9b"
    assert model_of("gemma-2-9b-it", info) == "gemma-2-9b-it"
    assert model_of(None, info) == "gemma-2-9b"
    assert (model_of("x", None), model_of(None, None)) == ("x", None)
