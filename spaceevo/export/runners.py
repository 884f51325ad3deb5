"""Running exported files: the same few methods for onnxruntime and TFLite.

Whatever a runtime's own layout and integers are, pictures and feature maps are float32 [N, C, H, W] here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spaceevo.errors import DeviceError, ExportError
from spaceevo.export.names import OUTPUT_NAME, VIEW_SUFFIX

FloatArray = npt.NDArray[np.float32]

# Of onnxruntime's names for types of inputs, those that are not float32.
_ONNX_TYPES = {"tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(float16)": "float16"}
_ONNX_TYPES |= {"tensor(double)": "float64", "tensor(int32)": "int32", "tensor(int64)": "int64"}


class Runner(Protocol):
    """A model loaded into a runtime.

    Attributes:
        input_shape: of its input, channels second, None where the file leaves a size open.
    """

    input_shape: tuple[int | None, ...]

    def run(self, x: FloatArray) -> FloatArray:
        """The model's output, float32 [N, classes] or [N, C, H, W], for float32 [N, C, H, W]."""
        ...

    def tensors(self, x: FloatArray) -> dict[str, FloatArray]:
        """Every output of the model by name, dequantized, as float32 with channels second."""
        ...

    def invoke(self) -> None:
        """Run once on a preset input of batch 1, in the type the model takes, and drop the result: to be timed."""
        ...


def load(path: Path | str, threads: int) -> Runner:
    """Load a `.onnx` or `.tflite` file with `threads` threads.

    Raises:
        DeviceError: the runtime is not installed.
        ExportError: the suffix is another one, or the runtime cannot load the file.
    """
    path = Path(path)
    match path.suffix:
        case ".onnx":
            return OnnxRunner(path, threads)
        case ".tflite":
            return TfliteRunner(path, threads)
    raise ExportError(f"{path} is neither a .onnx nor a .tflite file: name a file with one of these suffixes.")


class OnnxRunner:
    """A model in onnxruntime, on the CPU."""

    def __init__(self, path: Path | str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise _not_installed(path, "onnxruntime") from error
        model = _read(path)
        options = onnxruntime.SessionOptions()
        # Without VNNI, kernels of x86 add up pairs of products in 16 bits, which overflow; with this, in 32 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise _not_loadable(path, error) from error
        input_ = _only_input(path, self._session.get_inputs(), lambda found: found.name)
        self._input = input_.name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.input_shape = tuple(size if isinstance(size, int) and size > 0 else None for size in input_.shape)
        shape = [size or 1 for size in self.input_shape]
        self._preset = {self._input: _preset(shape, np.dtype(_ONNX_TYPES.get(input_.type, "float32")))}

    def run(self, x: FloatArray) -> FloatArray:
        (output,) = self._session.run([OUTPUT_NAME], {self._input: x})
        return np.asarray(output)

    def tensors(self, x: FloatArray) -> dict[str, FloatArray]:
        values = self._session.run(self._outputs, {self._input: x})
        return {name.removesuffix(VIEW_SUFFIX): value for name, value in zip(self._outputs, values, strict=True)}

    def invoke(self) -> None:
        self._session.run(None, self._preset)


class TfliteRunner:
    """A model in TFLite with XNNPACK; a file holds one picture, so that a batch is run picture by picture."""

    def __init__(self, path: Path | str, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise _not_installed(path, "ai-edge-litert") from error
        model = _read(path)
        try:
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _not_loadable(path, error) from error
        self._input = _only_input(path, self._interpreter.get_input_details(), lambda found: found["name"])
        shape = [int(size) for size in self._input["shape"]]
        self.input_shape: tuple[int | None, ...] = (*shape[:1], *shape[1:][-1:], *shape[1:-1])
        self._outputs = self._named_outputs()
        self._set(_preset(self._input["shape"], np.dtype(self._input["dtype"])))

    def run(self, x: FloatArray) -> FloatArray:
        return self.tensors(x)[OUTPUT_NAME]

    def tensors(self, x: FloatArray) -> dict[str, FloatArray]:
        results: dict[str, list[FloatArray]] = {name: [] for name in self._outputs}
        for picture in np.moveaxis(x, 1, -1):
            self._set(_quantized(picture[None], self._input))
            self._interpreter.invoke()
            for name, details in self._outputs.items():
                value = _dequantized(self._interpreter.get_tensor(details["index"]), details)
                results[name].append(np.moveaxis(value, -1, 1))
        return {name: np.concatenate(values) for name, values in results.items()}

    def invoke(self) -> None:
        self._interpreter.invoke()

    def _set(self, value: npt.NDArray[Any]) -> None:
        self._interpreter.set_tensor(self._input["index"], value)

    def _named_outputs(self) -> dict[str, dict[str, Any]]:
        """Details of each output, by its name in the signature."""
        signatures = self._interpreter.get_signature_list()
        if not signatures:
            return {OUTPUT_NAME: self._interpreter.get_output_details()[0]}
        runner = self._interpreter.get_signature_runner(next(iter(signatures)))
        return dict(runner.get_output_details())


def _only_input(path: Path | str, inputs: Sequence[Any], name: Callable[[Any], str]) -> Any:
    if len(inputs) != 1:
        raise ExportError(
            f"{path} reads {len(inputs)} inputs ({', '.join(map(name, inputs))}), where a model has to read one "
            "picture: take a file with one input."
        )
    return inputs[0]


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error.strerror}): run snakemake to make it.") from error


def _not_installed(path: Path | str, package: str) -> DeviceError:
    return DeviceError(f"{path} cannot be run here because {package} is not installed: pip install {package}.")


def _not_loadable(path: Path | str, error: Exception) -> ExportError:
    return ExportError(f"{path} cannot be loaded ({error}): delete it and export it again.")


def _preset(shape: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An arbitrary fixed input; integer kernels take the same time on any."""
    values: npt.NDArray[Any] = np.random.default_rng(0).standard_normal(tuple(shape)).astype(dtype)
    return values


def _quantized(x: FloatArray, details: dict[str, Any]) -> npt.NDArray[Any]:
    """`x` in the type of a TFLite tensor; the identity for float tensors."""
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return x.astype(dtype)
    scale, zero_point = details["quantization"]
    limits = np.iinfo(dtype)
    integers: npt.NDArray[Any] = np.round(x / np.float32(scale)) + zero_point
    return integers.clip(limits.min, limits.max).astype(dtype)


def _dequantized(value: npt.NDArray[Any], details: dict[str, Any]) -> FloatArray:
    if value.dtype.kind == "f":
        return value.astype(np.float32)
    scale, zero_point = details["quantization"]
    return (value.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
