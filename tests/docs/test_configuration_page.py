"""docs/configuration.md and params.schema.json are what the typed parameters say."""

import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import ROOT

from spaceevo.config import Params

WRITTEN = ("docs/configuration.md", "params.schema.json")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("written")
    paths = {name: folder / Path(name).name for name in WRITTEN}
    tool = ROOT / "tools" / "write_configuration.py"
    page, schema = paths.values()
    subprocess.run([sys.executable, tool, "--page", page, "--schema", schema], check=True)
    return paths


@pytest.mark.parametrize("name", WRITTEN)
def test_the_committed_file_is_up_to_date(fresh: dict[str, Path], name: str) -> None:
    assert (ROOT / name).read_text() == fresh[name].read_text(), f"run python tools/write_configuration.py: {name}"


def test_every_section_is_on_the_page(fresh: dict[str, Path]) -> None:
    headings = [line for line in fresh["docs/configuration.md"].read_text().splitlines() if line.startswith("## ")]
    for name, field in Params.model_fields.items():
        if field.description is None:  # of single values only
            assert any(f"`{name}" in heading for heading in headings), name
