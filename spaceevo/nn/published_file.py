"""Reading published checkpoints: PyTorch files, of which only tensors are taken and no code is run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from spaceevo.errors import CheckpointError

WEIGHTS_KEYS = ("state_dict", "model")
WRAPPER = "module."  # before every name where the network was trained on several GPUs

# The release saves the settings of its training beside the weights, as objects of these classes or of its own package
# `modules`. An inert stand-in takes the place of each: neither a class that a file names nor its code is loaded.
SETTINGS = re.compile(r"argparse\.Namespace|types\.SimpleNamespace|modules\.[\w.]+")


class _Settings:
    """Stands in for objects that hold settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a PyTorch file: the file itself, or what it has under `state_dict` or `model`.

    `module.` before every name is left out.

    Raises:
        CheckpointError: the file is missing, truncated or no checkpoint, holds no state dict, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: name the checkpoint's file.")
    found = _load(path)
    for key in WEIGHTS_KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds no state_dict: neither as a whole nor under {' or '.join(WEIGHTS_KEYS)}.")
    state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    while all(name.startswith(WRAPPER) for name in state):
        state = {name.removeprefix(WRAPPER): value for name, value in state.items()}
    return state


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), _settings_allowed(path):
            warnings.simplefilter("ignore")  # of a pickle's protocol, where the error below says more
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"loading it would run {named[1]}" if named else "it is a pickle that could run code"
        raise CheckpointError(
            f"{path} was not read, because {what}: save the tensors alone, torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # torch raises anything from KeyError to RuntimeError for bytes that are no checkpoint
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path} is truncated or no PyTorch checkpoint ({reason}): fetch it again.") from None


def _settings_allowed(path: Path) -> AbstractContextManager[Any]:
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:  # the format from before PyTorch 1.6, of which torch.load has no such list
        return nullcontext()
    return torch.serialization.safe_globals([(_Settings, name) for name in named if SETTINGS.fullmatch(name)])
