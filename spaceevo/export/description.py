"""What exported files say of the network inside them."""

from __future__ import annotations

from typing import Any

import spaceevo
from spaceevo.nn.plain import Network
from spaceevo.nn.store import ImageSpec


def file_description(network: Network, spec: ImageSpec | None = None, name: str = "") -> dict[str, Any]:
    """Codes, resolution and version, and, with a spec, class names and normalisation; JSON-serialisable."""
    codes = {"space": network.space.code, "subnet": network.subnet.code}
    return codes | model_description(network.subnet.resolution, spec, name)


def model_description(resolution: int, spec: ImageSpec | None = None, name: str = "") -> dict[str, Any]:
    """The same of a network that no space holds."""
    description: dict[str, Any] = {"resolution": resolution, "spaceevo_version": spaceevo.__version__}
    if name:
        description["name"] = name
    if spec is not None:
        description |= {"class_names": list(spec.classes), "mean": list(spec.mean), "std": list(spec.std)}
        description["input"] = "RGB picture, resized to resolution x resolution, (pixel / 255 - mean) / std"
    return description
