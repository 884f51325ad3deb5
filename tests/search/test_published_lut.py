"""Published LUTs: every line is read as what it is, and a bad one is named by file and number."""

import shutil

import numpy as np
import pytest
from made import REFERENCE, small_hyperspace

from spaceevo.errors import ArtifactError
from spaceevo.search.published_lut import published_files, read_published_lut
from spaceevo.space import load_hyperspace, parse_stage

HYPERSPACE = small_hyperspace()


@pytest.fixture
def folder(tmp_path):
    """A published LUT of the small hyperspace: a line for every width and resolution that arrive, ascending."""
    for path, stage, block_type, window in published_files(tmp_path, HYPERSPACE):
        kind = HYPERSPACE.block_types[block_type]
        expand = "None" if kind.expands == (0.0,) else f"{kind.expands[-1]:g}"
        width = stage.window_widths(window)[0]
        lines = [
            f"3#{width}#{expand},1x{arriving}x{height}x{height},0.5000,1.2345,0.0678,1.2500"
            for arriving in HYPERSPACE.in_widths(stage.name)
            for height in (HYPERSPACE.map_size(stage.name, r) for r in HYPERSPACE.block_kd_resolutions)
        ]
        path.write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_line_is_a_row(folder):
    table = read_published_lut(folder, HYPERSPACE)
    files = list(published_files(folder, HYPERSPACE))
    assert len(files) == 3 * 2 + 3
    assert len(table) == sum(len(path.read_text().splitlines()) for path, *_ in files)
    row = table.iloc[0]
    assert (row["stage"], row["block_type"], row["window"]) == ("stage1", 0, 0)
    assert (row["choice"], row["in_width"], row["out_width"], row["resolution"]) == ("3#8#0", 8, 8, 8)
    assert (row["loss"], row["macs"], row["params"], row["latency_ms"]) == (0.5, 1_234_500, 67_800, 1.25)


def test_blank_lines_and_other_line_ends_are_no_matter(folder):
    expected = read_published_lut(folder, HYPERSPACE)
    path = folder / "stage1_0_0.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\r\n "))
    assert read_published_lut(folder, HYPERSPACE).equals(expected)
    path.write_text(path.read_text().rstrip())
    assert read_published_lut(folder, HYPERSPACE).equals(expected)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("3#8#None,1x8x6x6,0.5000,1.2345,0.06", "is not of the form"),
        ("3#8#None,1x8x6x6,0.5000,1.2345,0.0678,much", "is not of the form"),
        ("3#8,1x8x6x6,0.5000,1.2345,0.0678,0.2500", "is not of the form"),
        ("7#8#None,1x8x6x6,0.5000,1.2345,0.0678,0.2500", "has the block 7#8#None"),
        ("3#24#None,1x8x6x6,0.5000,1.2345,0.0678,0.2500", "has the block 3#24#None"),
        ("3#8#None_3#8#None_3#8#None,1x8x6x6,0.5000,1.2345,0.0678,0.2500", "has 3 blocks"),
        ("3#8#None,1x24x6x6,0.5000,1.2345,0.0678,0.2500", "has the input 1x24x6x6"),
        ("3#8#None,1x8x7x7,0.5000,1.2345,0.0678,0.2500", "has the input 1x8x7x7"),
        ("3#8#None,1x8x6x6,nan,1.2345,0.0678,0.2500", "has a figure"),
    ],
)
def test_a_bad_line_is_named(folder, bad, said):
    path = folder / "stage1_0_0.csv"
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + bad + "\n")
    with pytest.raises(ArtifactError) as caught:
        read_published_lut(folder, HYPERSPACE)
    sentence = str(caught.value)
    assert sentence.startswith(f"Line {number} of {path} ") and said in sentence and "\n" not in sentence


def test_a_last_line_torn_in_its_last_figure_is_named(folder):
    path = folder / "stage1_0_0.csv"
    whole = path.read_text()
    torn = rf"Line {len(whole.splitlines())} of .*stage1_0_0\.csv ends in the middle"
    path.write_text(whole[:-6])  # in the integer part: "…,1"
    with pytest.raises(ArtifactError, match=torn):
        read_published_lut(folder, HYPERSPACE)
    path.write_text(whole[:-3])
    with pytest.raises(ArtifactError, match=torn):
        read_published_lut(folder, HYPERSPACE)


def test_a_file_that_lacks_whole_lines_is_named(folder):
    path = folder / "stage1_0_0.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ArtifactError, match=r"stage1_0_0\.csv holds no line for 16 channels that arrive at 12 pixels"):
        read_published_lut(folder, HYPERSPACE)


def test_a_missing_file_is_named(folder, tmp_path_factory):
    (folder / "stage2_1_0.csv").unlink()
    with pytest.raises(ArtifactError, match=r"stage2_1_0\.csv"):
        read_published_lut(folder, HYPERSPACE)
    (folder / "stage2_2_0.csv").write_text("")
    shutil.copy(folder / "stage2_2_0.csv", folder / "stage2_1_0.csv")
    with pytest.raises(ArtifactError, match="holds no line"):
        read_published_lut(folder, HYPERSPACE)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ArtifactError, match="give the folder of a published LUT"):
        read_published_lut(empty, HYPERSPACE)


@pytest.mark.parametrize(("name", "rows"), [("mobilew", 188_957), ("onnxw", 118_768)])
def test_the_published_tables_are_read_whole(name, rows):
    folder = REFERENCE / "block_lut" / name
    if not folder.is_dir():
        pytest.skip(f"no published table in {folder}")
    table = read_published_lut(folder, load_hyperspace(name))
    assert len(table) == rows == sum(len(path.read_text().split()) for path in folder.glob("*.csv"))
    assert table["resolution"].isin([160, 192, 224]).all() and table["loss"].between(0, 2).all()
    some = table.iloc[np.random.default_rng(0).choice(len(table), 200, replace=False)]
    assert all(parse_stage(row.choice)[-1].width == row.out_width for row in some.itertuples())


def test_a_lut_of_another_hyperspace_is_refused():
    folder = REFERENCE / "block_lut" / "onnxw"
    if not folder.is_dir():
        pytest.skip(f"no published table in {folder}")
    with pytest.raises(ArtifactError, match=r"Line 1 of .*stage1_0_0\.csv has the block 3#48#None.*of mobilew"):
        read_published_lut(folder, load_hyperspace("mobilew"))
