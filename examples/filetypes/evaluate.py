"""How many kinds are those that names say: `python examples/filetypes/evaluate.py FOLDER`. Ends with 1 below 95 %."""

from __future__ import annotations

import sys
from pathlib import Path

from pyarrow import dataset


def main() -> None:
    """The whole output is one data set."""
    records = dataset.dataset(Path(sys.argv[1]) / "kinds").to_table().to_pylist()
    wrong = [record for record in records if record["found"]["kind"] != record["kind"]]
    for record in wrong:
        print(f"{record['id']} is {record['kind']}, taken for {record['found']['kind']}")
    print(f"{len(records) - len(wrong)} of {len(records)} right")
    sys.exit(len(wrong) > 0.05 * len(records) or not records)


if __name__ == "__main__":
    main()
