"""`snakemake --report` in a real browser: it opens, shows every category with its captions, and reports no error."""

import subprocess
import sys
from pathlib import Path

import pytest
from workflow.browser import CHROMIUM, Page, browser_page
from workflow.team import copied, environment

from spaceevo.errors import SpaceEvoError
from spaceevo.report.pages import section_page

DEVICES = ("cpu", "pixel4")
FIGURES = {
    "Accuracy and latency": DEVICES,
    "Accuracy and memory": DEVICES,
    "Evolution of the space": DEVICES,
    "Latency predictor": ("cpu",),
    "Losses of the blocks": ("all",),
}
TABLES = {"Costs": ("all",), "SEQnets and their tables": DEVICES}

# Clicks an entry of the menu by its text.
CLICK_ENTRY = """
(async () => {{
  const entry = [...document.querySelectorAll("li a")].find(each => each.innerText.trim() == "{text}");
  if (entry) {{
    entry.click();
    await new Promise(done => setTimeout(done, 300));
  }}
  return Boolean(entry);
}})()
"""
# Labels of the results that are listed.
LABELS = """
[...document.querySelectorAll("tbody tr")].map(row => row.querySelector("td").innerText.trim()).filter(text => text)
"""
# Clicks one of the buttons beside a result: 0 shows it, 1 tells about it.
CLICK_BUTTON = """
(async () => {{
  const row = [...document.querySelectorAll("tbody tr")].find(row => row.innerText.trim() == "{label}");
  row.querySelectorAll("a[type=button]")[{button}].click();
  await new Promise(done => setTimeout(done, 300));
}})()
"""
# Whether a figure is drawn; the content of the page that is shown in a frame.
FIGURE = "document.querySelector('img[src^=\"data:image/svg\"]').decode().then(() => true, () => false)"
TABLE = "fetch(document.querySelector('iframe').src).then(page => page.text())"
CAPTION = "document.querySelector('li.prose').innerText"


@pytest.fixture(scope="module")
def report(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copied(finished, tmp_path_factory.mktemp("reported") / "project")
    words = [sys.executable, "-m", "snakemake", "--report", "report.html"]
    done = subprocess.run(
        words, cwd=project, env=environment(project), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return project / "report.html"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_every_category_shows(report: Path, tmp_path: Path) -> None:
    with browser_page(tmp_path) as page:
        page.open(report)
        assert page.run("Object.keys(categories).sort()") == sorted({**FIGURES, **TABLES})
        for category, labels in {**FIGURES, **TABLES}.items():
            check_category(page, report, category, labels)
        page.open(report)
        for entry in ("Workflow", "Statistics"):
            assert page.run(CLICK_ENTRY.format(text=entry)), entry
        assert page.errors == []
        assert page.requests == []  # all is in the one file


def check_category(page: Page, report: Path, category: str, labels: tuple[str, ...]) -> None:
    """Each result of a category is listed, is drawn, and has a caption."""
    for label in labels:
        page.open(report)
        assert page.run(CLICK_ENTRY.format(text=category)), category
        assert sorted(page.run(LABELS)) == sorted(labels)
        page.run(CLICK_BUTTON.format(label=label, button=0))
        if category in FIGURES:
            assert page.run(FIGURE), (category, label)
        else:
            assert "<table>" in page.run(TABLE), (category, label)
        page.run(CLICK_BUTTON.format(label=label, button=1))
        assert len(page.run(CAPTION)) > 30, (category, label)


SUMMARY = """# Networks

## one

[![a figure](one.png)](one.svg)

| name | ms |
|---|---|
| A<0> | 1.5 |

## Costs

<details><summary>all</summary>

text

</details>
"""


def test_a_page_has_the_tables_of_its_section_alone() -> None:
    page = section_page(SUMMARY, "one")
    assert "<table>" in page and "<td>1.5</td>" in page
    assert "figure" not in page and "<p>" not in page
    assert "<details>" in section_page(SUMMARY, "Costs")
    with pytest.raises(SpaceEvoError, match="no section 'two'"):
        section_page(SUMMARY, "two")
