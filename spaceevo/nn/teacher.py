"""Teachers: networks whose stages end at the same map sizes as the hyperspace's, to distill blocks from.

A teacher is either a space code, standing for the largest subnet of that space, or the name of a torchvision
EfficientNet, whose feature stages line up with those of `mobilew` and `onnxw`.

Statistics of features differ between resolutions, and BatchNorm with those of one, or with a mixture, spoils the
features of another: a trained teacher comes as several, one for each resolution, which share their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from spaceevo.errors import ParamsError
from spaceevo.nn.convolution import conv2d
from spaceevo.nn.plain import Network, stage_choices
from spaceevo.quant.grids import Grid
from spaceevo.quant.quantizers import fp32
from spaceevo.space import Hyperspace, parse_space
from spaceevo.vision_ops import import_torchvision

EFFICIENTNET_STAGES = 9  # stem, seven stages, head convolution


class SubnetTeacher(nn.Module):
    """The largest subnet of a space, in FP32."""

    def __init__(self, space_code: str, hyperspace: Hyperspace, num_classes: int, image_grid: Grid) -> None:
        super().__init__()
        space = parse_space(space_code)
        if [(s.name, s.stride) for s in space.hyperspace.body] != [(s.name, s.stride) for s in hyperspace.body]:
            raise ParamsError(
                f"teacher.model: the stages of {space_code} are not those of {hyperspace.name}: use a space of it."
            )
        self.network = Network(space, space.largest, num_classes, image_grid)
        body = {stage.name for stage in space.hyperspace.body}
        self.widths = {
            name: choice[-1].width
            for name, _, choice, _ in stage_choices(space, space.largest, num_classes)
            if name in body
        }

    def untrained(self) -> nn.Module:
        """What no pretrained weights are for: all of it."""
        return self

    def features(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and output [N, C, H, W] of each stage of the hyperspace's body, at the resolution of `x`."""
        for name, stage in self.network.stages.items():
            if name not in self.widths:
                return
            x = stage(x, fp32)
            yield name, x

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] at the resolution of `x`."""
        for stage in self.network.stages.values():
            x = stage(x, fp32)
        return x


class _Convolution(nn.Conv2d):
    """torchvision's convolution, computed by `conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], self.groups)


def _use_own_convolutions(model: nn.Module) -> None:
    """Have `conv2d` compute those convolutions that have zeros half a kernel wide around."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.dilation == (1, 1) and module.padding_mode == "zeros":
            square = module.kernel_size[0] == module.kernel_size[1] and module.stride[0] == module.stride[1]
            if square and module.padding == (module.kernel_size[0] // 2,) * 2:
                module.__class__ = _Convolution


class EfficientNetTeacher(nn.Module):
    """A torchvision EfficientNet: its stem and first seven stages are those of the hyperspace's body.

    Args:
        name: such as `efficientnet_b5`.
        pretrained: load torchvision's ImageNet weights (downloaded where they are not in torch's cache); the last
            layer is new where the dataset has other than 1000 classes.
    """

    def __init__(self, name: str, hyperspace: Hyperspace, num_classes: int, pretrained: bool) -> None:
        super().__init__()
        models = import_torchvision().models
        if name not in models.list_models():
            raise ParamsError(
                f"teacher.model: torchvision has no model {name!r}: use efficientnet_b0 to b7, for example."
            )
        self.model = cast(nn.Module, models.get_model(name, weights="DEFAULT" if pretrained else None))
        _use_own_convolutions(self.model)
        features = cast(nn.Sequential, self.model.features)
        self.stage_names = [stage.name for stage in hyperspace.body]
        if not len(self.stage_names) == len(features) - 1 == EFFICIENTNET_STAGES - 1:
            raise ParamsError(
                f"teacher.model: {name} has {len(features) - 1} stages, {hyperspace.name} has {len(self.stage_names)} "
                f"before its head, where both should have {EFFICIENTNET_STAGES - 1}: use a space code of this "
                "hyperspace as the teacher."
            )
        classifier = cast(nn.Sequential, self.model.classifier)
        last = cast(nn.Linear, classifier[-1])
        self._new_last = last.out_features != num_classes
        self._pretrained = pretrained
        if self._new_last:
            classifier[-1] = nn.Linear(last.in_features, num_classes)
        self.widths: dict[str, int] = {}
        with torch.no_grad():
            was_training = self.training
            self.eval()
            for stage, y in self.features(torch.zeros(1, 3, 64, 64)):
                self.widths[stage] = y.shape[1]
            self.train(was_training)

    def untrained(self) -> nn.Module:
        """What no pretrained weights are for: all of it, or the last layer of other classes, or nothing."""
        if not self._pretrained:
            return self
        return nn.ModuleList(list(cast(nn.Sequential, self.model.classifier))[-1:] if self._new_last else [])

    def features(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and output [N, C, H, W] of each stage of the hyperspace's body, at the resolution of `x`."""
        for name, stage in zip(self.stage_names, cast(nn.Sequential, self.model.features), strict=False):
            x = stage(x)
            yield name, x

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return cast(Tensor, self.model(x))


Teacher = SubnetTeacher | EfficientNetTeacher
Teachers = Mapping[int, Teacher]  # by resolution, in pixels


def sharing_weights(teacher: Teacher) -> Teacher:
    """The same teacher with BatchNorm statistics of its own."""
    return copy.deepcopy(teacher, {id(parameter): parameter for parameter in teacher.parameters()})


def build_teacher(
    model: str, hyperspace: Hyperspace, num_classes: int, image_grid: Grid, pretrained: bool = False
) -> Teacher:
    """The teacher called `model`: a space code of `hyperspace`, or the name of a torchvision EfficientNet.

    Raises:
        ParamsError: its stages do not fit the hyperspace.
    """
    if model.startswith("efficientnet"):
        return EfficientNetTeacher(model, hyperspace, num_classes, pretrained)
    return SubnetTeacher(model, hyperspace, num_classes, image_grid)
