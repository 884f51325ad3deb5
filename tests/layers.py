"""A small network of torch with every layer that can be exported, as other people write them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layers(nn.Module):
    """A stem, convolutions in groups, a channel shuffle, gates, every activation, and a classifier of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.few_groups = nn.Sequential(nn.Conv2d(24, 36, 3, 1, 1, groups=3), nn.BatchNorm2d(36), nn.ReLU6())
        self.many_groups = nn.Conv2d(36, 36, 3, 2, 1, groups=18)
        self.left = nn.Sequential(nn.Conv2d(18, 18, 5, 1, 2, groups=18), nn.BatchNorm2d(18), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(18, 22, 1), nn.BatchNorm2d(22), nn.ReLU())
        self.squeeze = nn.Conv2d(40, 6, 1)
        self.expand = nn.Conv2d(6, 40, 1)
        self.hard = nn.Sequential(nn.Conv2d(40, 40, 1), nn.Hardsigmoid())
        self.thin = nn.Sequential(nn.Conv2d(40, 10, 1), nn.BatchNorm2d(10), nn.Hardswish())
        self.after = nn.BatchNorm2d(40)
        self.first = nn.Sequential(nn.Linear(40, 20), nn.SiLU(), nn.Dropout(0.5))
        self.last = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 3, 2, padding=1)  # of a rectified tensor
        x = F.max_pool2d(self.many_groups(self.few_groups(x)), 3, stride=1, padding=1)  # of one with either sign
        left, right = x.chunk(2, dim=1)
        x = torch.cat((self.left(left), self.right(right)), dim=1)
        n, channels, height, width = x.size()
        x = x.view(n, 4, channels // 4, height, width).transpose(1, 2).contiguous().view(n, -1, height, width)
        x = x * torch.sigmoid(self.expand(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = self.hard(x.mean((2, 3), keepdim=True)) * x
        x = torch.cat([self.thin(x), F.relu(x).split(30, dim=1)[0]], 1)
        x = F.relu(self.after(x) + x)
        return self.last(self.first(x.mean([2, 3])))


@torch.no_grad()
def shaken(module: nn.Module, seed: int, images: Tensor) -> nn.Module:
    """The module in eval mode: random weights, gains of both signs, and the BatchNorm statistics of these images."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter[0].numel()) ** 0.5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
            layer.weight.copy_(1 + 0.3 * torch.randn(layer.weight.shape, generator=generator))
            layer.weight[::7].neg_()
            layer.bias.copy_(0.3 * torch.randn(layer.bias.shape, generator=generator))
    module.train()(images)
    return module.eval()
