"""Write sections of the summary as HTML pages."""

import json
from pathlib import Path

from spaceevo.artifacts import write_bytes
from spaceevo.report.pages import section_page
from spaceevo.scripting import run


def main(pages: list[Path], summary: Path, sections: str) -> None:
    """Write one page for each of `sections`, a JSON list of titles."""
    text = summary.read_text()
    for page, section in zip(pages, json.loads(sections), strict=True):
        write_bytes(page, section_page(text, section).encode())


if __name__ == "__main__":
    run(main)
