"""Write facts that DVC compares as parameters: digests of code, fingerprints of machines."""

import json
from pathlib import Path

from spaceevo.artifacts import Record, write_json
from spaceevo.scripting import run


def main(kind: str, facts: str, output: Path) -> None:
    """`facts` is a JSON mapping."""
    content = json.loads(facts)
    write_json(output, kind, content, Record({"facts": sorted(content)}))


if __name__ == "__main__":
    run(main)
