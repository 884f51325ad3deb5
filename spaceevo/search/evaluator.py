"""INT8 accuracy of subnets of a trained supernet, on the validation split."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from spaceevo.data.transforms import resize
from spaceevo.nn.plain import Network
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import Precision, int8
from spaceevo.space import Subnet
from spaceevo.train.evaluate import accuracy, recalibrate

RECALIBRATION_BATCH = 64


class SubnetEvaluator:
    """Extracts, recalibrates and evaluates subnets on images that are resized once per resolution.

    Args:
        train_images: normalised images [N, 3, H, W] that BatchNorm statistics are recomputed on.
        images, labels: normalised images [M, 3, H, W] and classes [M] that accuracy is measured on.
    """

    def __init__(self, supernet: Supernet, train_images: Tensor, images: Tensor, labels: Tensor) -> None:
        self.supernet = supernet
        self.labels = labels
        self._sources = train_images, images
        self._resized: dict[int, tuple[Tensor, Tensor]] = {}

    def network(self, subnet: Subnet, precision: Precision = int8) -> Network:
        """The subnet with BatchNorm statistics recomputed in this precision."""
        network = self.supernet.extract(subnet)
        train_images, _ = self._at(subnet.resolution)
        recalibrate(network, partial(network, precision=precision), torch.split(train_images, RECALIBRATION_BATCH))
        return network

    def accuracy(self, subnet: Subnet, precision: Precision = int8) -> float:
        """Share of images, 0 to 1, that the recalibrated subnet classifies rightly."""
        _, images = self._at(subnet.resolution)
        return accuracy(self.network(subnet, precision), images, self.labels, precision)

    def _at(self, resolution: int) -> tuple[Tensor, Tensor]:
        if resolution not in self._resized:
            train_images, images = self._sources
            self._resized[resolution] = _prepared(train_images, resolution), _prepared(images, resolution)
        return self._resized[resolution]


def _prepared(images: Tensor, resolution: int) -> Tensor:
    return resize(images, resolution).contiguous(memory_format=torch.channels_last)
