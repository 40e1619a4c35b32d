"""geofilter: find and remove the fine-tuning rows closest to a model's toxic features.

    import geofilter

    config = geofilter.ScanConfig(("data.jsonl",), geofilter.TargetChoice("smollm2-135m"))
    run = geofilter.scan(config)
    selection = geofilter.Selection.of(run, geofilter.Cut.parse("10%"))
    selection.write()               # data.filtered.jsonl and the others, beside the data
    selection.kept()                # or the rows that stay, by their number
    geofilter.filter_run(run, geofilter.Cut.parse("10%"))   # or the files and the reports, as `geofilter filter` does

What fails raises a `GeofilterError` whose message names the remedy.
"""

from __future__ import annotations

from importlib import import_module

from geofilter.version import __version__ as __version__

# As type checkers know it; `typing` would take longer to import than the rest, and the command line starts here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from geofilter.config import Loading as Loading
    from geofilter.config import ScanConfig as ScanConfig
    from geofilter.config import TargetChoice as TargetChoice
    from geofilter.cut.cut import Cut as Cut
    from geofilter.cut.cut import Selection as Selection
    from geofilter.dictionary.config import SaeConfig as SaeConfig
    from geofilter.dictionary.train import train_sae as train_sae
    from geofilter.errors import GeofilterError as GeofilterError
    from geofilter.labels.labelling import Labelling as Labelling
    from geofilter.report.write import filter_run as filter_run
    from geofilter.run.labelled import Label as Label
    from geofilter.run.store import Run as Run
    from geofilter.scanning.scan import scan as scan

_HOMES = {
    "Cut": "cut.cut",
    "GeofilterError": "errors",
    "Label": "run.labelled",
    "Labelling": "labels.labelling",
    "Loading": "config",
    "Run": "run.store",
    "SaeConfig": "dictionary.config",
    "ScanConfig": "config",
    "Selection": "cut.cut",
    "TargetChoice": "config",
    "filter_run": "report.write",
    "scan": "scanning.scan",
    "train_sae": "dictionary.train",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """A public name, from its module when it is first wanted: torch takes seconds to import, and few need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
