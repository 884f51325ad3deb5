"""`spaceevo latency`: what a network takes on a device, measured where it is at hand and predicted elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spaceevo.cli.describe import usual_classes
from spaceevo.cli.output import AsJson, Debug, guarded, print_found, print_table
from spaceevo.errors import CodeError, DeviceError

if TYPE_CHECKING:
    from spaceevo.latency.devices import Device
    from spaceevo.latency.measure import Measurement
    from spaceevo.space import Space, Subnet

SUFFIXES = (".onnx", ".tflite")


def latency(
    device: Annotated[str, typer.Argument(help="A device such as cpu or pixel4, or the path of its YAML file.")],
    model: Annotated[
        str,
        typer.Argument(
            help="A space's code, the name of a subnet such as SEQnet@pixel4-A1, or a .onnx or .tflite file."
        ),
    ],
    subnet: Annotated[str | None, typer.Argument(help="A subnet of the space: d…_k…_w…_e…_r…, or its name.")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the network; else 10 for tiny and small, 1000 for others.")
    ] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Predict, though the device is at hand.")] = False,
    predictor: Annotated[
        Path | None,
        typer.Option(help="Predictor of a device that is measured; results/<device>/latency_predictor.json else."),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(min=1e-4, max=0.5, help="Measure until known to this share, such as 0.02; an error if too noisy."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a network takes on a device: measured where it is at hand, predicted elsewhere, and how sure that is."""
    work = partial(_latency, device, model, subnet, classes, predict or predictor is not None, predictor, interval)
    guarded(lambda: print_found(work(), _show, as_json), debug)


def _latency(
    name: str,
    model: str,
    code: str | None,
    classes: int | None,
    predict: bool,
    predictor: Path | None,
    interval: float | None,
) -> dict[str, Any]:
    from spaceevo.latency.devices import at_hand, load_device

    device = load_device(name)
    if model.endswith(SUFFIXES):
        return _of_file(device, Path(model), interval, code, predict)
    space, subnet = _network(model, code)
    if classes is None:
        classes = usual_classes(space.hyperspace.name)
    network = {"device": device.name, "space": space.code, "subnet": subnet.code, "classes": classes}
    if not predict and at_hand(device):
        from spaceevo.latency.bench import careful, measure_subnet

        found = measure_subnet(device, space, subnet, classes, careful(device, interval))
        return network | _measured(device, found)
    return network | _predicted(device, space, subnet, classes, predictor)


def _network(model: str, code: str | None) -> tuple[Space, Subnet]:
    """A named subnet, or a subnet of a space; both by name or code."""
    from spaceevo.space import is_name, known_names, parse_network, parse_space

    if is_name(model) and model in (names := known_names()) and names[model].subnet is not None:
        if code is not None:
            raise CodeError(f"{model} is a subnet already: leave out {code}.")
        return parse_network(model)
    space = parse_space(model)
    if code is None:
        raise CodeError(f"{model} is a space, which has many subnets: name one of them as well.")
    subnet = space.subnet(code)
    space.check(subnet)
    return space, subnet


def _of_file(device: Device, path: Path, interval: float | None, code: str | None, predict: bool) -> dict[str, Any]:
    import tempfile

    from spaceevo.latency.bench import careful, check_picture, measure_files
    from spaceevo.latency.files import write_reference

    if code is not None or predict:
        given = f"the subnet {code}" if code is not None else "--predict"
        raise DeviceError(f"{path} is a file, which is measured as it is: leave out {given}.")
    if device.suffix != path.suffix:
        raise DeviceError(
            f"The device {device.name} runs {device.suffix} files and {path} is none: name such a file, or a device "
            f"for {path.suffix}."
        )
    check_picture(device, path)
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as folder:
        reference = write_reference(device, Path(folder))
        found = measure_files(device, [path], options=careful(device, interval), reference=reference)
    return {"device": device.name, "file": str(path)} | _measured(device, found)


def _measured(device: Device, found: Measurement) -> dict[str, Any]:
    (timing,) = found.timings
    assert found.reference is not None
    return {
        "how": "measured",
        "latency_ms": timing.latency_ms,
        "interval_ms": [timing.low_ms, timing.high_ms],
        "error": timing.error,
        "rounds": timing.rounds,
        "outliers": timing.outliers,
        "reference_ms": found.reference.latency_ms,
        "drift": found.drift,
        "machine": device.how.machine(device),
    }


def _predicted(device: Device, space: Space, subnet: Subnet, classes: int, path: Path | None) -> dict[str, Any]:
    from spaceevo.latency.devices import check_machine, check_runtime, table_predictor
    from spaceevo.latency.predictor import read_predictor

    if device.measured:
        path = path or Path("results") / device.name / "latency_predictor.json"
        if not path.is_file():
            check_runtime(device)  # which says how to get at the device
        known = read_predictor(path)
        check_machine(device, known.machine, path)
    else:
        known = table_predictor(device) if path is None else read_predictor(path)
    prediction = known.predict_subnet(space, subnet, classes)
    ms, error = prediction.latency_ms, prediction.error
    return {
        "how": "predicted",
        "latency_ms": ms,
        "interval_ms": [ms * (1 - error), ms * (1 + error)],
        "error": error,
        "beyond_fitted_range": prediction.extrapolated,
    }


def _show(found: dict[str, Any]) -> None:
    low, high = found["interval_ms"]
    rows = [("device", found["device"])]
    rows += [(key, found[key]) for key in ("file", "space", "subnet") if key in found]
    rows.append((found["how"], f"{found['latency_ms']:.4g} ms"))
    rows.append(("95 % interval", f"{low:.4g} to {high:.4g} ms (within {found['error']:.1%})"))
    if found["how"] == "measured":
        rows.append(("rounds", f"{found['rounds']}, of which {found['outliers']} outliers, which count too"))
        rows.append(("reference", f"{found['reference_ms']:.4g} ms, varying by {found['drift']:.0%}"))
        rows.append(("with", ", ".join(f"{value}" for key, value in found["machine"].items() if _is_shown(key, value))))
    elif found["beyond_fitted_range"]:
        rows.append(("note", "a layer lies beyond what the predictor was fitted on"))
    print_table(("what", "found"), rows)


def _is_shown(key: str, value: Any) -> bool:
    return key in ("cpu", "phone", "runtime") and value is not None
