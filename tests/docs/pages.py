"""The project's Markdown: its pages, and what is in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order; `page` is relative to the project."""
    return [text for found, text in _FENCED.findall((ROOT / page).read_text()) if found == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", page.read_text())


def yaml_example(page: str, title: str) -> str:
    """The one block of YAML that starts with the comment `title`."""
    (text,) = [block for block in blocks(page, "yaml") if block.startswith(f"# {title}\n")]
    return text
