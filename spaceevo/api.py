"""SpaceEvo from Python, for notebooks and scripts of your own.

    from spaceevo import api

    space = api.parse_space("tiny-4664-1222")
    supernet, spec = api.load_supernet("results/cpu/supernet.safetensors")
    network = api.extract(supernet, space.largest, images)
    logits = network(images)                                    # simulated INT8
    api.predict_latency("pixel4", space, space.largest, 10)
    space, subnet = api.parse_network("SEQnet@pixel4-A1")      # where a code goes, a name goes too
    api.export(network, "net.onnx", images, spec)

Pictures are normalised, float32 [N, 3, H, W], (pixel / 255 − mean) / std with the mean and std of an `ImageSpec`;
networks resize them to their own resolution. Logits are float32 [N, classes]. Latencies are milliseconds for one
picture. What suffices as it is elsewhere in the package is only gathered here.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from spaceevo.artifacts import Record
from spaceevo.data.pictures import batch_count
from spaceevo.errors import ExportError
from spaceevo.export import simulation
from spaceevo.export.description import file_description, model_description
from spaceevo.export.onnx import to_onnx
from spaceevo.export.runners import load as load_file
from spaceevo.export.simulation import simulate, simulate_graph
from spaceevo.export.verify import MIN_AGREEMENT, Parity, Verification, export_verified, write_verification
from spaceevo.latency.bench import measure_files
from spaceevo.latency.devices import Device, check_runtime, device_predictor, load_device, shipped_devices
from spaceevo.latency.files import suited_graph
from spaceevo.latency.measure import Timing
from spaceevo.latency.predictor import Prediction, Predictor, read_predictor
from spaceevo.nn.initialise import initialise
from spaceevo.nn.plain import Network
from spaceevo.nn.store import ImageSpec, load_seqnet, load_supernet
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.fit import fit
from spaceevo.quant.graph import Int8Graph, write_graph
from spaceevo.quant.lower import lower, snap_biases
from spaceevo.quant.quantizers import WeightQuantizer, fp32, int8
from spaceevo.quant.trace import trace
from spaceevo.report.describe import describe
from spaceevo.space import (
    Hyperspace,
    Space,
    Subnet,
    count_spaces,
    cross_subnets,
    load_hyperspace,
    mutate_space,
    mutate_subnet,
    parse_network,
    parse_space,
    parse_subnet,
    sample_space,
    sample_subnet,
)
from spaceevo.train.evaluate import accuracy, recalibrate

__all__ = [
    "Device",
    "Hyperspace",
    "ImageSpec",
    "Int8Graph",
    "Network",
    "Parity",
    "Prediction",
    "Predictor",
    "Space",
    "Subnet",
    "Supernet",
    "Timing",
    "accuracy",
    "build_supernet",
    "calibrated",
    "count_spaces",
    "cross_subnets",
    "describe",
    "export",
    "export_model",
    "extract",
    "fp32",
    "image_spec",
    "int8",
    "is_quantized",
    "load_device",
    "load_file",
    "load_hyperspace",
    "load_seqnet",
    "load_supernet",
    "measure_latency",
    "model_to_int8_graph",
    "mutate_space",
    "mutate_subnet",
    "parse_network",
    "parse_space",
    "parse_subnet",
    "predict_latency",
    "read_predictor",
    "sample_space",
    "sample_subnet",
    "shipped_devices",
    "to_int8_graph",
    "to_onnx",
    "to_tflite",
]

BATCH = 64  # pictures per pass of recalibration and calibration


def image_spec(
    classes: int | Sequence[str], mean: Sequence[float] = (128 / 255,) * 3, std: Sequence[float] = (0.5,) * 3
) -> ImageSpec:
    """What a network reads and says: class names, or how many, and the normalisation of each channel.

    The default puts every pixel value on a level of the 8-bit input grid, exactly.
    """
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else classes
    return ImageSpec(tuple(names), tuple(mean), tuple(std))


def build_supernet(space: Space | str, spec: ImageSpec, seed: int = 0) -> Supernet:
    """A supernet of a space with random weights, in eval mode.

    `supernet(images, subnet)` gives the logits of one subnet in FP32, `supernet(images, subnet, api.int8)` in
    simulated INT8 once it is quantization-trained. `load_supernet` reads a trained one.
    """
    space = parse_space(space) if isinstance(space, str) else space
    supernet = Supernet(space, len(spec.classes), spec.grid)
    initialise(supernet, torch.Generator().manual_seed(seed))
    return supernet.eval()


def is_quantized(network: nn.Module) -> bool:
    """Whether the grids of a supernet or network were ever trained or calibrated."""
    scales = [module.log_scale for module in network.modules() if isinstance(module, WeightQuantizer)]
    return any(bool(scale.ne(0).any()) for scale in scales)


def extract(supernet: Supernet, subnet: Subnet | str, images: Tensor | None = None) -> Network:
    """One subnet as an ordinary torch module, with copies of its weights, in eval mode.

    Args:
        images: of the training split; BatchNorm statistics are recomputed on them, in INT8 where the supernet is
            quantization-trained. Those of a supernet belong to no subnet, so leave them out only where accuracy is
            of no concern.

    Raises:
        CodeError: the subnet lies outside the supernet's space.
    """
    if isinstance(subnet, str):
        subnet = supernet.space.subnet(subnet)
    supernet.space.check(subnet)
    network = supernet.extract(subnet).eval()
    if images is not None:
        precision = int8 if is_quantized(network) else fp32
        batches = images.tensor_split(batch_count(len(images), BATCH))
        recalibrate(network, partial(network, precision=precision), batches)
    return network


def calibrated(network: Network, images: Tensor, seed: int = 0) -> Network:
    """A copy with grids fitted to what `images` bring about: quantization after training (`seed` draws the samples)."""
    network = copy.deepcopy(network).eval()
    runs = [partial(network, batch) for batch in torch.split(images, BATCH)]
    calibrate(network, runs, torch.Generator().manual_seed(seed))
    return network


def predict_latency(
    device: str | Path | Predictor, space: Space | str, subnet: Subnet | str, num_classes: int
) -> Prediction:
    """Milliseconds of a subnet, their relative error, and whether a layer lies beyond what the predictor was fitted on.

    Args:
        device: a shipped device with a table, such as "pixel4"; the path of a device's YAML or of a
            latency_predictor.json; or a predictor that is read already.

    Raises:
        DeviceError: there is no such device, or it is to be measured and its predictor is an artifact of its own.
        CodeError: a code does not parse, or the subnet lies outside the space.
    """
    space = parse_space(space) if isinstance(space, str) else space
    subnet = space.subnet(subnet) if isinstance(subnet, str) else subnet
    space.check(subnet)
    predictor = device if isinstance(device, Predictor) else device_predictor(device)
    return predictor.predict_subnet(space, subnet, num_classes)


def measure_latency(model: Network | Int8Graph | str | Path, device: str | Path | Device = "cpu") -> Timing:
    """Time a model on a device at hand, in INT8: median milliseconds, their 95 % interval, and the rounds.

    Args:
        model: a network or its int8 graph, exported as the device's runtime wants it; or the path of a file for it.
            Whether a network is trained does not matter for its latency.
        device: its name, the path of its YAML, or itself.

    Raises:
        DeviceError: there is no such device, nothing can be run on it, or its runtime is not installed.
        ExportError: the runtime cannot load the file.
    """
    device = device if isinstance(device, Device) else load_device(device)
    suffix = device.suffix
    check_runtime(device)
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as folder:
        if isinstance(model, str | Path):
            path = Path(model)
        else:
            graph = model if isinstance(model, Int8Graph) else to_int8_graph(model)
            path = Path(folder) / f"model{suffix}"
            path.write_bytes(to_tflite(suited_graph(graph, device)) if suffix == ".tflite" else to_onnx(graph))
        return measure_files(device, [path]).timings[0]


def to_int8_graph(network: Network, spec: ImageSpec | None = None) -> Int8Graph:
    """The integers of a quantized network: what `to_onnx` and `to_tflite` translate.

    Args:
        spec: for the description in the files: class names and normalisation.
    """
    return lower(network, file_description(network, spec))


def to_tflite(graph: Int8Graph) -> bytes:
    """A TFLite model, converted in a process of its own: TensorFlow must not share one with torch."""
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as folder:
        path = Path(folder) / "model.tflite"
        _convert(graph, path)
        return path.read_bytes()


def export(
    network: Network,
    path: str | Path,
    images: Tensor,
    spec: ImageSpec | None = None,
    min_agreement: float = MIN_AGREEMENT,
) -> Parity:
    """Write a network as an INT8 file, and keep it only if its runtime agrees with the simulation in torch.

    Args:
        network: where it was never quantization-trained, a copy calibrated on `images` is exported.
        path: ends in .onnx or .tflite.
        images: a few hundred pictures to compare the file and the simulation on.
        spec: for the description in the file: class names and normalisation.
        min_agreement: share of the images that must have the same top class.

    Returns:
        How well the file agrees.

    Raises:
        ExportError: it does not agree, or the suffix is another one.
        DeviceError: the runtime is not installed.
    """
    path = Path(path)
    network = copy.deepcopy(network) if is_quantized(network) else calibrated(network, images)
    snap_biases(network)
    return _deliver(to_int8_graph(network, spec), path, simulate(network, images), min_agreement)


def model_to_int8_graph(
    module: nn.Module, images: Tensor, spec: ImageSpec | None = None, seed: int = 0, name: str = ""
) -> Int8Graph:
    """The integers of any torch module whose layers are supported, with grids fitted to what `images` bring about.

    Args:
        module: of torchvision or your own, in FP32; takes float32 [N, C, H, W] and returns logits or a map.
        images: normalised, of the size that the module is to run at; some tens are enough.
        spec: for the input's grid, that of `image_spec` where left out, and for the description in the files.
        seed: draws the values that grids are fitted to.
        name: for the description.

    Raises:
        ExportError: the module cannot be traced, or a layer is not supported, which the sentence names.
    """
    traced = trace(module, images[:2])
    grid = (spec or image_spec(1)).grid
    description = model_description(images.shape[-1], spec, name)
    return fit(traced, torch.split(images, simulation.BATCH), grid, torch.Generator().manual_seed(seed), description)


def export_model(
    module: nn.Module,
    path: str | Path,
    images: Tensor,
    spec: ImageSpec | None = None,
    min_agreement: float = MIN_AGREEMENT,
    seed: int = 0,
    name: str = "",
) -> Parity:
    """Write any torch module whose layers are supported as an INT8 file: quantization after training.

    As `export` does, with the arguments of `model_to_int8_graph`; the file is compared with the int8 graph in torch.
    """
    graph = model_to_int8_graph(module, images, spec, seed, name)
    return _deliver(graph, Path(path), simulate_graph(graph, images), min_agreement)


def _deliver(graph: Int8Graph, path: Path, expected: Verification, min_agreement: float) -> Parity:
    if path.suffix == ".tflite":
        return Parity(**json.loads(_convert(graph, path, expected, min_agreement)))
    return export_verified(graph, expected, path, min_agreement)


# Prints the parity as JSON, or ends with the error's sentence.
_CONVERSION = """
import json, sys
from dataclasses import asdict
from spaceevo.artifacts import write_bytes
from spaceevo.errors import SpaceEvoError
from spaceevo.export.tflite import to_tflite
from spaceevo.export.verify import export_verified, read_verification
from spaceevo.quant.graph import read_graph

graph, path, sample, min_agreement = sys.argv[1:]
try:
    if sample:
        parity = export_verified(read_graph(graph), read_verification(sample), path, float(min_agreement))
        print(json.dumps(asdict(parity)))
    else:
        write_bytes(path, to_tflite(read_graph(graph)))
except SpaceEvoError as error:
    sys.exit(str(error))
"""


def _convert(
    graph: Int8Graph, path: Path, expected: Verification | None = None, min_agreement: float = MIN_AGREEMENT
) -> str:
    """Convert to TFLite in a process without torch, and verify where there is something to expect: parity as JSON."""
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as folder:
        graph_path, sample = Path(folder) / "graph.safetensors", Path(folder) / "verification.safetensors"
        write_graph(graph_path, graph, Record({}))
        if expected is not None:
            write_verification(sample, expected, Record({}))
        arguments = [str(graph_path), str(path), "" if expected is None else str(sample), str(min_agreement)]
        done = subprocess.run([sys.executable, "-c", _CONVERSION, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"{path} was not written: the conversion ended without a word."]
        raise ExportError(said[-1])
    return done.stdout.strip().rpartition("\n")[2]
