"""Sections of the summary as HTML pages of their own: the tables of `snakemake --report`."""

from __future__ import annotations

import html
import re

from spaceevo.errors import SpaceEvoError

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 1.5em; color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 0.7em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; }
"""


def section_page(summary: str, section: str) -> str:
    """A page with the text and tables of one section; its figures are left out.

    Args:
        summary: Markdown of `spaceevo.report.summary`.
        section: title of one of its sections of the second level.

    Raises:
        SpaceEvoError: there is no such section.
    """
    from markdown_it import MarkdownIt

    for part in re.split(r"^(?=## )", summary, flags=re.MULTILINE):
        if part.partition("\n")[0] == f"## {section}":
            text = re.sub(r"^\[?!\[.*\n", "", part, flags=re.MULTILINE)
            body = MarkdownIt("commonmark").enable("table").render(text)
            title = html.escape(section)
            return (
                f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
                f"<style>{STYLE}</style></head>\n<body>\n{body}</body>\n</html>\n"
            )
    raise SpaceEvoError(f"The summary has no section {section!r}: remake it with snakemake --forcerun report.")
