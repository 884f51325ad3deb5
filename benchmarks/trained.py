"""What the benchmarks of trained supernets share: the artifacts of a finished run, and accuracy on val or test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spaceevo.config import Params
from spaceevo.data.names import split_suffix
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import Split, load_split
from spaceevo.errors import SpaceEvoError
from spaceevo.nn.store import load_supernet
from spaceevo.nn.supernet import Supernet
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH
from spaceevo.workflow.plan import merged_params

OWN = "supernet"  # of a device's own space


@dataclass(frozen=True)
class FinishedRun:
    """The results of one device, the parameters they were made with, and which of its supernets is looked at.

    Attributes:
        name: of the supernet's file in the device's folder, without its suffix: `OWN`, or another such as
            comparison/evolved/supernet_0.
    """

    results: Path
    device: str
    params: Params
    name: str = OWN

    @property
    def folder(self) -> Path:
        """The device's own artifacts."""
        return self.results / self.device

    def split(self, name: str) -> Split:
        """`train`, `val` or `test`."""
        dataset = self.params.dataset.name
        return load_split(self.results / "data" / dataset / f"{name}{split_suffix(dataset)}")

    @property
    def suffix(self) -> str:
        """What tells the results of this supernet from those of the device's own."""
        return "" if self.name == OWN else "_" + self.name.replace("/", "_")

    @property
    def path(self) -> Path:
        """The supernet's file."""
        return self.folder / f"{self.name}.safetensors"

    def supernet(self) -> Supernet:
        """The trained supernet."""
        return load_supernet(self.path)[0]

    def supernet_fp32(self) -> Supernet:
        """The same as the FP32 phase left it."""
        return load_supernet(self.path.with_name(self.path.name.replace("supernet", "supernet_fp32", 1)))[0]

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


def finished_run(results: Path, device: str, configfile: Path | None, name: str = OWN) -> FinishedRun:
    """The finished results of a device.

    Args:
        configfile: laid over params.yaml, as for snakemake.
        name: of its supernet, as `FinishedRun` has it.

    Raises:
        SpaceEvoError: its supernet is not there, or the parameters are wrong.
    """
    finished = FinishedRun(results, device, params_with(configfile), name)
    if not finished.path.is_file():
        laid_over = "" if configfile is None else f" --configfile {configfile}"
        raise SpaceEvoError(f"{finished.path} is not there: run snakemake --cores 2{laid_over} -- {finished.path}.")
    return finished


def params_with(configfile: Path | None) -> Params:
    """params.yaml, with a file laid over it if there is one."""
    return merged_params([] if configfile is None else [configfile])
