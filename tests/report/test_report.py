"""The report of a made-up run: every file is there, the same each time, and says what the artifacts say."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from report.made_up_run import SPACES, Run

from spaceevo.artifacts import Record, read_json, read_table, write_json
from spaceevo.config import ReportParams
from spaceevo.errors import ArtifactError
from spaceevo.report.figures import device_colours, draw_footprint, draw_front, draw_latency, draw_losses
from spaceevo.report.ledger import STEPS, read_costs, step_costs
from spaceevo.report.results import SEQNETS, read_device
from spaceevo.report.summary import write_report
from spaceevo.search.lut import LUT_KIND
from spaceevo.space import load_hyperspace, parse_space

DPI = 50
PARAMS = ReportParams(dpi=DPI)
FIGURES = {f"{kind}_{device}" for kind in ("front", "footprint", "evolution") for device in SPACES} | {
    "latency_cpu",
    "losses",
}


def write(run: Run, folder: Path) -> Path:
    write_report(run.artifacts, list(SPACES), run.results, PARAMS, folder / "summary.md")
    return folder


@pytest.fixture(scope="module")
def report(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(finished_run, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def summary(report: Path) -> str:
    return (report / "summary.md").read_text()


def test_every_figure_is_there_in_both_forms_and_nothing_else(report: Path) -> None:
    expected = {name + suffix for name in FIGURES for suffix in (".png", ".svg")} | {"summary.md"}
    assert {path.name for path in report.iterdir()} == expected


def test_the_summary_embeds_every_figure(summary: str) -> None:
    for name in FIGURES:
        assert f"({name}.png)]({name}.svg)" in summary


def test_figures_and_summary_are_the_same_each_time(report: Path, finished_run: Run, tmp_path: Path) -> None:
    again = write(finished_run, tmp_path)
    for path in report.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_figure_is_drawn_at_its_size_and_not_empty(report: Path, name: str) -> None:
    picture = imread(report / f"{name}.png")
    assert picture.shape[0] > 3 * DPI and picture.shape[1] > 5 * DPI
    assert np.mean(picture[..., :3].min(axis=2) < 0.9) > 0.01


@pytest.mark.parametrize("device", SPACES)
def test_the_summary_holds_the_numbers_of_every_card(summary: str, finished_run: Run, device: str) -> None:
    section = summary[summary.index(f"## {device}\n") :]
    for name in SEQNETS:
        card = read_json(finished_run.results / device / f"seqnet_{name}.json", "card")
        row = next(line for line in section.splitlines() if line.startswith(f"| **{name}**"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == str(card["resolution"])
        assert float(cells[2]) == pytest.approx(card["macs"] / 1e6, abs=0.005)
        assert float(cells[3]) == pytest.approx(card["params"] / 1e6, abs=0.0005)
        assert float(cells[7].rstrip("\\*")) == pytest.approx(card["latency"]["predicted_ms"], rel=0.005)
        assert cells[7].endswith("\\*") == card["latency"]["predicted_beyond_fitted_range"]
        assert cells[4:6] + cells[8:] == [
            "200, 300",
            "50.0",
            "0.987" if device == "cpu" else "-",
            "94.56",
            "93.12, 93.18",
            "99.87, 99.87",
        ]
        assert f"`{card['subnet']}`" in section


@pytest.mark.parametrize("device", SPACES)
def test_the_front_is_listed_with_its_memory(summary: str, finished_run: Run, device: str) -> None:
    section = summary[summary.index(f"## {device}\n") :]
    subnets = read_device(finished_run.results, device).subnets
    front = subnets[subnets["on_front"]]
    listed = section[: section.index("### Space")].split("<details>")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in listed.splitlines() if "`d" in line]
    assert len(rows) == len(front) > 3 and f"The {len(rows)} subnets on the front" in listed
    for row in rows:
        (found,) = front[front["code"] == row[5].strip("`")].to_dict("records")
        assert [float(cell) for cell in row[2:5]] == pytest.approx(
            [100 * found["accuracy"], found["file_kib"], found["activation_kib"]], abs=0.51
        )
        assert (row[1] == "-") == (device != "cpu")


def test_the_memory_figure_has_a_front_of_its_own_in_each_panel(finished_run: Run) -> None:
    device = read_device(finished_run.results, "cpu")
    for axes, column in zip(draw_footprint(device, "black").axes, ("file_kib", "activation_kib"), strict=True):
        line = next(line for line in axes.lines if line.get_linewidth() == 1.8 and line.get_marker() == "None")
        for size, accuracy in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert accuracy == device.subnets.loc[device.subnets[column] <= size, "accuracy"].max()


def test_finalists_that_were_replaced_are_told(summary: str) -> None:
    cpu, pixel4 = (summary[summary.index(f"## {name}\n") :] for name in ("cpu", "pixel4"))
    assert "A1 took the place of a better subnet that measures over its budget." in cpu
    assert "A3 took the place of 2 better subnets that measure over its budget." in cpu
    assert "took the place" not in pixel4[: pixel4.index("### Space")]


@pytest.mark.parametrize(("device", "code"), SPACES.items())
def test_the_summary_describes_the_space_by_names(summary: str, device: str, code: str) -> None:
    section = summary[summary.index(f"## {device}\n") :]
    assert f"`{code}`" in section
    for options in parse_space(code).options:
        block = f"**{options.block_type.block}**" if options.stage.searched else options.block_type.block
        assert f"| {options.stage.name} | {block} | {', '.join(map(str, options.widths))} |" in section


def test_the_summary_holds_error_figures_however_deep(summary: str) -> None:
    assert "| unseen networks | 30 | 0.0 | 0.0 | 100.0 | 10.0 |" in summary
    assert "by type: resnet |" in summary


def test_a_job_counts_once_however_many_artifacts_it_wrote(finished_run: Run, summary: str) -> None:
    steps = {(step.step, step.device): step for step in step_costs(read_costs(*finished_run))}
    blocks = steps["distilled blocks", ""]
    stages = len(load_hyperspace("tiny").searched_stages)
    assert (blocks.artifacts, blocks.wall_s, blocks.cpu_s) == (3 * stages, 12 * stages, 22 * stages)
    evolution = steps["space evolution", "cpu"]
    assert (evolution.artifacts, evolution.wall_s, evolution.cpu_s) == (2, 30, 31)
    cards = steps["SEQnet cards", "pixel4"]
    assert (cards.artifacts, cards.wall_s) == (5, 10)
    total = sum(step.wall_s for step in steps.values())
    assert f"| **all** |  | {len(finished_run.artifacts)} | **{total:,.1f}** |" in summary
    for artifact in finished_run.artifacts:
        assert f"`{artifact.relative_to(finished_run.results)}`" in summary


def test_the_ledger_follows_the_order_of_steps(finished_run: Run) -> None:
    order = list(STEPS)
    found = [order.index(cost.step) for cost in read_costs(*finished_run)]
    assert found == sorted(found) and order.index("other") not in found


def test_a_missing_artifact_is_named(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"teacher\.safetensors"):
        read_costs(tmp_path, [tmp_path / "teacher.safetensors"])
    with pytest.raises(ArtifactError, match=r"space\.json"):
        read_device(tmp_path, "pixel4")


def test_devices_keep_their_colours() -> None:
    colours = device_colours(["a", "b", "c"], "#123456")
    assert colours["a"] == "#123456"
    assert len(set(colours.values())) == 3
    assert device_colours(["a", "b"], "#123456")["b"] == colours["b"]


def test_budgets_that_share_a_winner_share_a_label(finished_run: Run) -> None:
    device = read_device(finished_run.results, "cpu")
    shared = replace(device, cards=device.cards | {"A4": device.cards["A3"]})
    labels = [text.get_text() for text in draw_front(shared, "black").axes[0].texts]
    assert labels == ["A0", "A1", "A2", "A3, A4"]


def test_the_latency_figure_states_its_errors_and_survives_an_empty_test(finished_run: Run) -> None:
    device = read_device(finished_run.results, "cpu")
    (text,) = draw_latency(device, "black").axes[0].texts
    predicted, measured = device.test_latencies
    within = np.mean(np.abs(predicted / measured - 1) <= 0.15)
    assert f"{len(measured)} networks" in text.get_text()
    assert f"within 15 %: {100 * within:.0f} %" in text.get_text()
    untested = replace(device, profile=device.profile[device.profile["split"] == "fit"])
    assert "no network" in draw_latency(untested, "black").axes[0].texts[0].get_text()


def test_the_loss_figure_marks_what_each_space_took(finished_run: Run) -> None:
    devices = [read_device(finished_run.results, name) for name in SPACES]
    hyperspace, table = load_hyperspace("tiny"), read_table(finished_run.results / "blocks" / "lut.parquet", LUT_KIND)
    colours = device_colours(list(SPACES), PARAMS.colour)
    figure = draw_losses(table, hyperspace, devices, colours)
    names = [block_type.block for block_type in hyperspace.block_types]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    for number, (stage, axes) in enumerate(zip(hyperspace.searched_stages, figure.axes, strict=True)):
        assert axes.get_title(loc="left") == stage.name
        marks = {(text.get_color(), text.xy[1]) for text in axes.texts}
        assert marks == {(colours[d.name], d.space.block_types[number]) for d in devices}


def test_the_loss_figure_shows_ratios_without_what_resolutions_cost(finished_run: Run) -> None:
    devices = [read_device(finished_run.results, name) for name in SPACES]
    table = read_table(finished_run.results / "blocks" / "lut.parquet", LUT_KIND)
    colours = device_colours(list(SPACES), PARAMS.colour)

    def ends(shown: pd.DataFrame) -> float:
        (axes, *_) = draw_losses(shown, load_hyperspace("tiny"), devices, colours).axes
        return float(axes.dataLim.x1)

    assert ends(table.assign(nsr=table["loss"], loss=table["loss"] + 5)) == ends(table)
    assert ends(table.assign(loss=table["loss"] + 5)) > ends(table) + 4


def test_a_run_of_imported_supernets_has_neither_losses_nor_evolutions(finished_run: Run, tmp_path: Path) -> None:
    """Of one device that imports a checkpoint, in a folder without blocks."""
    results = tmp_path / "results"
    shutil.copytree(finished_run.results / "pixel4", results / "pixel4")
    (results / "pixel4" / "space_history.parquet").unlink()
    grids = {"weights": {"converted": 40}, "activations": {"converted": 30, "calibrated": 33}}
    space = {"space": SPACES["pixel4"], "checkpoint": "checkpoints/lsq.pth", "subnets": 5, "grids": grids}
    imported = Record({"checkpoint": "checkpoints/lsq.pth"})
    write_json(results / "pixel4" / "space.json", "space", space, imported)
    artifacts = sorted(path for path in results.rglob("*") if path.is_file())
    write_report(artifacts, ["pixel4"], results, PARAMS, tmp_path / "report" / "summary.md")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "summary.md",
        "front_pixel4.png",
        "front_pixel4.svg",
        "footprint_pixel4.png",
        "footprint_pixel4.svg",
    }
    text = (tmp_path / "report" / "summary.md").read_text()
    assert "imported from `checkpoints/lsq.pth`" in text
    assert "weights 40 converted; of its activations 30 converted, 33 calibrated" in text
    assert "| checkpoint import | pixel4 | 1 |" in text
    assert "Q-T score" not in text and "losses" not in text and "evolution" not in text


def test_an_imported_supernet_beside_an_evolved_one(finished_run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(finished_run.results, results)
    space = {"space": "tiny-4664-1222", "checkpoint": "lsq.pth", "subnets": 5, "grids": {}}
    write_json(results / "pixel4" / "space.json", "space", space, Record({"checkpoint": "lsq.pth"}))
    write_report([], list(SPACES), results, PARAMS, tmp_path / "report" / "summary.md")
    names = {path.stem for path in (tmp_path / "report").iterdir()} - {"summary"}
    assert names == FIGURES - {"evolution_pixel4"}
