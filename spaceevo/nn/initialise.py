"""Initial weights of every network that is trained here."""

from __future__ import annotations

from math import prod

import torch
from torch import nn


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Orthogonal convolutions, normal depthwise ones, small normal fully connected weights, zero biases.

    Weights of convolutions have He's mean square (fan out). Filters that are drawn one by one overlap, and by how much
    the first few of them do, which are all that a narrow subnet has, would be luck. Orthogonal ones (Saxe et al. 2014)
    do not overlap; where there are more filters than inputs to each, it is the weights of the inputs that are so.
    """
    for name, parameter in module.named_parameters():
        if not name.endswith("weight") or parameter.dim() < 2:
            continue
        if parameter.dim() == 2:
            nn.init.normal_(parameter, 0.0, 0.01, generator)
            continue
        filters, inputs, *area = parameter.shape
        if inputs == 1:  # depthwise: each output sees one input
            nn.init.normal_(parameter, 0.0, (2.0 / prod(area)) ** 0.5, generator)
        else:
            deviation = (2.0 / (filters * prod(area))) ** 0.5
            nn.init.orthogonal_(parameter, deviation * max(filters, inputs * prod(area)) ** 0.5, generator)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
