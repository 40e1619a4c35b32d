"""Filter a `datasets.Dataset` from Python: scan, cut, and keep what stays.

    python examples/filter_dataset.py

On the demo's rows with the embedded model; `my_data` may be any data set whose rows have one of the known shapes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from datasets import Dataset

import geofilter
from geofilter.rows.shipped import example_file


def filtered(my_data: Dataset, model: str, drop: str) -> tuple[Dataset, str]:
    """The rows that stay, and what the run's first line says of the bank on them."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.parquet")
        my_data.to_parquet(data)
        config = geofilter.ScanConfig((str(data),), geofilter.TargetChoice(model))
        run = geofilter.scan(config, Path(folder, "run"))
        selection = geofilter.Selection.of(run, geofilter.Cut.parse(drop))
        return my_data.select(selection.kept()), run.manifest["headline"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=example_file(), help="JSONL, its rows labelled as the demo's.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--drop", default="25%")
    args = parser.parse_args()
    my_data = Dataset.from_json(str(args.data))
    rest, said = filtered(my_data, args.model, args.drop)
    print(said)
    print(f"{len(my_data)} rows, {len(rest)} stay; labelled harmful: {harmful(my_data)}, of them stay {harmful(rest)}")


def harmful(rows: Dataset) -> int:
    """Rows that the example's own labels call harmful."""
    return sum(label == "misaligned" for label in rows["label"])


if __name__ == "__main__":
    main()
