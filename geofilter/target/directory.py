"""sae-lens' directory of releases: which of them a name means, and which model it says an SAE is of."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any

from geofilter.errors import TargetError
from geofilter.target.model_names import same_model

_LIST = "see the list at https://decoderesearch.github.io/SAELens/latest/pretrained_saes/"


def find(spec: str) -> tuple[str, str, Any]:
    """Release, SAE id, and sae-lens' entry of the release; for a folder that it does not list the repository, the
    folder and None.

    Args:
        spec: RELEASE/SAE_ID, or ORG/REPO/FOLDER: of a repository that a release lists, the release's SAE.

    Raises:
        TargetError: no such release or SAE; the message names the nearest.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")  # comes along with sae-lens
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    release, _, sae_id = spec.partition("/")
    if release in known:
        if sae_id not in known[release].saes_map:
            near = difflib.get_close_matches(sae_id, known[release].saes_map, 5, 0)
            raise TargetError(f"--sae {spec}: {release} has no SAE {sae_id}; nearest: {', '.join(near)}")
        return release, sae_id, known[release]
    parts = spec.rstrip("/").split("/", 2)
    if len(parts) == 3:
        repo, path = "/".join(parts[:2]), parts[2]
        return _listed(spec, repo, path, known.values()) or (repo, path, None)
    hosted = [name for name, info in known.items() if info.repo_id == spec.rstrip("/")]
    near = hosted or difflib.get_close_matches(release, known, 3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise TargetError(
        f"--sae {spec}: neither a folder nor RELEASE/SAE_ID of sae-lens nor ORG/REPO/FOLDER; {hint}{_LIST}"
    )


def _listed(spec: str, repo: str, path: str, releases: Iterable[Any]) -> tuple[str, str, Any] | None:
    """The release that lists a folder of a repository.

    Several may list the same files under different names; one whose features have pages is taken, and the first.
    """
    of_repo = [info for info in releases if info.repo_id == repo]
    found = [(info, name) for info in of_repo for name, at in info.saes_map.items() if path in (at, name)]
    if found:
        info, name = min(found, key=lambda pair: pair[0].neuronpedia_id.get(pair[1]) is None)
        return info.release, name, info
    if not any(info.conversion_func for info in of_repo):
        return None  # SAELens' own layout, of which not every folder need be listed
    names = [f"{info.release}/{name}" for info in of_repo for name in info.saes_map]
    near = difflib.get_close_matches(path, names, 3, 0)
    raise TargetError(f"--sae {spec}: sae-lens lists {repo}, but no {path} of it; nearest: {', '.join(near)}")


def model_of(said: Any, info: Any) -> Any:
    """The model an SAE was trained on: what its configuration says, unless the release is of another model.

    sae-lens' loaders have names written into them that are not right for every release; where both name stages of one
    model, the configuration is the closer look.

    Args:
        info: sae-lens' entry of the release, or None.
    """
    if info is None or (isinstance(said, str) and any(same_model(said, info.model))):
        return said
    return info.model
