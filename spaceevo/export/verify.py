"""Verification of exported files: a file is delivered only if its runtime agrees with the trained network.

The expected results come from the simulation in torch, through the artifact "verification"; torch is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from spaceevo.artifacts import Arrays, Record, read_tensors, write_bytes, write_tensors
from spaceevo.errors import ExportError
from spaceevo.export import runners
from spaceevo.export.names import OUTPUT_NAME
from spaceevo.export.onnx import to_onnx
from spaceevo.export.tflite import float_kernels, to_tflite
from spaceevo.quant.graph import Int8Graph, node_inputs
from spaceevo.quant.grids import LEVELS, Grid

VERIFICATION_KIND = "verification"
TENSOR_PREFIX = "tensors/"

MIN_AGREEMENT = 0.995  # of the top class, as a share of the samples
# Runtimes round differently by a unit here and there, and layers carry that on; a wrong kernel makes a leap instead.
DIVERGING_MEAN = 0.5  # units, over a tensor
DIVERGING_LEAP = 3.0  # times that of the tensors it is made from

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verification:
    """Inputs and what the trained network makes of them.

    Attributes:
        inputs: float32 [n, 3, resolution, resolution], normalised.
        logits: float32 [n, classes], of the simulation in torch.
        tensors: for the first m ≤ n inputs, the integers of tensors of the graph by name, uint8 [m, ...].
    """

    inputs: FloatArray
    logits: FloatArray
    tensors: Mapping[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Parity:
    """How well a file agrees with the trained network.

    Attributes:
        top1_agreement: share of the samples with the same predicted class.
        max_abs_lsb, mean_abs_lsb: difference of the logits in steps of their grid.
        samples: number of inputs compared.
    """

    top1_agreement: float
    max_abs_lsb: float
    mean_abs_lsb: float
    samples: int


def write_verification(path: Path | str, verification: Verification, record: Record) -> None:
    """Write a verification sample as a safetensors artifact."""
    arrays: Arrays = {TENSOR_PREFIX + name: value for name, value in verification.tensors.items()}
    arrays |= {"inputs": verification.inputs, "logits": verification.logits}
    write_tensors(path, VERIFICATION_KIND, arrays, record)


def read_verification(path: Path | str) -> Verification:
    """Read a sample written by `write_verification`; `ArtifactError` where it cannot be."""
    arrays, _ = read_tensors(path, VERIFICATION_KIND)
    tensors = {name.removeprefix(TENSOR_PREFIX): a for name, a in arrays.items() if name.startswith(TENSOR_PREFIX)}
    return Verification(arrays["inputs"], arrays["logits"], tensors)


def export_verified(
    graph: Int8Graph, verification: Verification, path: Path | str, min_agreement: float = MIN_AGREEMENT
) -> Parity:
    """Export a graph as `.onnx` or `.tflite`, by the suffix of `path`, and put it there only if it verifies.

    Raises:
        ExportError: it does not verify, or the suffix is another one; see `verify`.
        DeviceError: the runtime is not installed.
    """
    path = Path(path)
    candidate = path.with_name(f"{path.stem}.candidate{path.suffix}")
    try:
        write_bytes(candidate, _export(graph, path))
        parity = _verify(candidate, path, graph, verification, min_agreement)
        candidate.replace(path)
    finally:
        candidate.unlink(missing_ok=True)
    return parity


def verify(
    path: Path | str, graph: Int8Graph, verification: Verification, min_agreement: float = MIN_AGREEMENT
) -> Parity:
    """Check an exported file against the network it came from.

    Raises:
        ExportError: the file does not load, holds a float TFLite kernel, or gives fewer than `min_agreement` of the
            samples the same class (the sentence names the first tensor that diverges); it then lies at
            `rejected_path(path)`.
        DeviceError: the runtime is not installed.
    """
    return _verify(Path(path), Path(path), graph, verification, min_agreement)


def rejected_path(path: Path) -> Path:
    """Where a file goes that does not verify: beside its place, as `<name>.rejected<suffix>`."""
    return path.with_name(f"{path.stem}.rejected{path.suffix}")


def _export(graph: Int8Graph, path: Path, outputs: list[str] | None = None) -> bytes:
    match path.suffix:
        case ".onnx":
            return to_onnx(graph, outputs)
        case ".tflite":
            return to_tflite(graph, outputs)
    raise ExportError(f"{path} is neither a .onnx nor a .tflite file: name a file with one of these suffixes.")


def _verify(file: Path, target: Path, graph: Int8Graph, verification: Verification, min_agreement: float) -> Parity:
    """Verify `file`, which is to lie at `target`, and set it aside if it fails."""
    try:
        parity = _parity(file, graph, verification)
        _check_kernels(file)
        if parity.top1_agreement < min_agreement:
            raise ExportError(
                f"it gives the same class as the trained network for {parity.top1_agreement:.1%} of "
                f"{parity.samples} samples, fewer than {min_agreement:.1%}; " + _divergence(file, graph, verification)
            )
    except ExportError as error:
        rejected = rejected_path(target)
        file.replace(rejected)
        raise ExportError(f"{target} was not delivered: {error} The file is kept as {rejected}.") from error
    return parity


def _check_kernels(file: Path) -> None:
    if file.suffix == ".tflite" and (kernels := float_kernels(file.read_bytes())):
        raise ExportError(f"it holds float kernels ({', '.join(kernels)}); every tensor needs a grid.")


def _parity(file: Path, graph: Int8Graph, verification: Verification) -> Parity:
    logits = runners.load(file, threads=1).run(verification.inputs)
    lsb = np.abs(logits - verification.logits) / graph.grids[graph.output].scale
    return Parity(
        top1_agreement=float(np.mean(logits.argmax(axis=1) == verification.logits.argmax(axis=1))),
        max_abs_lsb=round(float(lsb.max()), 3),
        mean_abs_lsb=round(float(lsb.mean()), 6),
        samples=len(logits),
    )


def _divergence(file: Path, graph: Int8Graph, verification: Verification) -> str:
    """A sentence on the first tensor that diverges in a fresh export of the graph with every tensor given out."""
    nodes = [node for node in graph.nodes if node.output in verification.tensors]
    if not nodes:
        return "the verification sample holds no tensors to tell where."
    inputs = verification.inputs[: len(verification.tensors[nodes[0].output])]
    with TemporaryDirectory() as folder:
        fresh = Path(folder) / f"fresh{file.suffix}"
        fresh.write_bytes(_export(graph, fresh, [node.output for node in nodes]))
        actual = runners.load(fresh, threads=1).tensors(inputs)
    if not np.array_equal(actual[OUTPUT_NAME], runners.load(file, threads=1).run(inputs)):
        return "it differs from a fresh export of the graph, so it is damaged or that of another graph."
    means: dict[str, float] = {}
    for node in nodes:
        wanted = verification.tensors[node.output].astype(np.int64)
        off = np.abs(_integers(actual[node.output], graph.grids[node.output]).reshape(wanted.shape) - wanted)
        mean = means[node.output] = float(off.mean())
        if mean > max(DIVERGING_MEAN, *(DIVERGING_LEAP * means.get(tensor, 0.0) for tensor in node_inputs(node))):
            share = float(np.mean(off > 1))
            return f"the first tensor to diverge is {node.output}: {share:.1%} of it by more than 1, up to {off.max()}."
    worst = max(means, key=means.__getitem__)
    return f"rounding differences add up along the network, most in {worst} (by {means[worst]:.2f} on average)."


def _integers(values: FloatArray, grid: Grid) -> npt.NDArray[np.int64]:
    """The integers on a grid that dequantize to `values`."""
    integers: npt.NDArray[np.float64] = np.round(values / grid.scale) + grid.zero_point
    return integers.clip(0, LEVELS).astype(np.int64)
