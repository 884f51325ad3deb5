"""Hyperspaces: the declaration (YAML) from which spaces, sampling, codes and keys all derive."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spaceevo.errors import ParamsError

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "hyperspaces"
PROJECT = Path("hyperspaces")  # in the working directory: a project's own
ACTIVATIONS = (None, "relu", "relu6", "swish", "hswish")
IMAGE_CHANNELS = 3
NO_EXPAND = (0.0,)  # the expand ratio of a block that has none; written "0" in codes


@dataclass(frozen=True)
class BlockType:
    """A block with its elastic choices.

    Attributes:
        block: name of the block in `spaceevo.nn.blocks`.
        kernels: odd kernel sizes to choose from, ascending.
        expands: expand ratios to choose from, ascending; `(0.0,)` where the block has none.
        activation: relu, relu6, swish, hswish, or None where the block fixes its own.
    """

    block: str
    kernels: tuple[int, ...]
    expands: tuple[float, ...] = NO_EXPAND
    activation: str | None = None


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one type at one feature map size.

    Attributes:
        widths: output channels to choose from, ascending; empty for the logits (one per class).
        depths: numbers of blocks to choose from, ascending.
        stride: stride of the first block.
        window: number of consecutive widths a space keeps, or None where the stage is not searched.
        block_type: the block of a stage that is not searched, else None.
    """

    name: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    window: int | None = None
    block_type: BlockType | None = None

    @property
    def searched(self) -> bool:
        return self.window is not None

    def window_widths(self, index: int) -> tuple[int, ...]:
        """Widths of window `index`: consecutive entries of `widths`."""
        return self.widths[index : index + (self.window or len(self.widths))]

    @property
    def windows(self) -> int:
        """Number of width windows to choose from: one, of all widths, where the stage is not searched."""
        return len(self.widths) - self.window + 1 if self.window else 1


