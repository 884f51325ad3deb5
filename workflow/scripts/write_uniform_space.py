"""Write the uniform space of one block type, as the evolution writes the space it found."""

from pathlib import Path

from spaceevo.artifacts import Record, write_json
from spaceevo.scripting import run
from spaceevo.search.comparison import uniform_space
from spaceevo.space import load_hyperspace


def main(hyperspace: str, block_type: int, output: Path) -> None:
    """Write the space of `hyperspace` that uses block type number `block_type` throughout."""
    space = uniform_space(load_hyperspace(hyperspace), block_type)
    write_json(output, "space", {"space": space.code, "subnets": space.count()}, Record({"block_type": block_type}))


if __name__ == "__main__":
    run(main)
