"""Networks of torchvision, or of people's own modules, by name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from spaceevo.errors import CheckpointError, ExportError
from spaceevo.nn.published_file import read_checkpoint
from spaceevo.vision_ops import import_torchvision

CLASSES = 1000  # of torchvision's classifiers


def build_model(name: str, classes: int | None = None, weights: Path | None = None, seed: int = 0) -> nn.Module:
    """A network in eval mode.

    Args:
        name: of a classifier of torchvision, such as mobilenet_v2, or `module:callable` for a function or class without
            arguments; the module is looked for in the working directory too.
        classes: of a torchvision network; 1000 where not given.
        weights: PyTorch file with its state_dict; without it, torchvision's networks are random.
        seed: of random weights.

    Raises:
        ExportError: there is no such network, or what is called does not return one.
        CheckpointError: the weights cannot be read, or are those of another network.
    """
    torch.manual_seed(seed)
    model = _own(name, classes) if ":" in name else _torchvision(name, CLASSES if classes is None else classes)
    if weights is not None:
        _load(model, name, weights)
    return model.eval()


def _torchvision(name: str, classes: int) -> nn.Module:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise ExportError(
            f"torchvision has no classifier {name!r}: name one such as mobilenet_v2, or your own as module:callable."
        )
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return model


def _own(name: str, classes: int | None) -> nn.Module:
    if classes is not None:
        raise ExportError(f"{name} says itself how many classes it has: leave out --classes.")
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module_name), attribute)()
    except Exception as error:  # whatever is in a person's own code
        raise ExportError(f"{name} cannot be made: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise ExportError(f"{name} returns a {type(model).__name__}: it must return a torch.nn.Module.")
    return model


def _load(model: nn.Module, name: str, weights: Path) -> None:
    try:
        model.load_state_dict(read_checkpoint(weights))
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The weights {weights} are not those of {name}: {said}") from None
