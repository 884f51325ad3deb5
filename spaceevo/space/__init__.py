"""Hyperspaces, spaces, subnets and their codes; sampling, mutation and crossover. Imports nothing heavy."""

from spaceevo.space.hyperspace import IMAGE_CHANNELS, BlockType, Hyperspace, Stage, load_hyperspace, parse_hyperspace
from spaceevo.space.names import is_name, known_names
from spaceevo.space.sampling import (
    cross_subnets,
    measured_choices,
    mutate_space,
    mutate_subnet,
    sample_space,
    sample_stage,
    sample_subnet,
)
from spaceevo.space.space import Space, StageOptions, count_spaces, enumerate_spaces, parse_network, parse_space
from spaceevo.space.subnet import BlockChoice, StageChoice, Subnet, format_stage, parse_stage, parse_subnet

__all__ = [
    "IMAGE_CHANNELS",
    "BlockChoice",
    "BlockType",
    "Hyperspace",
    "Space",
    "Stage",
    "StageChoice",
    "StageOptions",
    "Subnet",
    "count_spaces",
    "cross_subnets",
    "enumerate_spaces",
    "format_stage",
    "is_name",
    "known_names",
    "load_hyperspace",
    "measured_choices",
    "mutate_space",
    "mutate_subnet",
    "parse_hyperspace",
    "parse_network",
    "parse_space",
    "parse_stage",
    "parse_subnet",
    "sample_space",
    "sample_stage",
    "sample_subnet",
]
