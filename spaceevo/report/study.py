"""The study of a device for people: two figures, and a summary that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from spaceevo.artifacts import write_bytes
from spaceevo.config import ReportParams, StudyParams
from spaceevo.latency.study.findings import WORTHWHILE, Cost, Findings, Row, StepGain
from spaceevo.latency.study.units import EXPAND, NARROW, PRECISIONS, WIDTH_LAYERS, Precision
from spaceevo.report.figures import INK, MUTED, drawing, save
from spaceevo.report.markdown import digits, figure_link, markdown_table

OPERATORS, WIDTHS = "operators", "widths"  # the figures
SLOWER = "#c8553d"
NEGLIGIBLE = 0.05  # share of a layer's latency
FRIENDLY, UNFRIENDLY = 1.5, 1.1  # speed-ups from which on, and below which, this is said
TITLES = {
    "operators": "operators",
    "activations": "1×1 convolution, by its activation",
    "kernels": "kernel sizes",
    "squeeze-and-excitation": "squeeze-and-excitation",
    "blocks": "block types of the hyperspace",
}
NAMES = {"int8": "INT8", "fp32": "FP32"}
SMALLEST_DOT = 9  # points², of the finest step


@dataclass(frozen=True)
class Circumstances:
    """Where and how a study was made.

    Attributes:
        machine: in words.
        channels, height: of the layers and blocks that are compared.
        measured, planned: models.
        interval: typical half-width of a model's 95 % interval, relative.
        drift: largest variation of the reference model within a batch, relative.
    """

    device: str
    machine: str
    channels: int
    height: int
    measured: int
    planned: int
    interval: float
    drift: float


def circumstances(
    device: str, machine: Mapping[str, Any], params: StudyParams, table: pd.DataFrame, planned: int
) -> Circumstances:
    """Where and how the measurements in `table` were made, of so many models that were planned."""
    halves = np.maximum(table["high_ms"] - table["latency_ms"], table["latency_ms"] - table["low_ms"])
    stated = {**machine, "threads": f"threads: {machine.get('threads')}"}
    said = [" ".join(map(str, value)) if isinstance(value, list) else str(value) for value in stated.values() if value]
    return Circumstances(
        device=device,
        machine=", ".join(said),
        channels=params.channels,
        height=params.height,
        measured=len(table),
        planned=planned,
        interval=float((halves / table["latency_ms"]).median()),
        drift=float(table["drift"].max()),
    )


def write_study(findings: Findings, made: Circumstances, params: ReportParams, summary: Path) -> None:
    """Write `summary` and its figures beside it, as PNG and SVG."""
    save(draw_operators(findings, made, params.colour), summary.with_name(OPERATORS), params.dpi)
    save(draw_widths(findings, made, params.colour), summary.with_name(WIDTHS), params.dpi)
    write_bytes(summary, summarise(findings, made).encode())


def draw_operators(findings: Findings, made: Circumstances, colour: str) -> Figure:
    """How many times faster everything is in INT8 than in FP32, and what it takes."""
    groups = [(title, rows) for name, title in TITLES.items() if (rows := findings.group(name))]
    if not groups:
        with drawing(7.6, 1.0) as figure:
            figure.text(0.01, 0.5, f"{made.device}: there was no time for any layer", va="center", color=MUTED)
        return figure
    count = sum(len(rows) for _, rows in groups)
    found = [row.speedup for row in findings.rows if row.speedup is not None]
    ends = min([0.8, *found]) / 1.6, max([1.25, *found]) * 1.5  # with room for numbers beside the bars
    with drawing(7.6, 1.0 + 0.24 * count + 0.36 * len(groups)) as figure:
        ratios = [len(rows) + 0.6 for _, rows in groups]
        for axes, (title, rows) in zip(
            figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=ratios).flat, groups, strict=True
        ):
            axes.set_xscale("log", base=2)
            axes.set_xlim(ends)
            for place, row in enumerate(rows):
                _draw_speedup(axes, place, row, colour)
            axes.axvline(1.0, color=MUTED, lw=1.0)
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_yticks(range(len(rows)), [row.quantity.name for row in rows])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
            axes.set_title(title)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("FP32 latency over INT8 latency: to the right of 1×, INT8 is faster")
        figure.suptitle(
            f"{made.device}: INT8 against FP32, {made.channels} channels on {made.height} × {made.height}",
            x=0.01,
            ha="left",
            size=11.5,
            weight="bold",
        )
    return figure


def _draw_speedup(axes: Axes, place: int, row: Row, colour: str) -> None:
    """A bar from 1 to the speed-up; beside the axes, what it takes in both precisions."""
    if row.speedup is None:
        axes.text(1.0, place, " lost in noise", va="center", size=8, color=MUTED)
    else:
        axes.barh(place, row.speedup - 1.0, 0.62, 1.0, color=colour if row.speedup >= 1 else SLOWER, lw=0)
        axes.annotate(
            f"{row.speedup:.2f}×",
            (row.speedup, place),
            xytext=(3 if row.speedup >= 1 else -3, 0),
            textcoords="offset points",
            ha="left" if row.speedup >= 1 else "right",
            va="center",
            size=8,
            color=INK,
        )
    text = f"{_us(row.int8)} / {_us(row.fp32)} µs"
    axes.text(1.19, place, text, transform=axes.get_yaxis_transform(), ha="right", va="center", size=8, color=MUTED)


def draw_widths(findings: Findings, made: Circumstances, colour: str) -> Figure:
    """Latency per multiply-accumulate by width, larger dots for multiples of larger steps."""
    with drawing(9.6, 5.4) as figure:
        grid = figure.subplots(len(PRECISIONS), len(WIDTH_LAYERS), sharex=True, squeeze=False)
        for precision, line in zip(PRECISIONS, grid, strict=True):
            for layer, axes in zip(WIDTH_LAYERS, line, strict=True):
                _draw_width(axes, findings, layer, precision, colour if precision == "int8" else MUTED)
                if precision == PRECISIONS[0]:
                    axes.set_title(layer)
            line[0].set_ylabel(f"{NAMES[precision]}: ps per MAC")
        for axes in grid[-1]:
            axes.set_xlabel("channels")
        count = len(findings.steps)
        handles = [
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                ms=_size(index) ** 0.5,
                mew=0,
                color=colour,
                alpha=_alpha(index, count),
                label=f"multiple of {step}" if step > 1 else "other widths",
            )
            for index, step in enumerate(findings.steps)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.suptitle(
            f"{made.device}: latency per multiply-accumulate by width, on {made.height} × {made.height}",
            x=0.01,
            ha="left",
            size=11.5,
            weight="bold",
        )
    return figure


def _draw_width(axes: Axes, findings: Findings, layer: str, precision: Precision, colour: str) -> None:
    costs = findings.widths(layer, precision)
    largest = [cost for cost in costs if cost.width % findings.steps[-1] == 0]
    axes.plot([c.width for c in largest], [c.per_mac for c in largest], color=colour, lw=1.2, alpha=0.6)
    for index, step in enumerate(findings.steps):
        larger = findings.steps[index + 1 :]
        own = [c for c in costs if c.width % step == 0 and all(c.width % other for other in larger)]
        axes.scatter(
            [c.width for c in own],
            [c.per_mac for c in own],
            s=_size(index),
            color=colour,
            alpha=_alpha(index, len(findings.steps)),
            linewidths=0,
            zorder=3,
        )
    axes.set_ylim(0, 1.08 * max((cost.per_mac for cost in costs), default=1.0))


def _size(index: int) -> float:
    return SMALLEST_DOT + 11.0 * index


def _alpha(index: int, count: int) -> float:
    return 0.45 + 0.5 * index / max(1, count - 1)


def summarise(findings: Findings, made: Circumstances) -> str:
    """The summary as Markdown; its figures are expected beside it."""
    left_out = made.planned - made.measured
    parts = [
        f"# What is fast on {made.device}\n",
        f"{made.machine}. {made.measured} small models were timed, each typically known to "
        f"±{100 * made.interval:.1f} %; the machine's speed varied by {_percent(made.drift)} at most while a batch of "
        "them was measured.\n",
        f"{left_out} of {made.planned} models were left out for lack of time, among them the finest widths: raise "
        "`study.time_limit_s`.\n"
        if left_out
        else "",
        "## What to do\n",
        "".join(f"- {line}\n" for line in recommendations(findings)),
    ]
    if findings.rows:
        parts += [
            "## INT8 against FP32\n",
            f"{made.channels} channels on a {made.height} × {made.height} map, stride 1, in company of others alike; "
            f"the inverted residual expands by {EXPAND:g}. What is no layer of its own (addition, pooling, gate, "
            "squeeze-and-excitation) is what it adds to a 1×1 convolution. ± is a 95 % interval.\n",
            figure_link(OPERATORS, "Speed-up of INT8 over FP32"),
            *(f"### {TITLES[name].capitalize()}\n\n{_rows(rows)}" for name in TITLES if (rows := findings.group(name))),
        ]
    parts += [
        "## Widths\n",
        "A width that is a multiple of a step, against those between its neighbours that are multiples of the next "
        "finer step alone. Convolutions are as wide at their input as at their output; of the inverted residual, with "
        f"{NARROW} channels at its ends, the inner width is meant.\n",
        figure_link(WIDTHS, "Latency per multiply-accumulate by width"),
        _gains(findings.gains),
    ]
    return "\n".join(part for part in parts if part)


def recommendations(findings: Findings) -> list[str]:
    """What follows for the design of a hyperspace, one sentence or two each, from the measurements alone."""
    lines = [
        _verdict("Operators", findings.group("operators")),
        _verdict("Block types", findings.group("blocks")),
        _activations(findings.group("activations")),
        *(_kernels(layer, findings.group("kernels")) for layer in ("convolution", "depthwise", "inverted residual")),
        _squeeze_excite(findings.group("squeeze-and-excitation")),
        *(_width(findings, layer) for layer in WIDTH_LAYERS),
    ]
    return [line for line in lines if line]


def _verdict(what: str, rows: Sequence[Row]) -> str:
    known = [(row.speedup, row.quantity.name) for row in rows if row.speedup is not None]
    known.sort(reverse=True)
    friendly = [f"{name} ({speedup:.1f}×)" for speedup, name in known if speedup >= FRIENDLY]
    little = [f"{name} ({speedup:.1f}×)" for speedup, name in known if UNFRIENDLY <= speedup < FRIENDLY]
    none = [f"{name} ({speedup:.1f}×)" for speedup, name in known if speedup < UNFRIENDLY]
    sentences = [
        f"{said}: {', '.join(names)}."
        for said, names in (
            ("quantization-friendly", friendly),
            ("faster in INT8 by little", little),
            ("not faster in INT8, to be used sparingly", none),
        )
        if names
    ]
    if not sentences:
        return ""
    sentences[1:] = [sentence[0].upper() + sentence[1:] for sentence in sentences[1:]]
    return f"**{what}** {' '.join(sentences)}"


def _activations(rows: Sequence[Row]) -> str:
    if len(rows) < 2 or rows[0].quantity.name != "none":
        return ""
    added = [
        f"{row.quantity.name} {_more(row.int8, rows[0].int8)} ({_more(row.fp32, rows[0].fp32)} in FP32)"
        for row in rows[1:]
    ]
    return f"**Activations** add to the time of a 1×1 convolution in INT8: {', '.join(added)}."


def _kernels(layer: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row.quantity.name.startswith(f"{layer} ")]
    if len(own) < 2:
        return ""
    first = own[0]
    sizes = [row.quantity.name.removeprefix(f"{layer} ") for row in own]
    larger = [
        f"{size} takes {row.int8.ms / first.int8.ms:.1f} times as long as {sizes[0]} in INT8, "
        f"{row.fp32.ms / first.fp32.ms:.1f} in FP32, for {row.macs / first.macs:.1f} times the multiply-accumulates"
        for size, row in zip(sizes[1:], own[1:], strict=True)
    ]
    return f"**Kernel size**, {layer}: {'; '.join(larger)}."


def _squeeze_excite(rows: Sequence[Row]) -> str:
    if len(rows) != 2:
        return ""
    without, with_ = rows
    return (
        f"**Squeeze-and-excitation** adds {_more(with_.int8, without.int8)} to an inverted residual in INT8, "
        f"{_more(with_.fp32, without.fp32)} in FP32."
    )


def _width(findings: Findings, layer: str) -> str:
    gains = [gain for gain in findings.gains if (gain.layer, gain.precision) == (layer, "int8")]
    if not gains:
        return ""
    step = findings.recommended_step(layer, "int8")
    said = [
        f"those of {gain.step} cost {_percent(gain.saving)} less per multiply-accumulate than other "
        + (f"multiples of {gain.finer}" if gain.finer > 1 else "widths")
        for gain in gains
        if gain.saving >= WORTHWHILE
    ]
    if not said:
        return f"**Widths**, {layer}: no multiple costs less than others; any width will do."
    wasteful = sorted({width for gain in gains for width in gain.wasteful})
    text = f"**Widths**, {layer}: take multiples of {step}; {', '.join(said)}."
    if wasteful:
        text += f" No faster than something wider: {_listed(wasteful)}."
    return text


def _listed(widths: Sequence[int]) -> str:
    """Widths as text, runs of at least three as ranges."""
    runs: list[list[int]] = []
    for width in widths:
        if runs and width == runs[-1][-1] + 1:
            runs[-1].append(width)
        else:
            runs.append([width])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _rows(rows: Iterable[Row]) -> str:
    return markdown_table(
        ("", "INT8 µs", "±", "FP32 µs", "±", "FP32 / INT8", "M MACs", "INT8 GMAC/s"),
        [
            (
                row.quantity.name,
                _us(row.int8),
                digits(1000 * row.int8.error_ms),
                _us(row.fp32),
                digits(1000 * row.fp32.error_ms),
                "lost in noise" if row.speedup is None else f"**{row.speedup:.2f}**",
                f"{row.macs / 1e6:.2f}" if row.quantity.less is None else "-",
                f"{row.macs / 1e6 / row.int8.ms:.0f}" if row.quantity.less is None and row.int8.resolved else "-",
            )
            for row in rows
        ],
    )


def _gains(gains: Iterable[StepGain]) -> str:
    return markdown_table(
        ("layer", "", "multiples of", "against", "less per MAC", "widths compared", "no faster than the next multiple"),
        [
            (
                gain.layer,
                NAMES[gain.precision],
                str(gain.step),
                f"other multiples of {gain.finer}" if gain.finer > 1 else "other widths",
                f"{100 * gain.saving:.1f} %",
                str(gain.compared),
                _listed(gain.wasteful) or "-",
            )
            for gain in gains
        ],
    )


def _more(cost: Cost, than: Cost) -> str:
    """How much more one takes than another, in percent; nothing where it is within its error, or negligible."""
    difference = cost - than
    if abs(difference.ms) <= max(difference.error_ms, NEGLIGIBLE * than.ms):
        return "nothing"
    return _percent(difference.ms / than.ms)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _us(cost: Cost) -> str:
    return digits(1000 * cost.ms)
