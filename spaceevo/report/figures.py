"""The report's figures. Each function draws one and returns it; `save` writes PNG and SVG, the same bytes each time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from spaceevo.artifacts import atomic_path
from spaceevo.latency.regression import error_figures
from spaceevo.report.results import DeviceResults
from spaceevo.space import Hyperspace

INK, MUTED, FAINT, BOX = "#222222", "#6b6b6b", "#d9d9d9", "#c4c9cc"
OTHER_DEVICES = ("#c8553d", "#5b8c3a", "#7d5ba6", "#c9952c", "#4a4e69")  # after the colour of the main series
TOLERANCE = 0.15  # the band around exact predictions
DOT = 0.45  # opacity of dots that may lie on each other
LOW_SCORES = 0.02  # share of evaluations that may lie below the axis, so that a few hopeless ones do not flatten it

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "svg.hashsalt": "spaceevo",  # or identifiers in the SVG are drawn at random
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def device_colours(names: Sequence[str], main: str) -> dict[str, str]:
    """One colour per device: `main` for the first, the same ones in the same order in every figure."""
    palette = (main, *OTHER_DEVICES)
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def save(figure: Figure, stem: Path, dpi: int) -> None:
    """Write `<stem>.png` at `dpi` dots per inch and `<stem>.svg`."""
    with mpl.rc_context(STYLE):
        for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
            with atomic_path(stem.with_name(stem.name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=metadata)


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of this size in inches, in the report's style, independent of any display."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


def draw_front(device: DeviceResults, colour: str) -> Figure:
    """Validation accuracy against predicted latency: every evaluated subnet, the front, and the five SEQnets."""
    subnets = device.subnets
    front = subnets[subnets["on_front"]].sort_values("latency_ms")
    with drawing(7.0, 4.4) as figure:
        axes = figure.subplots()
        axes.scatter(subnets["latency_ms"], subnets["accuracy"], s=18, color=colour, alpha=DOT, linewidths=0)
        axes.plot(front["latency_ms"], front["accuracy"], color=colour, lw=1.8, drawstyle="steps-post")
        _mark_seqnets(axes, device, colour)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel="predicted latency, ms", ylabel="INT8 accuracy on val")
        axes.set_title(f"{device.name}: accuracy and latency")
        legend_above(
            axes,
            Line2D([], [], ls="", marker="o", ms=4.5, mew=0, color=colour, alpha=DOT, label="evaluated subnet"),
            Line2D([], [], color=colour, lw=1.8, label="front"),
            Line2D([], [], ls="", marker="o", ms=7, mfc="white", mec=colour, mew=1.8, label="SEQnet"),
        )
    return figure


def legend_above(axes: Axes, *handles: Line2D) -> None:
    """A legend in one row beside the title, where it covers nothing."""
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles), borderaxespad=0.2)


def _mark_seqnets(axes: Axes, device: DeviceResults, colour: str, column: str = "latency_ms") -> None:
    """Ring the SEQnets; budgets that share a winner share a label."""
    names: dict[str, list[str]] = {}
    for name, card in device.cards.items():
        names.setdefault(card["subnet"], []).append(name)
    chosen = device.subnets.set_index("code").loc[list(names)]
    axes.plot(chosen[column], chosen["accuracy"], "o", ms=8, mfc="white", mec=colour, mew=1.8, zorder=4)
    for (_, subnet), label in zip(chosen.iterrows(), names.values(), strict=True):
        axes.annotate(
            ", ".join(label),
            (subnet[column], subnet["accuracy"]),
            xytext=(-5, 6),
            textcoords="offset points",
            ha="right",
            weight="bold",
            color=INK,
            annotation_clip=False,
        )
    axes.margins(x=0.06, y=0.08)


def draw_footprint(device: DeviceResults, colour: str) -> Figure:
    """Validation accuracy against the file's size and the activations' memory, each with its own front."""
    panels = (("file_kib", "TFLite file, KiB, about"), ("activation_kib", "INT8 activations, KiB"))
    with drawing(9.6, 4.0) as figure:
        for axes, (column, label) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
            subnets = device.subnets.sort_values([column, "accuracy"], ascending=[True, False])
            axes.scatter(subnets[column], subnets["accuracy"], s=18, color=colour, alpha=DOT, linewidths=0)
            front = subnets[subnets["accuracy"] > subnets["accuracy"].cummax().shift(fill_value=-1.0)]
            axes.plot(front[column], front["accuracy"], color=colour, lw=1.8, drawstyle="steps-post")
            _mark_seqnets(axes, device, colour, column)
            axes.set_xlabel(label)
        axes = figure.axes[0]
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("INT8 accuracy on val")
        axes.set_title(f"{device.name}: accuracy and memory")
    return figure


def draw_evolution(device: DeviceResults, colour: str) -> Figure:
    """Q-T score of every evaluated space, and the best so far, of a device whose space was evolved."""
    history = device.history
    assert history is not None
    with drawing(7.0, 3.6) as figure:
        axes = figure.subplots()
        number = history["evaluation"] + 1
        axes.scatter(number, history["score"], s=14, color=colour, alpha=DOT, linewidths=0)
        axes.step(number, history["best_score"], where="post", color=colour, lw=1.8)
        low, high = float(history["score"].quantile(LOW_SCORES)), float(history["best_score"].max())
        margin = 0.05 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)
        axes.set(xlabel="evaluation", ylabel="Q-T score")
        axes.set_title(f"{device.name}: evolution of the space")
        axes.margins(x=0.01)
        legend_above(
            axes,
            Line2D([], [], ls="", marker="o", ms=4.5, mew=0, color=colour, alpha=DOT, label="evaluated space"),
            Line2D([], [], color=colour, lw=1.8, label="best so far"),
        )
    return figure


def draw_losses(
    lut: pd.DataFrame, hyperspace: Hyperspace, devices: Sequence[DeviceResults], colours: Mapping[str, str]
) -> Figure:
    """Distribution of the LUT's INT8 losses per stage and block type, with the type that each device's space took."""
    stages, names = hyperspace.searched_stages, [block_type.block for block_type in hyperspace.block_types]
    losses = lut["nsr"] if "nsr" in lut else lut["loss"]  # a published LUT has no more than that
    columns = len(stages) if len(stages) <= 4 else math.ceil(len(stages) / 2)
    rows = math.ceil(len(stages) / columns)
    with drawing(1.6 + 2.0 * columns, rows * (1.1 + 0.25 * len(names))) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(stages) :]:
            axes.set_visible(False)
        for number, (stage, axes) in enumerate(zip(stages, grid.flat, strict=False)):
            of_stage = lut["stage"] == stage.name
            taken: dict[int, list[str]] = {}
            for device in devices:
                taken.setdefault(device.space.block_types[number], []).append(colours[device.name])
            for row in range(len(names)):
                _draw_box(axes, row, losses[of_stage & (lut["block_type"] == row)], taken.get(row, []))
            axes.set_title(stage.name)
            axes.set_yticks(range(len(names)), names)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.12)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        grid[0, 0].invert_yaxis()
        figure.supxlabel("INT8 loss: share of the signal of the teacher's stage", size=9.5, color=INK)
        handles = [
            Line2D([], [], ls="", marker="o", ms=6, mew=0, color=colours[d.name], label=f"in the space of {d.name}")
            for d in devices
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure


def _draw_box(axes: Axes, row: int, losses: pd.Series[float], dots: Sequence[str]) -> None:
    """A box from quartile to quartile, a line at the median, whiskers from 5 to 95 %, dots behind the upper whisker."""
    if losses.empty:
        return
    low, first, median, third, high = np.quantile(losses, [0.05, 0.25, 0.5, 0.75, 0.95])
    axes.hlines(row, low, high, color=MUTED, lw=1.0)
    axes.barh(row, third - first, 0.6, first, color=BOX, lw=0)
    axes.vlines(median, row - 0.3, row + 0.3, color=INK, lw=1.8)
    for place, colour in enumerate(dots):
        at = (8 + 8 * place, 0)
        axes.annotate("●", (high, row), at, textcoords="offset points", ha="center", va="center", color=colour, size=9)


def draw_latency(device: DeviceResults, colour: str) -> Figure:
    """Predicted against measured latency of the networks that the predictor was not fitted on."""
    assert device.test_latencies is not None
    predicted, measured = device.test_latencies
    with drawing(5.2, 5.0) as figure:
        axes = figure.subplots()
        axes.set(xlabel="measured latency, ms", ylabel="predicted latency, ms")
        axes.set_title(f"{device.name}: latency of unseen networks")
        if not len(measured):
            axes.text(0.5, 0.5, "no network was measured to test on", ha="center", transform=axes.transAxes)
            return figure
        low, high = 0.93 * min(predicted.min(), measured.min()), 1.05 * max(predicted.max(), measured.max())
        line = np.array([low, high])
        axes.fill_between(
            line, (1 - TOLERANCE) * line, (1 + TOLERANCE) * line, color=FAINT, alpha=0.6, lw=0, label="±15 %"
        )
        axes.plot(line, line, color=MUTED, lw=1.0, label="exact")
        axes.scatter(measured, predicted, s=22, color=colour, alpha=0.75, linewidths=0, label="network", zorder=3)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        figures = error_figures(predicted, measured)
        axes.text(
            0.03,
            0.97,
            f"{figures['models']} networks\n"
            f"within 5 %: {100 * figures['within_5_percent']:.0f} %\n"
            f"within 10 %: {100 * figures['within_10_percent']:.0f} %\n"
            f"within 15 %: {100 * figures['within_15_percent']:.0f} %\n"
            f"mean |error|: {100 * figures['mean_absolute_relative_error']:.1f} %",
            transform=axes.transAxes,
            va="top",
            linespacing=1.4,
        )
        axes.legend(loc="lower right")
    return figure
