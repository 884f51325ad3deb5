"""Subnets: one network of a space, as a value, and its code."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from spaceevo.errors import CodeError
from spaceevo.space.hyperspace import Hyperspace
from spaceevo.space.names import find_name, is_name


class BlockChoice(NamedTuple):
    """The choices of one block: kernel size, output width in channels, expand ratio (0.0 where it has none)."""

    kernel_size: int
    width: int
    expand_ratio: float = 0.0


StageChoice = tuple[BlockChoice, ...]


@dataclass(frozen=True)
class Subnet:
    """Input resolution in pixels, and the blocks of every stage of the hyperspace's body."""

    resolution: int
    stages: tuple[StageChoice, ...]

    @property
    def code(self) -> str:
        """`d<depths>_k<kernels>_w<widths>_e<expand ratios>_r<resolution>`, lists joined by `#`."""
        blocks = [block for stage in self.stages for block in stage]
        return "_".join(
            (
                "d" + "#".join(str(len(stage)) for stage in self.stages),
                "k" + "#".join(str(block.kernel_size) for block in blocks),
                "w" + "#".join(str(block.width) for block in blocks),
                "e" + "#".join(format_expand(block.expand_ratio) for block in blocks),
                f"r{self.resolution}",
            )
        )


def format_expand(expand_ratio: float) -> str:
    """An expand ratio as codes write it: `0` for none, else a decimal such as `3.0`."""
    return "0" if expand_ratio == 0 else str(float(expand_ratio))


def format_stage(choice: StageChoice) -> str:
    """A stage choice as tables write it: `kernel#width#expand` of each block, joined by `_`."""
    return "_".join(f"{b.kernel_size}#{b.width}#{format_expand(b.expand_ratio)}" for b in choice)


def parse_stage(text: str) -> StageChoice:
    """The inverse of `format_stage`; a `CodeError` where it is not of that form."""
    blocks = []
    for part in text.split("_"):
        try:
            kernel_size, width, expand_ratio = part.split("#")
            blocks.append(BlockChoice(int(kernel_size), int(width), float(expand_ratio)))
        except ValueError:
            raise CodeError(
                f"The stage choice {text!r} is not of the form kernel#width#expand joined by '_'."
            ) from None
    return tuple(blocks)


_CODE = re.compile(r"d(?P<d>[^_]*)_k(?P<k>[^_]*)_w(?P<w>[^_]*)_e(?P<e>[^_]*)_r(?P<r>\d+)")


def parse_subnet(hyperspace: Hyperspace, code: str) -> Subnet:
    """The subnet of a code or name; only its form is checked here, its choices by `Space.check`.

    Raises:
        CodeError: a part is missing, is not a number, or the lists have the wrong lengths; or there is no such name,
            or it is that of a space or of a subnet of another hyperspace.
    """
    if is_name(code):
        named = find_name(code)
        if named.subnet is None:
            raise CodeError(f"{named.name} is the name of a space: name a subnet.")
        if named.space.partition("-")[0] != hyperspace.name:
            raise CodeError(f"{named.name} is a subnet of {named.space}, not of a space of {hyperspace.name}.")
        with named.blamed():
            return parse_subnet(hyperspace, named.subnet)
    match = _CODE.fullmatch(code.strip())
    if match is None:
        raise CodeError(
            f"The subnet code {code!r} is not of the form d…_k…_w…_e…_r…: write depths, kernels, widths and expand "
            "ratios joined by '#', then the resolution."
        )
    depths = _numbers(code, "d", match["d"])
    if len(depths) != len(hyperspace.body):
        names = ", ".join(stage.name for stage in hyperspace.body)
        raise CodeError(
            f"The subnet code {code!r} has {len(depths)} depths, {hyperspace.name} has {len(hyperspace.body)} stages "
            f"with a depth: {names}."
        )
    parts = {}
    for key, name in (("k", "kernels"), ("w", "widths"), ("e", "expand ratios")):
        values = _numbers(code, key, match[key])
        if len(values) != sum(depths):
            raise CodeError(f"The subnet code {code!r} has {len(values)} {name} for {int(sum(depths))} blocks.")
        parts[key] = values
    blocks = [BlockChoice(int(k), int(w), e) for k, w, e in zip(parts["k"], parts["w"], parts["e"], strict=True)]
    stages = []
    for depth in (int(d) for d in depths):
        stages.append(tuple(blocks[:depth]))
        blocks = blocks[depth:]
    return Subnet(resolution=int(match["r"]), stages=tuple(stages))


def _numbers(code: str, key: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split("#")]
    except ValueError:
        raise CodeError(
            f"The subnet code {code!r} has {key}{text}, which is not a list of numbers joined by '#'."
        ) from None
    if key == "e" and not all(math.isfinite(value) for value in values):
        raise CodeError(f"The subnet code {code!r} has an expand ratio in {key}{text} that is not a finite number.")
    if key != "e" and any(not math.isfinite(value) or value != int(value) or value < 1 for value in values):
        raise CodeError(f"The subnet code {code!r} has {key}{text}, which is not a list of positive whole numbers.")
    return values
