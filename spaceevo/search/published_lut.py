"""Published accuracy LUTs: a folder of `stage{s}_{type}_{window}.csv`, as the SpaceEvo release has them.

A line is one sampled stage: `k#width#expand` of each block joined by `_`, the shape `1xCxHxW` that arrives, its
noise-to-signal ratio in INT8, MFLOPs, million parameters, and milliseconds on the table's device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import pandas as pd

from spaceevo.errors import ArtifactError
from spaceevo.space import BlockChoice, Hyperspace, Stage, format_stage

COLUMNS = ("choice", "in_width", "out_width", "resolution", "loss", "macs", "params", "latency_ms")

Row = tuple[str, int, int, int, float, int, int, float]


def read_published_lut(folder: Path | str, hyperspace: Hyperspace) -> pd.DataFrame:
    """The rows of a published LUT.

    Returns:
        Columns stage, block_type, window, in_width, out_width, choice, resolution, loss, macs, params, latency_ms.
        `macs` and `params` are as the files round them: to hundreds.

    Raises:
        ArtifactError: the folder lacks a file of a stage, block type and window, or a line cannot be read or does not
            belong to the hyperspace; the sentence names the file and the line.
    """
    folder = Path(folder)
    if not any(folder.glob("stage*_*_*.csv")):
        raise ArtifactError(f"{folder} holds no stage<s>_<type>_<window>.csv: give the folder of a published LUT.")
    parts = []
    for path, stage, block_type, window in published_files(folder, hyperspace):
        part = pd.DataFrame(_Reader(path, hyperspace, stage, block_type, window).rows(), columns=COLUMNS)
        part.insert(0, "stage", stage.name)
        part.insert(1, "block_type", block_type)
        part.insert(2, "window", window)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def published_files(folder: Path | str, hyperspace: Hyperspace) -> Iterator[tuple[Path, Stage, int, int]]:
    """The files of a published LUT, with the stage, block type and window of each."""
    for number, stage in enumerate(hyperspace.searched_stages, start=1):
        for block_type in range(len(hyperspace.block_types)):
            for window in range(stage.windows):
                yield Path(folder) / f"stage{number}_{block_type}_{window}.csv", stage, block_type, window


@dataclass(frozen=True)
class _Reader:
    """Reads one file; errors say where they are."""

    path: Path
    hyperspace: Hyperspace
    stage: Stage
    block_type: int
    window: int

    def rows(self) -> list[Row]:
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"{self.path} cannot be read ({error}): a LUT of {self.hyperspace.name} has a file for every stage, "
                "block type and window."
            ) from None
        parse_block = self._block_parser()
        rows = [
            self._row(number, line, parse_block)
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip()
        ]
        if not rows:
            raise ArtifactError(f"{self.path} holds no line: fetch it again.")
        lines = text.rstrip().splitlines()
        ended = "\n" in text[len(text.rstrip()) :]
        *_, before, last = lines[-1].rsplit(",", 2)
        if not ended and len(_decimals(last)) < len(_decimals(before)):
            raise self._error(len(lines), "ends in the middle of its last figure; fetch the file again")
        self._check_complete(rows)
        return rows

    def _check_complete(self, rows: list[Row]) -> None:
        """Raise an `ArtifactError` where whole lines are missing, so that some input has none."""
        seen = {(resolution, in_width) for _, in_width, _, resolution, *_ in rows}
        missing = sorted(set(product(self._resolutions.values(), self._in_widths)) - seen)
        if missing:
            resolution, in_width = missing[0]
            raise ArtifactError(
                f"{self.path} holds no line for {in_width} channels that arrive at {resolution} pixels: it is "
                "incomplete; fetch it again."
            )

    @cached_property
    def _resolutions(self) -> dict[int, int]:
        """Resolution of the network by height of the map that arrives."""
        hyperspace, name = self.hyperspace, self.stage.name
        return {hyperspace.map_size(name, resolution): resolution for resolution in hyperspace.block_kd_resolutions}

    @cached_property
    def _in_widths(self) -> frozenset[int]:
        return frozenset(self.hyperspace.in_widths(self.stage.name))

    def _row(self, number: int, line: str, parse_block: Callable[[str], BlockChoice]) -> Row:
        try:
            choice_text, shape, *figures = line.strip().split(",")
            loss, mega_macs, mega_params, latency_ms = (float(figure) for figure in figures)
            batch, channels, height, width = (int(size) for size in shape.split("x"))
            choice = tuple(parse_block(part) for part in choice_text.split("_"))
        except ValueError:
            raise self._error(
                number, "is not of the form choice,1xCxHxW,loss,MFLOPs,Mparams,ms; a torn file is to be fetched again"
            ) from None
        except KeyError as error:
            raise self._error(
                number, f"has the block {error.args[0]}, which is not one of {self._expected()}"
            ) from None
        if len(choice) not in self.stage.depths:
            raise self._error(number, f"has {len(choice)} blocks, which is no depth of {self._expected()}")
        if batch != 1 or channels not in self._in_widths or height != width or height not in self._resolutions:
            raise self._error(number, f"has the input {shape}, which cannot arrive at {self._expected()}")
        if not all(math.isfinite(figure) and figure >= 0 for figure in (loss, mega_macs, mega_params, latency_ms)):
            raise self._error(number, "has a figure that is negative or not finite")
        macs, params = round(mega_macs * 1e6), round(mega_params * 1e6)
        resolution = self._resolutions[height]
        return format_stage(choice), channels, choice[-1].width, resolution, loss, macs, params, latency_ms

    def _block_parser(self) -> Callable[[str], BlockChoice]:
        """Reads one block; a `KeyError` where the block type and window do not have it."""
        kind, widths = self.hyperspace.block_types[self.block_type], self.stage.window_widths(self.window)
        known: dict[str, BlockChoice] = {}

        def parse(text: str) -> BlockChoice:
            if text not in known:
                kernel_size, width, expand = text.split("#")
                block = BlockChoice(int(kernel_size), int(width), 0.0 if expand == "None" else float(expand))
                fits = (
                    block.kernel_size in kind.kernels and block.width in widths and block.expand_ratio in kind.expands
                )
                if not fits:
                    raise KeyError(text)
                known[text] = block
            return known[text]

        return parse

    def _expected(self) -> str:
        return f"{self.stage.name} of {self.hyperspace.name} with block type {self.block_type} and window {self.window}"

    def _error(self, number: int, what: str) -> ArtifactError:
        return ArtifactError(f"Line {number} of {self.path} {what} (read as a LUT of {self.hyperspace.name}).")


def _decimals(figure: str) -> str:
    """What follows the point of a figure."""
    return figure.strip().partition(".")[2]
