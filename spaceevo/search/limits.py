"""Limits of a device on more than milliseconds: bytes of the file, and memory of the activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spaceevo.config import FootprintLimits
from spaceevo.errors import BudgetError
from spaceevo.nn.footprint import activation_bytes, tflite_bytes
from spaceevo.nn.network import subnet_plan
from spaceevo.space import Space, Subnet

KIB = 1024


class Footprint(NamedTuple):
    """What a subnet takes besides time: KiB of its TFLite file, about, and of its INT8 activations."""

    file_kib: float
    activation_kib: float


def footprint(space: Space, subnet: Subnet, num_classes: int) -> Footprint:
    """The footprint of a subnet."""
    plan = subnet_plan(space, subnet, num_classes)
    return Footprint(tflite_bytes(plan, subnet.resolution) / KIB, activation_bytes(plan, subnet.resolution) / KIB)


def within_limits(
    latency_ms: Callable[[Subnet], float], space: Space, num_classes: int, limits: FootprintLimits
) -> Callable[[Subnet], float]:
    """A latency that is infinite for subnets beyond a limit, so that no search takes them.

    Raises:
        BudgetError: even the smallest subnet of the space is beyond a limit.
    """
    allowed = Footprint(limits.file_kib or float("inf"), limits.activation_kib or float("inf"))
    if allowed == (float("inf"), float("inf")):
        return latency_ms
    for key, least, most in zip(Footprint._fields, footprint(space, space.smallest, num_classes), allowed, strict=True):
        if least > most:
            raise BudgetError(
                f"The limit {key} of {most:g} KiB cannot be met: the smallest subnet of {space.code} takes "
                f"{least:.1f} KiB; raise it."
            )

    def limited(subnet: Subnet) -> float:
        found = footprint(space, subnet, num_classes)
        fits = found.file_kib <= allowed.file_kib and found.activation_kib <= allowed.activation_kib
        return latency_ms(subnet) if fits else float("inf")

    return limited
