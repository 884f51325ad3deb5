"""INT8 accuracy of subnets of a trained supernet, on the validation split."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from spaceevo.data.pictures import Pictures
from spaceevo.nn.layout import images_on
from spaceevo.nn.plain import Network
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import Precision, int8
from spaceevo.space import Subnet
from spaceevo.train.evaluate import (
    EVALUATION_BATCH,
    RECALIBRATION_BATCH,
    accelerator_device,
    logits_of,
    recalibrate,
    share_right,
)


class SubnetEvaluator:
    """Extracts, recalibrates and evaluates subnets, on a GPU where there is one.

    Args:
        train_images: normalised images [N, 3, H, W], or pictures, that BatchNorm statistics are recomputed on.
        images: normalised images [M, 3, H, W], or pictures, that accuracy is measured on.
        labels: their classes [M].
    """

    def __init__(
        self, supernet: Supernet, train_images: Tensor | Pictures, images: Tensor | Pictures, labels: Tensor | None
    ) -> None:
        self.supernet = supernet
        self.device = accelerator_device()
        self._train = _pictures(train_images, RECALIBRATION_BATCH)
        self._images = _pictures(images, EVALUATION_BATCH)
        self._labels = self._images.labels if labels is None else labels

    def network(self, subnet: Subnet, precision: Precision = int8) -> Network:
        """The subnet with BatchNorm statistics recomputed in this precision, on the device that evaluates it."""
        return self.recalibrated(self.supernet.extract(subnet), precision)

    def recalibrated(self, network: Network, precision: Precision = int8) -> Network:
        """The same of a network from elsewhere, which is changed."""
        network = network.to(self.device)
        batches = (images_on(batch, self.device) for batch in self._train.batches(network.subnet.resolution))
        recalibrate(network, partial(network, precision=precision), batches)
        return network

    def logits(self, network: Network, precision: Precision = int8) -> Tensor:
        """Logits [M, classes] of a network on the images of accuracy."""
        return logits_of(network.to(self.device), self._images.batches(network.subnet.resolution), precision)

    def accuracy(self, subnet: Subnet, precision: Precision = int8) -> float:
        """Share of images, 0 to 1, that the recalibrated subnet classifies rightly."""
        return self.accuracy_of(self.network(subnet, precision), precision)

    def accuracy_of(self, network: Network, precision: Precision = int8) -> float:
        """The same of a network that is recalibrated already."""
        assert self._labels is not None
        return share_right(self.logits(network, precision), self._labels)


def _pictures(source: Tensor | Pictures, batch_size: int) -> Pictures:
    return Pictures.of_tensor(source, batch_size) if isinstance(source, torch.Tensor) else source
