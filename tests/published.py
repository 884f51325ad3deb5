"""Checkpoints in the published format, made of supernets of this project: the inverse of what the importer does."""

from pathlib import Path

import torch

from spaceevo.nn.elastic import ElasticConv
from spaceevo.nn.published import published_name, published_shapes
from spaceevo.nn.supernet import Supernet
from spaceevo.space import Subnet


@torch.no_grad()
def published_state(
    supernet: Supernet, x: torch.Tensor | None = None, subnets: list[Subnet] | None = None
) -> dict[str, torch.Tensor]:
    """A published state dict that computes what `supernet` does in FP32.

    Where a stage keeps more arriving channels than the supernet has, the rest is noise. With pictures `x`, each
    convolution that runs in `subnets` gets the grid that the release starts from: least to greatest weight and input.
    """
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(shape, generator=generator)
        for name, shape in published_shapes(supernet.space, supernet.num_classes).items()
    }
    for ours, tensor in supernet.state_dict().items():
        if "quantizer" not in ours:
            state[published_name(ours)][tuple(slice(0, size) for size in tensor.shape)] = tensor
    for name in [name for name in state if name.endswith("running_mean")]:
        state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    if x is not None:
        state |= _grids(supernet, x, subnets or [supernet.space.largest])
    return state


def _grids(supernet: Supernet, x: torch.Tensor, subnets: list[Subnet]) -> dict[str, torch.Tensor]:
    layers = {name: module for name, module in supernet.named_modules() if isinstance(module, ElasticConv)}
    ends: dict[str, tuple[float, float]] = {}

    def watch(name):
        def hook(module, arguments):
            low, high = ends.get(name, (float("inf"), -float("inf")))
            ends[name] = min(low, float(arguments[0].min())), max(high, float(arguments[0].max()))

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    for subnet in subnets:
        supernet(x, subnet)
    for handle in handles:
        handle.remove()
    state = {}
    for name, module in layers.items():
        published = published_name(f"{name}.weight").removesuffix("weight")
        low, high = ends.get(name, (0.0, 255.0))
        scale = float(module.weight.abs().max()) * 2 / 255 if name in ends else 1.0
        for leaf, value in (("sw", scale), ("sa", (high - low) / 255), ("beta", low)):
            state[published + leaf] = torch.tensor([value])
    return state


def save(state: dict[str, torch.Tensor], path: Path, prefix: str = "module.") -> Path:
    """Write a state dict as the release does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 3, "state_dict": {prefix + name: value for name, value in state.items()}}, path)
    return path
