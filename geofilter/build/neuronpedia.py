"""Names of features from Neuronpedia: its export of explanations, fetched once, or a file of it.

Nothing but the name of the SAE is sent. Its bulk API is gone; the export has the same texts, in batches of gzipped JSON
lines with `modelId`, `layer`, `index`, `description` and `explanationModelName`.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from geofilter.bank.feature_names import FeatureName, Names
from geofilter.build.feature_naming import cleaned
from geofilter.errors import InputError, TargetError, first_line
from geofilter.files import Notify, cache_dir, from_json, made_once, slug
from geofilter.rows.lines import read_lines

SITE = "https://www.neuronpedia.org"
EXPORTS = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"
TIMEOUT = 60
"""seconds that the export may say nothing"""
_KEY = re.compile(r"<Key>([^<]*/batch-\d+\.jsonl\.gz)</Key>")
_NEXT = re.compile(r"<NextContinuationToken>([^<]+)</NextContinuationToken>")
"""of a listing that goes on"""
BATCHES = "batch-*.jsonl.gz"


def names_from(files: Sequence[Path], page: str | None, d_sae: int) -> Names:
    """The names in an export's files; of several of one feature the first.

    Args:
        page: MODEL/SAE that they must be of; of whatever one SAE where None.
        d_sae: features of the SAE.

    Raises:
        InputError: a file cannot be read, is no export, or is of another SAE.
    """
    found: dict[int, str] = {}
    models: Counter[str] = Counter()
    for path in files:
        for number, told in _records(path):
            try:
                of, feature = f"{told['modelId']}/{told['layer']}", int(told["index"])
                name = cleaned(str(told["description"]))
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"{path}, line {number}: is no explanation of Neuronpedia's export (modelId, layer, index, "
                    f"description); get it from {EXPORTS}"
                ) from None
            page = page or of
            if of != page or not 0 <= feature < d_sae:
                raise InputError(
                    f"{path}, line {number}: is of feature {feature} of {of}, not of {page} with its {d_sae:,} "
                    "features; give the export of this target's SAE"
                )
            if name and feature not in found:
                found[feature] = name
                models[str(told.get("explanationModelName") or "unknown")] += 1
    if not found:
        raise InputError(f"{files[0] if files else 'the export'}: has no explanation of a feature")
    by = ", ".join(name for name, _ in models.most_common())
    features: list[FeatureName] = [{"feature": f, "name": name} for f, name in sorted(found.items())]
    return {"by": f"Neuronpedia's explanations ({by})", "link": f"{SITE}/{page}", "features": features}


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Lines of JSON, or members of a JSON array, each with its number."""
    for number, line in enumerate(read_lines(path), start=1):
        try:
            if line.strip():
                yield number, from_json(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: is no JSON ({error}); get the export again") from None


def export_files(given: Path) -> list[Path]:
    """The files of an export: a file, or the batches of a folder.

    Raises:
        InputError: there is nothing.
    """
    files = sorted(given.glob(BATCHES), key=_number) if given.is_dir() else [given]
    if not files or not given.exists():
        raise InputError(f"--names {given}: no such file, or no {BATCHES} in it; get the export from {EXPORTS}")
    return files


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.name) or 0)


def fetched(page: str, *, offline: bool, notify: Notify) -> list[Path]:
    """The export's files for an SAE, from the cache, else from Neuronpedia.

    Args:
        page: MODEL/SAE.

    Raises:
        TargetError: not in the cache and offline, not there, or no answer.
    """
    by_hand = f"get {EXPORTS}/index.html?prefix=v1/{page}/explanations/ by hand, and give its folder with --names"

    def make(out: Path) -> None:
        if offline:
            raise TargetError(f"{page}: its explanations are not in the cache and --offline is set; {by_hand}")
        notify(f"fetching the explanations of {page} from {EXPORTS} ...")
        try:
            prefix = quote(f"v1/{page}/explanations/")
            keys, more = [], ""
            while True:
                listing = _get(f"{EXPORTS}/?list-type=2&prefix={prefix}{more}").decode("utf-8", "replace")
                keys += _KEY.findall(listing)
                if (token := _NEXT.search(listing)) is None:
                    break
                more = f"&continuation-token={quote(token[1], safe='')}"
            if not keys:
                raise TargetError(f"{page}: Neuronpedia has no explanations of it; name its features with --judge")
            for key in keys:
                (out / key.rsplit("/", 1)[1]).write_bytes(_get(f"{EXPORTS}/{quote(key)}"))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise TargetError(f"{EXPORTS}: does not answer ({first_line(error)}); try again, or {by_hand}") from None

    place = cache_dir() / "names" / slug(page)
    return export_files(made_once(place, lambda folder: any(folder.glob(BATCHES)), make, notify))


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        return bytes(answer.read())
