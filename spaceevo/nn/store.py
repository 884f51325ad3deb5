"""Networks as artifacts: teacher, distilled stages, supernet and finished SEQnets, in safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from spaceevo.artifacts import Record, read_tensors, write_tensors
from spaceevo.data.splits import Split
from spaceevo.errors import ArtifactError
from spaceevo.nn.plain import Network
from spaceevo.nn.supernet import Supernet
from spaceevo.nn.teacher import Teachers, build_teacher, sharing_weights
from spaceevo.quant.grids import Grid, image_grid
from spaceevo.space import Hyperspace, load_hyperspace, parse_space

TEACHER_KIND = "teacher"
STUDENT_KIND = "distilled_stage"
SUPERNET_KIND = "supernet"
SEQNET_KIND = "seqnet"


@dataclass(frozen=True)
class ImageSpec:
    """What a network reads and says: class names, and mean and std of each channel of pixels in [0, 1]."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(split: Split) -> ImageSpec:
        return ImageSpec(split.classes, split.mean, split.std)

    @staticmethod
    def from_content(content: Mapping[str, Any]) -> ImageSpec:
        """The inverse of `asdict` after a trip through JSON."""
        return ImageSpec(tuple(content["classes"]), tuple(content["mean"]), tuple(content["std"]))

    @property
    def grid(self) -> Grid:
        """The grid of normalised pictures."""
        return image_grid(self.mean, self.std)


def write_module(
    path: Path | str, kind: str, module: nn.Module, content: Mapping[str, Any], spec: ImageSpec, record: Record
) -> None:
    """Write a module's parameters and buffers, with `content` and the image spec."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    write_tensors(path, kind, arrays, record, {**content, "images": asdict(spec)})


def load_weights(path: Path | str, kind: str, module: nn.Module) -> None:
    """Load parameters and buffers written by `write_module` into a module of the same shape.

    Raises:
        ArtifactError: the file cannot be read, or is of a module of another shape.
    """
    _load(path, read_tensors(path, kind)[0], module)


def _load(path: Path | str, arrays: Mapping[str, npt.NDArray[Any]], module: nn.Module) -> None:
    try:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ArtifactError(f"{path} does not fit the network it is for ({' '.join(lines)}): run again.") from None


def _content(path: Path | str, kind: str) -> tuple[dict[str, Any], ImageSpec]:
    _, content = read_tensors(path, kind)
    return content, ImageSpec.from_content(content["images"])


@dataclass(frozen=True)
class TeacherAccuracy:
    """How often a teacher is right.

    Attributes:
        shares: of pictures of val, 0 to 1, at each of its resolutions.
        images: how many pictures these are.
    """

    shares: Mapping[int, float]
    images: int


def write_teacher(
    path: Path | str,
    teachers: Teachers,
    model: str,
    hyperspace: Hyperspace,
    spec: ImageSpec,
    accuracy: TeacherAccuracy,
    record: Record,
) -> None:
    """Write a trained teacher, called `model`: weights, BatchNorm statistics at each resolution, accuracy."""
    tensors: dict[str, Tensor] = {}
    for teacher in teachers.values():
        tensors |= dict(teacher.named_parameters())
    for resolution, teacher in teachers.items():
        tensors |= {f"{resolution}.{name}": buffer for name, buffer in teacher.named_buffers()}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    content = {
        "model": model,
        "hyperspace": hyperspace.name,
        "resolutions": list(teachers),
        "accuracy": asdict(accuracy),
        "images": asdict(spec),
    }
    write_tensors(path, TEACHER_KIND, arrays, record, content)


def read_teacher_accuracy(path: Path | str) -> TeacherAccuracy:
    """How often a trained teacher is right.

    Raises:
        ArtifactError: the file cannot be read, or does not say so, as those of earlier versions.
    """
    content, _ = _content(path, TEACHER_KIND)
    if "accuracy" not in content:
        raise ArtifactError(f"{path} does not say how often the teacher is right: delete it and run again.")
    found = content["accuracy"]
    return TeacherAccuracy({int(resolution): share for resolution, share in found["shares"].items()}, found["images"])


def load_teachers(path: Path | str) -> tuple[Teachers, ImageSpec]:
    """A trained teacher at each of its resolutions, in eval mode.

    Raises:
        ArtifactError: the file cannot be read, or is of a teacher of another shape.
    """
    content, spec = _content(path, TEACHER_KIND)
    hyperspace = load_hyperspace(content["hyperspace"])
    built = build_teacher(content["model"], hyperspace, len(spec.classes), spec.grid)
    teachers = {resolution: sharing_weights(built) for resolution in content["resolutions"]}
    arrays, _ = read_tensors(path, TEACHER_KIND)
    weights = {name for name, _ in built.named_parameters()}
    for resolution, teacher in teachers.items():
        prefix = f"{resolution}."
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        _load(path, {name: arrays[name] for name in weights & arrays.keys()} | own, teacher)
    return {resolution: teacher.eval() for resolution, teacher in teachers.items()}, spec


def write_supernet(
    path: Path | str,
    supernet: Supernet,
    spec: ImageSpec,
    record: Record,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a supernet; `origin` (JSON-serialisable) says where an imported one comes from."""
    content = {"space": supernet.space.code} | ({} if origin is None else {"origin": dict(origin)})
    write_module(path, SUPERNET_KIND, supernet, content, spec, record)


def read_origin(path: Path | str) -> dict[str, Any] | None:
    """Where an imported supernet comes from, as given to `write_supernet`; None of a trained one."""
    _, content = read_tensors(path, SUPERNET_KIND)
    origin: dict[str, Any] | None = content.get("origin")
    return origin


def load_supernet(path: Path | str) -> tuple[Supernet, ImageSpec]:
    """A supernet in eval mode."""
    content, spec = _content(path, SUPERNET_KIND)
    supernet = Supernet(parse_space(content["space"]), len(spec.classes), spec.grid)
    load_weights(path, SUPERNET_KIND, supernet)
    return supernet.eval(), spec


def write_seqnet(path: Path | str, network: Network, spec: ImageSpec, record: Record) -> None:
    """Write a finished subnet: its weights, BatchNorm statistics and quantizers."""
    content = {"space": network.space.code, "subnet": network.subnet.code}
    write_module(path, SEQNET_KIND, network, content, spec, record)


def load_seqnet(path: Path | str) -> tuple[Network, ImageSpec]:
    """A finished SEQnet as an ordinary torch module in eval mode; `network(x)` simulates INT8."""
    content, spec = _content(path, SEQNET_KIND)
    space = parse_space(content["space"])
    network = Network(space, space.subnet(content["subnet"]), len(spec.classes), spec.grid)
    load_weights(path, SEQNET_KIND, network)
    return network.eval(), spec
