"""Remake the built-in banks that ship ready-made for the embedded target.

    python examples/build_banks.py

Run it after the SAE, the contrast texts or the background have changed; the tests compare what ships with a
bank built anew; `pytest --long tests/test_embedded.py` reads all of the background for that.
"""

from __future__ import annotations

from geofilter.bank.built_in import built_in_sources
from geofilter.build.build import BUILT_IN, BuildOptions, build, read_ordinary
from geofilter.build.seeds import built_in_seeds
from geofilter.config import Loading, TargetChoice
from geofilter.encode.pair import require_pair
from geofilter.encode.reader import FeatureReader
from geofilter.files import package_data
from geofilter.target.resolve import resolve

MODEL = "smollm2-135m"


def main() -> None:
    target = resolve(TargetChoice(MODEL))
    loading = Loading("cpu", "float32")
    require_pair(target, loading, print)
    reader = FeatureReader(target, loading)
    ordinary = read_ordinary(reader)  # both are judged against the same rows
    for name in BUILT_IN:
        bank = build(
            name, target, built_in_seeds(name), reader, built_in_sources(name), BuildOptions(centred=True),
            ordinary=ordinary,
        )  # fmt: skip
        bank.save(package_data("banks", target.name, name))
        print(name, bank.meta["evaluation"], flush=True)


if __name__ == "__main__":
    main()
