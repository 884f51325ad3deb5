"""Put the accuracy LUT's rows of all stages into one table."""

from pathlib import Path

import pandas as pd

from spaceevo.artifacts import Record, read_header, read_table, write_table
from spaceevo.scripting import run
from spaceevo.search.lut import LUT_KIND


def main(parts: list[Path], output: Path) -> None:
    """Concatenate the tables `parts`."""
    header = read_header(parts[0])
    record = Record(header["params"], header["seed"])
    write_table(output, LUT_KIND, pd.concat([read_table(part, LUT_KIND) for part in parts]), record)


if __name__ == "__main__":
    run(main)
