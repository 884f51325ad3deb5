"""Spaces: one block type and one width window per searched stage, their codes, and the subnets they hold."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spaceevo.errors import CodeError, ParamsError
from spaceevo.space.hyperspace import BlockType, Hyperspace, Stage, load_hyperspace
from spaceevo.space.names import find_name, is_name
from spaceevo.space.subnet import BlockChoice, StageChoice, Subnet, format_expand, parse_subnet

MOST_CHOICES = 64  # of a stage that is not searched, up to which the loss of each is measured


@dataclass(frozen=True)
class StageOptions:
    """What a space leaves open in one stage of the body."""

    stage: Stage
    block_type: BlockType
    widths: tuple[int, ...]

    @cached_property
    def blocks(self) -> tuple[BlockChoice, ...]:
        """Every choice of one block, in ascending order of kernel, width and expand ratio."""
        return tuple(
            BlockChoice(k, w, e)
            for k, w, e in itertools.product(self.block_type.kernels, self.widths, self.block_type.expands)
        )

    def count(self) -> int:
        """Number of stage choices."""
        return sum(len(self.blocks) ** depth for depth in self.stage.depths)

    @property
    def all_measured(self) -> bool:
        """Whether the loss of every choice is measured, not of random ones: of a stage not searched that has few."""
        return not self.stage.searched and self.count() <= MOST_CHOICES

    def enumerate(self) -> Iterator[StageChoice]:
        """Every stage choice, shallow ones first."""
        for depth in self.stage.depths:
            yield from itertools.product(self.blocks, repeat=depth)

    def extreme(self, pick: int) -> StageChoice:
        """The smallest (`pick=0`) or largest (`pick=-1`) stage choice."""
        block = BlockChoice(self.block_type.kernels[pick], self.widths[pick], self.block_type.expands[pick])
        return (block,) * self.stage.depths[pick]

    def alternating(self, start: int) -> StageChoice:
        """The largest stage choice, but its width changes from block to block, beginning with number `start`."""
        widths = itertools.islice(itertools.cycle(self.widths), start % len(self.widths), None)
        return tuple(block._replace(width=width) for block, width in zip(self.extreme(-1), widths, strict=False))


@dataclass(frozen=True)
class Space:
    """A search space: a hyperspace with one block type and one width window per searched stage.

    Attributes:
        block_types: index into `hyperspace.block_types` for each searched stage.
        windows: index of the width window for each searched stage.
    """

    hyperspace: Hyperspace
    block_types: tuple[int, ...]
    windows: tuple[int, ...]

    @property
    def code(self) -> str:
        """`<hyperspace>-<block type digits>-<window digits>`."""
        types = "".join(str(i) for i in self.block_types)
        return f"{self.hyperspace.name}-{types}-{''.join(str(i) for i in self.windows)}"

    @cached_property
    def options(self) -> tuple[StageOptions, ...]:
        """The open choices of each stage of the body."""
        searched = iter(zip(self.block_types, self.windows, strict=True))
        options = []
        for stage in self.hyperspace.body:
            if stage.block_type is None:
                type_index, window = next(searched)
                options.append(
                    StageOptions(stage, self.hyperspace.block_types[type_index], stage.window_widths(window))
                )
            else:
                options.append(StageOptions(stage, stage.block_type, stage.widths))
        return tuple(options)

    def count(self) -> int:
        """Number of subnets, exactly."""
        return len(self.hyperspace.resolutions) * math.prod(options.count() for options in self.options)

    def enumerate(self) -> Iterator[Subnet]:
        """Every subnet, lazily; spaces hold billions."""
        for resolution in self.hyperspace.resolutions:
            for stages in itertools.product(*(tuple(options.enumerate()) for options in self.options)):
                yield Subnet(resolution, stages)

    @cached_property
    def smallest(self) -> Subnet:
        return Subnet(self.hyperspace.resolutions[0], tuple(options.extreme(0) for options in self.options))

    @cached_property
    def largest(self) -> Subnet:
        return Subnet(self.hyperspace.resolutions[-1], tuple(options.extreme(-1) for options in self.options))

    @cached_property
    def alternating(self) -> tuple[Subnet, ...]:
        """Subnets as large as any whose widths change from block to block: those have convolutions in their shortcuts.

        The largest and the smallest, whose blocks of a stage are alike, have none there.
        """
        return tuple(
            Subnet(
                self.hyperspace.resolutions[-1],
                tuple(options.alternating(start + shift * number) for number, options in enumerate(self.options)),
            )
            for start, shift in ((0, 0), (1, 0), (0, 1), (1, 1))
        )

    def subnet(self, code: str) -> Subnet:
        """The subnet of a code or name, checked to lie in this space; else a `CodeError`."""
        if is_name(code):
            space, subnet = parse_network(code)
            if space != self:
                raise CodeError(f"{code} is a subnet of {space.code}, not of {self.code}.")
            return subnet
        subnet = parse_subnet(self.hyperspace, code)
        self.check(subnet)
        return subnet

    def check(self, subnet: Subnet) -> None:
        """Raise a `CodeError` that names the first choice of `subnet` outside this space."""
        if subnet.resolution not in self.hyperspace.resolutions:
            raise CodeError(
                f"Resolution {subnet.resolution} is not one of {self.hyperspace.name}: "
                f"use one of {_listed(self.hyperspace.resolutions)}."
            )
        for options, choice in zip(self.options, subnet.stages, strict=True):
            name = options.stage.name
            if len(choice) not in options.stage.depths:
                raise CodeError(f"Depth {len(choice)} of {name} is not one of {_listed(options.stage.depths)}.")
            for block in choice:
                if block.width not in options.widths:
                    raise CodeError(
                        f"Width {block.width} of {name} lies outside its window in {self.code}: "
                        f"use one of {_listed(options.widths)}."
                    )
                if block.kernel_size not in options.block_type.kernels:
                    raise CodeError(
                        f"Kernel size {block.kernel_size} of {name} is not one of "
                        f"{_listed(options.block_type.kernels)}, those of {options.block_type.block}."
                    )
                if block.expand_ratio not in options.block_type.expands:
                    allowed = ", ".join(format_expand(e) for e in options.block_type.expands)
                    raise CodeError(
                        f"Expand ratio {format_expand(block.expand_ratio)} of {name} is not one of {allowed}, "
                        f"those of {options.block_type.block}."
                    )

    def contains(self, subnet: Subnet) -> bool:
        """Whether every choice of `subnet` lies in this space."""
        try:
            self.check(subnet)
        except CodeError:
            return False
        return True

    def with_stage(self, index: int, *, block_type: int | None = None, window: int | None = None) -> Space:
        """This space with another block type or window in searched stage number `index`."""
        types, windows = list(self.block_types), list(self.windows)
        if block_type is not None:
            types[index] = block_type
        if window is not None:
            windows[index] = window
        return replace(self, block_types=tuple(types), windows=tuple(windows))


def parse_space(code: str) -> Space:
    """The space of a code such as `mobilew-122222-155400` or of a name such as `spaceevo@pixel4`.

    The name of a subnet gives the space it is of.

    Raises:
        CodeError: the form is wrong, the hyperspace or name unknown, or a digit out of range.
    """
    if is_name(code):
        named = find_name(code)
        with named.blamed():
            return parse_space(named.space)
    match = re.fullmatch(r"(?P<hyperspace>[^-\s]+)-(?P<types>\d+)-(?P<windows>\d+)", code.strip())
    if match is None:
        raise CodeError(f"The space code {code!r} is not of the form <hyperspace>-<block types>-<windows>.")
    try:
        hyperspace = load_hyperspace(match["hyperspace"])
    except ParamsError as error:
        raise CodeError(f"The space code {code!r} cannot be read: {error}") from None
    searched = hyperspace.searched_stages
    for part, name in (("types", "block type"), ("windows", "window")):
        if len(match[part]) != len(searched):
            raise CodeError(
                f"The space code {code!r} has {len(match[part])} {name} digits, "
                f"{hyperspace.name} has {len(searched)} searched stages."
            )
    types = tuple(int(digit) for digit in match["types"])
    windows = tuple(int(digit) for digit in match["windows"])
    for stage, type_index, window in zip(searched, types, windows, strict=True):
        if type_index >= len(hyperspace.block_types):
            raise CodeError(
                f"Block type {type_index} of {stage.name} in {code!r} does not exist: "
                f"{hyperspace.name} has 0 to {len(hyperspace.block_types) - 1}."
            )
        if window >= stage.windows:
            raise CodeError(
                f"Window {window} of {stage.name} in {code!r} does not exist: it has 0 to {stage.windows - 1}."
            )
    return Space(hyperspace, types, windows)


def parse_network(name: str) -> tuple[Space, Subnet]:
    """The space and the subnet that a name such as `SEQnet@pixel4-A1` stands for.

    Raises:
        CodeError: there is no such name, it is that of a space, or its file gives it a wrong code.
    """
    named, space = find_name(name), parse_space(name)
    if named.subnet is None:
        raise CodeError(f"{named.name} is the name of a space: name a subnet.")
    with named.blamed():
        return space, space.subnet(named.subnet)


def count_spaces(hyperspace: Hyperspace, block_types: Sequence[int] | None = None) -> int:
    """Number of spaces of a hyperspace, of these block types if given."""
    types = len(hyperspace.type_indices(block_types))
    return math.prod(types * stage.windows for stage in hyperspace.searched_stages)


def enumerate_spaces(hyperspace: Hyperspace) -> Iterator[Space]:
    """Every space of a hyperspace, in the order of their codes."""
    searched = hyperspace.searched_stages
    type_indices = range(len(hyperspace.block_types))
    for types in itertools.product(type_indices, repeat=len(searched)):
        for windows in itertools.product(*(range(stage.windows) for stage in searched)):
            yield Space(hyperspace, types, windows)


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
