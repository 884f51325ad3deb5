"""The comparison of a device's evolved space with uniform ones for people: two figures and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from spaceevo.artifacts import read_json, read_table, write_bytes
from spaceevo.config import ReportParams
from spaceevo.errors import ArtifactError
from spaceevo.report.figures import BOX, INK, MUTED, drawing, legend_above, save
from spaceevo.report.markdown import figure_link, markdown_table
from spaceevo.report.results import SEQNETS
from spaceevo.search.comparison import BEST, OUTCOMES_KIND, RANDOM
from spaceevo.space import Space, parse_space

EVOLVED = "evolved"  # name of the folder of its outcomes; those of the others are as they like
ACCURACIES, ERRORS = "accuracies", "errors"  # the figures

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """A space and what its supernets gave: outcomes of `spaceevo.search.comparison`, one table per seed."""

    space: Space
    evolved: bool
    runs: tuple[pd.DataFrame, ...]

    @property
    def name(self) -> str:
        """`evolved`, or its block types, each once: one for a uniform space."""
        types = self.space.hyperspace.block_types
        return EVOLVED if self.evolved else ", ".join(dict.fromkeys(types[i].block for i in self.space.block_types))

    @cached_property
    def accuracies(self) -> Floats:
        """INT8 test accuracy of the best subnet [seeds, budgets]; NaN where none is within the budget."""
        found = np.full((len(self.runs), len(SEQNETS)), np.nan)
        for row, run in zip(found, self.runs, strict=True):
            best = run[run["kind"] == BEST]
            row[best["budget"].to_numpy()] = best["test_accuracy"]
        return found

    @property
    def means(self) -> Floats:
        """Over the budgets, of each seed; NaN where a budget is out of reach."""
        means: Floats = self.accuracies.mean(1)
        return means

    def errors(self, budget: int) -> Floats:
        """Errors on val, ascending, of the random subnets of all seeds about as slow as a budget."""
        drawn = pd.concat(run[(run["kind"] == RANDOM) & (run["budget"] == budget)] for run in self.runs)
        return np.sort(1 - drawn["val_accuracy"].to_numpy(np.float64))


@dataclass(frozen=True)
class Comparison:
    """The evolved space beside the uniform ones of one device.

    Attributes:
        budgets_ms: of A0 to A4.
    """

    device: str
    budgets_ms: tuple[float, ...]
    evolved: Contender
    uniform: tuple[Contender, ...]

    @cached_property
    def best_uniform(self) -> Contender:
        """The uniform space of the best accuracy over all budgets; one that misses a budget comes last."""
        return max(self.uniform, key=lambda contender: float(np.nan_to_num(contender.means.mean(), nan=-1.0)))

    @property
    def advantages(self) -> list[tuple[float, float]]:
        """Of the evolved space at each budget over whichever uniform space is best there, and its standard error."""
        found = []
        for budget in range(len(self.budgets_ms)):
            best = max(self.uniform, key=lambda c: float(np.nan_to_num(c.accuracies[:, budget].mean())))
            found.append(_ahead(self.evolved.accuracies[:, budget], np.nan_to_num(best.accuracies[:, budget])))
        return found

    @property
    def advantage(self) -> tuple[float, float]:
        """Of the evolved space over the best uniform one, mean of the budgets, and its standard error."""
        return _ahead(self.evolved.means, self.best_uniform.means)


def _ahead(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """By how much the mean over seeds is above the other, and its standard error from both spaces' spread over seeds.

    The error is NaN where one of them has one seed alone.
    """
    ahead = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return ahead, float("nan")
    return ahead, float(np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs)))


def points(ahead: float, error: float) -> str:
    """An advantage in points, with its standard error where it is known."""
    return f"{100 * ahead:+.2f}" + ("" if np.isnan(error) else f" ± {100 * error:.2f}")


def read_comparison(device: str, evolved: Path, outcomes: Sequence[Path]) -> Comparison:
    """The comparison behind the evolved space and files of outcomes, `<space>/outcomes_<seed>.parquet`.

    Those in the folder `evolved` are of the evolved space; the folders of the others hold their spaces too.

    Raises:
        ArtifactError: a file is missing or damaged, of another space than its folder says, or of other budgets.
    """
    runs: dict[Path, list[pd.DataFrame]] = {}
    spaces: dict[Path, Space] = {}
    budgets: dict[int, float] = {}
    for path in outcomes:
        table = read_table(path, OUTCOMES_KIND)
        file = evolved if path.parent.name == EVOLVED else path.with_name("space.json")
        space = spaces.setdefault(path.parent, parse_space(read_json(file, "space")["space"]))
        found = dict(zip(table["budget"], table["budget_ms"], strict=True))
        if set(table["space"]) - {space.code} or found != {k: budgets.get(k, ms) for k, ms in found.items()}:
            raise ArtifactError(
                f"{path} is not of {space.code} ({file}), or has other budgets than those beside it: delete it, or let "
                "snakemake make the summary again."
            )
        budgets |= found
        runs.setdefault(path.parent, []).append(table)
    contenders = [
        Contender(spaces[folder], folder.name == EVOLVED, tuple(of_space)) for folder, of_space in runs.items()
    ]
    return Comparison(
        device,
        tuple(ms for _, ms in sorted(budgets.items())),
        next(contender for contender in contenders if contender.evolved),
        tuple(contender for contender in contenders if not contender.evolved),
    )


def write_comparison(comparison: Comparison, scores: Mapping[str, float], params: ReportParams, summary: Path) -> None:
    """Write `summary` and its figures beside it, as PNG and SVG.

    Args:
        scores: Q-T scores by space code.
    """
    save(draw_accuracies(comparison, params.colour), summary.with_name(ACCURACIES), params.dpi)
    save(draw_errors(comparison, params.colour), summary.with_name(ERRORS), params.dpi)
    write_bytes(summary, summarise(comparison, scores).encode())


def draw_accuracies(comparison: Comparison, colour: str) -> Figure:
    """Accuracy on test of the best subnet within each budget: means of all seeds, and each seed of the two best."""
    budgets = np.array(comparison.budgets_ms)
    with drawing(7.0, 4.4) as figure:
        axes = figure.subplots()
        for contender in comparison.uniform:
            axes.plot(budgets, contender.accuracies.mean(0), color=_shade(comparison, contender), lw=1.0, marker=".")
        best, evolved = comparison.best_uniform, comparison.evolved
        for contender, line in ((best, MUTED), (evolved, colour)):
            for run in contender.accuracies:
                axes.plot(budgets, run, ".", ms=4, color=line, alpha=0.5)
        axes.plot(budgets, evolved.accuracies.mean(0), color=colour, lw=2.0, marker="o", ms=6)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel="predicted latency, ms", ylabel="INT8 accuracy on test")
        axes.set_title(f"{comparison.device}: spaces under the same budgets", pad=22)
        legend_above(axes, *_handles(comparison, colour))
    return figure


def _handles(comparison: Comparison, colour: str) -> tuple[Line2D, ...]:
    return (
        Line2D([], [], color=colour, lw=2.0, label=EVOLVED),
        Line2D([], [], color=MUTED, lw=1.0, label=f"best uniform: {comparison.best_uniform.name}"),
        Line2D([], [], color=BOX, lw=1.0, label="other uniform spaces"),
    )


def _shade(comparison: Comparison, contender: Contender) -> str:
    return MUTED if contender is comparison.best_uniform else BOX


def draw_errors(comparison: Comparison, colour: str) -> Figure:
    """Share of random subnets about as slow as each budget whose error on val is at most so much."""
    with drawing(11.0, 3.5) as figure:
        panels = figure.subplots(1, len(comparison.budgets_ms), sharey=True)
        for number, (axes, budget) in enumerate(zip(panels, comparison.budgets_ms, strict=True)):
            for contender in (*comparison.uniform, comparison.evolved):
                errors = contender.errors(number)
                line = colour if contender.evolved else _shade(comparison, contender)
                width = 2.0 if contender.evolved else 1.0
                axes.step(
                    errors, (1 + np.arange(len(errors))) / max(len(errors), 1), where="post", color=line, lw=width
                )
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.set_title(f"{SEQNETS[number]}: {budget:.3g} ms")
        panels[0].set_ylabel("share of random subnets")
        figure.supxlabel("INT8 error on val", size=9.5, color=INK)
        figure.legend(handles=_handles(comparison, colour), loc="outside upper right", ncols=3)
    return figure


def summarise(comparison: Comparison, scores: Mapping[str, float]) -> str:
    """The summary as Markdown; its figures are expected beside it."""
    evolved, best = comparison.evolved, comparison.best_uniform
    ranked = sorted((evolved, *comparison.uniform), key=lambda c: -float(np.nan_to_num(c.means.mean(), nan=-1.0)))
    budgets = [f"{name}: {ms:.3g} ms" for name, ms in zip(SEQNETS, comparison.budgets_ms, strict=True)]
    header = ("space", "blocks", "Q-T score", *budgets, "mean")
    rows = [_row(contender, scores[contender.space.code]) for contender in ranked]
    ahead = [f"{name} {points(*found)}" for name, found in zip(SEQNETS, comparison.advantages, strict=True)]
    seeds = len(evolved.runs)
    return (
        f"# Spaces for {comparison.device}, compared\n\n"
        f"The evolved space `{evolved.space.code}` and {len(comparison.uniform)} uniform ones, which use one block "
        f"type and the middle width window of every stage: each with a supernet of its own from the same recipe, "
        f"searched under the same budgets, with {seeds} seed{'s' * (seeds > 1)}.\n\n"
        f"Over all budgets the evolved space is {points(*comparison.advantage)} points from the best uniform one, "
        f"{best.name} (mean and standard error over seeds). Against whichever uniform space is best at a budget: "
        f"{', '.join(ahead)} points.\n\n"
        "## Accuracy of the best subnets\n\n"
        "INT8 accuracy on test, %, of the most accurate subnet within each budget: mean of all seeds ± their standard "
        "deviation. A dash: no subnet is within the budget.\n\n"
        f"{markdown_table(header, rows)}\n"
        f"{figure_link(ACCURACIES, 'Accuracy under the same budgets')}\n"
        "## Random subnets\n\n"
        "Errors on val of random subnets that take the budget or up to a quarter less, of all seeds: the further left "
        "a curve, the better the space.\n\n"
        f"{figure_link(ERRORS, 'Error distributions')}"
    )


def _row(contender: Contender, score: float) -> tuple[str, ...]:
    means, deviations = contender.accuracies.mean(0), contender.accuracies.std(0, ddof=len(contender.runs) > 1)
    cells = ["-" if np.isnan(m) else f"{100 * m:.2f} ± {100 * d:.2f}" for m, d in zip(means, deviations, strict=True)]
    mean = contender.means.mean()
    emphasis = "**" if contender.evolved else ""
    return (
        f"`{contender.space.code}`",
        f"{emphasis}{contender.name}{emphasis}",
        f"{score:.3f}",
        *cells,
        "-" if np.isnan(mean) else f"{emphasis}{100 * mean:.2f}{emphasis}",
    )