@dataclass(frozen=True)
class Hyperspace:
    """Everything that can be searched: a fixed sequence of elastic stages and their choices."""

    name: str
    resolutions: tuple[int, ...]
    block_kd_resolutions: tuple[int, ...]
    stages: tuple[Stage, ...]
    block_types: tuple[BlockType, ...]

    @cached_property
    def searched_stages(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.searched)

    @cached_property
    def body(self) -> tuple[Stage, ...]:
        """The stages a subnet code describes: all up to the last searched one."""
        last = max(i for i, stage in enumerate(self.stages) if stage.searched)
        return self.stages[: last + 1]

    @cached_property
    def distilled_stages(self) -> tuple[Stage, ...]:
        """The stages that losses are measured of: those searched, and others of the body that several widths reach."""
        return tuple(stage for stage in self.body if stage.searched or len(self.in_widths(stage.name)) > 1)

    @cached_property
    def head(self) -> tuple[Stage, ...]:
        """The stages after the body; they leave no choice."""
        return self.stages[len(self.body) :]

    def type_indices(self, block_types: Sequence[int] | None = None) -> Sequence[int]:
        """Those of `block_types`, or all indices into the hyperspace's where None."""
        return range(len(self.block_types)) if block_types is None else block_types

    def types_without(self, blocks: Collection[str]) -> tuple[int, ...]:
        """Indices of the block types whose block is none of `blocks`; a `ParamsError` where that leaves none."""
        left = tuple(index for index, kind in enumerate(self.block_types) if kind.block not in blocks)
        if not left:
            raise ParamsError(
                f"space.evolution.leave_out: {self.name} has no block types but {', '.join(blocks)}; leave some."
            )
        return left

    def types_of(self, stage: Stage) -> tuple[BlockType, ...]:
        """The block types that a stage can have: all, or its own where it is not searched."""
        return self.block_types if stage.block_type is None else (stage.block_type,)

    def stage(self, name: str) -> Stage:
        """The stage called `name`; a `KeyError` names the stages there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"{self.name} has no stage {name!r}, only {[s.name for s in self.stages]}")

    def map_size(self, name: str, resolution: int) -> int:
        """Height of the map that arrives at stage `name` when the input has `resolution` pixels."""
        height = resolution
        for stage in self.stages:
            if stage.name == name:
                return height
            height = (height - 1) // stage.stride + 1
        raise KeyError(name)

    def in_widths(self, name: str) -> tuple[int, ...]:
        """Widths that can arrive at stage `name` over all spaces: at the first one, the channels of a picture."""
        previous: tuple[int, ...] = (IMAGE_CHANNELS,)
        for stage in self.stages:
            if stage.name == name:
                return previous
            previous = stage.widths
        raise KeyError(name)


def known_hyperspaces() -> tuple[str, ...]:
    """Names of the shipped hyperspaces and of those in `hyperspaces/` of the working directory."""
    return tuple(sorted({path.stem for folder in (SHIPPED, PROJECT) for path in folder.glob("*.yaml")}))


def load_hyperspace(name: str) -> Hyperspace:
    """The hyperspace called `name`: shipped, or `hyperspaces/<name>.yaml` in the working directory; or a YAML file.

    Raises:
        ParamsError: no such hyperspace, or its file is not a valid declaration.
    """
    candidates = [SHIPPED / f"{name}.yaml", PROJECT / f"{name}.yaml"]
    if name.endswith((".yaml", ".yml")):
        candidates = [Path(name)]
    for path in candidates:
        if path.is_file():
            return _load(path.resolve(), path.stat().st_mtime_ns)
    known = ", ".join(known_hyperspaces())
    raise ParamsError(f"There is no hyperspace {name!r}: use one of {known}, or add {PROJECT}/{name}.yaml.")


@lru_cache(maxsize=32)
def _load(path: Path, modified_ns: int) -> Hyperspace:
    try:
        return parse_hyperspace(path.stem, yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ParamsError(f"The hyperspace file {path} is not valid: {' '.join(str(error).split())}.") from error


def parse_hyperspace(name: str, declared: dict[str, Any]) -> Hyperspace:
    """Build and check a hyperspace from its YAML declaration; `ValueError` says what is wrong."""
    if unknown := set(declared) - _KEYS:
        raise ValueError(f"there are unknown keys {sorted(unknown)}")
    if "-" in name or "_" in name:
        raise ValueError(f"the name {name!r} must not contain '-' or '_', which separate the parts of a code")
    hyperspace = Hyperspace(
        name=name,
        resolutions=_ascending("resolutions", declared["resolutions"]),
        block_kd_resolutions=_ascending("block_kd_resolutions", declared["block_kd_resolutions"]),
        stages=tuple(_stage(entry) for entry in declared["stages"]),
        block_types=tuple(_block_type(entry) for entry in declared["block_types"]),
    )
    if not hyperspace.searched_stages:
        raise ValueError("no stage has search: true")
    if len(hyperspace.block_types) > 10:
        raise ValueError("a code has one digit per block type: at most 10 block types")
    for stage in hyperspace.searched_stages:
        if not 1 <= stage.windows <= 10:
            raise ValueError(f"stage {stage.name} has {stage.windows} width windows: 1 to 10 fit a digit")
    if len({stage.name for stage in hyperspace.stages}) < len(hyperspace.stages):
        raise ValueError("two stages have the same name")
    for stage in hyperspace.head:
        if len(stage.widths) > 1 or len(stage.depths) > 1:
            raise ValueError(f"stage {stage.name} follows the last searched stage and must leave no choice")
    last = hyperspace.stages[-1]
    if last.widths or last.block_type is None or last.block_type.block != "linear":
        raise ValueError("the last stage must be block: linear without widths (one output per class)")
    return hyperspace


def _stage(entry: dict[str, Any]) -> Stage:
    known = {"name", "search", "block", "kernels", "expands", "activation", "widths", "depths", "stride", "window"}
    if unknown := set(entry) - known:
        raise ValueError(f"stage {entry.get('name')} has unknown keys {sorted(unknown)}")
    searched = entry.get("search", False)
    if searched and "window" not in entry:
        raise ValueError(f"stage {entry['name']} is searched and lacks the key 'window'")
    return Stage(
        name=entry["name"],
        widths=_ascending("widths", entry.get("widths", [])),
        depths=_ascending("depths", _some("depths", entry["depths"])),
        stride=_ascending("stride", [entry["stride"]])[0],
        window=_ascending("window", [entry["window"]])[0] if searched else None,
        block_type=None if searched else _block_type({k: entry[k] for k in _BLOCK_KEYS & entry.keys()}),
    )


_KEYS = {"resolutions", "block_kd_resolutions", "stages", "block_types"}
_BLOCK_KEYS = {"block", "kernels", "expands", "activation"}


def _block_type(entry: dict[str, Any]) -> BlockType:
    if unknown := set(entry) - _BLOCK_KEYS:
        raise ValueError(f"block {entry.get('block')} has unknown keys {sorted(unknown)}")
    kernels = _ascending("kernels", _some("kernels", entry.get("kernels", [1])))
    if any(k % 2 == 0 for k in kernels):
        raise ValueError(f"block {entry['block']} has an even kernel size: {kernels}")
    activation = entry.get("activation")
    if activation not in ACTIVATIONS:
        raise ValueError(f"block {entry['block']} has activation {activation}, which is not one of {ACTIVATIONS}")
    expands = tuple(float(e) for e in _some("expands", entry.get("expands", NO_EXPAND)))
    if sorted(set(expands)) != list(expands) or expands[0] < 0:
        raise ValueError(f"expands must be ascending positive numbers, not {entry['expands']}")
    return BlockType(entry["block"], kernels, expands, activation)


def _some(key: str, values: Sequence[T]) -> Sequence[T]:
    if not values:
        raise ValueError(f"{key} is empty")
    return values


def _ascending(key: str, values: Sequence[int]) -> tuple[int, ...]:
    if any(not isinstance(v, int) or v < 1 for v in values) or sorted(set(values)) != list(values):
        raise ValueError(f"{key} must be ascending positive integers, not {values}")
    return tuple(values)
