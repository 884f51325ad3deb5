"""What the benchmarks of trained supernets share: the artifacts of a finished run, and accuracy on val or test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spaceevo.config import Params, load_params
from spaceevo.data.names import split_suffix
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import Split, load_split
from spaceevo.errors import SpaceEvoError
from spaceevo.nn.store import load_supernet
from spaceevo.nn.supernet import Supernet
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH


@dataclass(frozen=True)
class FinishedRun:
    """The results of one device, and the parameters they were made with."""

    results: Path
    device: str
    params: Params

    @property
    def folder(self) -> Path:
        """The device's own artifacts."""
        return self.results / self.device

    def split(self, name: str) -> Split:
        """`train`, `val` or `test`."""
        dataset = self.params.dataset.name
        return load_split(self.results / "data" / dataset / f"{name}{split_suffix(dataset)}")

    def supernet(self, name: str = "supernet") -> Supernet:
        """A supernet by the name of its file, as far as the dot."""
        return load_supernet(self.folder / f"{name}.safetensors")[0]

    def evaluator(self, supernet: Supernet, split: str = "val") -> SubnetEvaluator:
        """As in the subnet search: the same pictures for BatchNorm statistics and for accuracy; of test, all."""
        resolution, counts = supernet.space.hyperspace.resolutions[-1], self.params.search
        seed = self.params.seed
        seen = Pictures.of_split(
            self.split("train"), resolution, RECALIBRATION_BATCH, counts.recalibration_images, seed
        )
        judged = self.split(split)
        images = counts.val_images if split == "val" else len(judged)
        shown = Pictures.of_split(judged, resolution, EVALUATION_BATCH, images, seed)
        return SubnetEvaluator(supernet, seen, shown, None)


def finished_run(results: Path, device: str, params: Path) -> FinishedRun:
    """The finished results of a device.

    Raises:
        SpaceEvoError: its supernet is not there.
    """
    if not (results / device / "supernet.safetensors").is_file():
        raise SpaceEvoError(
            f"{results / device} has no supernet: run snakemake {results / device}/supernet.safetensors."
        )
    return FinishedRun(results, device, load_params(params))
