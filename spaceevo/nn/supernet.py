"""The supernet of a space: one set of weights that holds every subnet."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from spaceevo.data.transforms import resize
from spaceevo.nn.elastic import ElasticStage
from spaceevo.nn.network import head_choices
from spaceevo.nn.plain import Network, stage_choices
from spaceevo.quant.grids import Grid
from spaceevo.quant.quantizers import FixedQuantizer, Precision, fp32
from spaceevo.space import IMAGE_CHANNELS, Space, Subnet


class Supernet(nn.Module):
    """All subnets of `space` in shared weights.

    `supernet(x, subnet)` takes normalised pictures, float32 [N, 3, H, W], resizes them to the subnet's resolution and
    gives logits [N, classes]; it equals `supernet.extract(subnet)(x)`.
    """

    def __init__(self, space: Space, num_classes: int, image_grid: Grid) -> None:
        super().__init__()
        self.space = space
        self.num_classes = num_classes
        self.image_quantizer = FixedQuantizer(image_grid)
        self.stages = nn.ModuleDict()
        arriving: tuple[int, ...] = (IMAGE_CHANNELS,)
        for options in space.options:
            stage = options.stage
            self.stages[stage.name] = ElasticStage(
                options.block_type, arriving, options.widths, stage.depths[-1], stage.stride
            )
            arriving = options.widths
        for name, block_type, choice, stride in head_choices(space.hyperspace, num_classes):
            widths = (choice[-1].width,)
            self.stages[name] = ElasticStage(block_type, arriving, widths, len(choice), stride)
            arriving = widths

    def forward(
        self,
        x: Tensor,
        subnet: Subnet,
        precision: Precision = fp32,
        dropout: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Logits [N, classes] of one subnet; `dropout` is applied to what the last stage reads."""
        x = precision(self.image_quantizer, resize(x, subnet.resolution))
        *_, last = self.stages.keys()
        for name, _, choice, _ in stage_choices(self.space, subnet, self.num_classes):
            if dropout is not None and name == last:
                x = dropout(x)
            x = self.stages[name](x, choice, precision)
        return x

    def extract(self, subnet: Subnet) -> Network:
        """The subnet as an ordinary torch module with copies of its weights, statistics and quantizers."""
        network = Network(self.space, subnet, self.num_classes, self.image_quantizer.grid())
        arriving = IMAGE_CHANNELS
        for name, _, choice, _ in stage_choices(self.space, subnet, self.num_classes):
            network.stages[name] = cast(ElasticStage, self.stages[name]).extract(arriving, choice)
            arriving = choice[-1].width
        return network.train(self.training)
