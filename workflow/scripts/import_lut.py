"""Import a published accuracy LUT."""

from pathlib import Path

from spaceevo.artifacts import Record, write_table
from spaceevo.scripting import run
from spaceevo.search.lut import LUT_KIND
from spaceevo.search.published_lut import read_published_lut
from spaceevo.space import load_hyperspace


def main(folder: Path, hyperspace: str, output: Path) -> None:
    """Write the rows of all files of `folder`."""
    record = Record({"hyperspace": hyperspace, "published": str(folder)}, 0)
    write_table(output, LUT_KIND, read_published_lut(folder, load_hyperspace(hyperspace)), record)


if __name__ == "__main__":
    run(main)
