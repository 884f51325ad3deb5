"""Files and networks timed on a device: loaded, kept on the same cores, with the reference beside them."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from spaceevo.errors import ExportError
from spaceevo.latency.devices import Device, MeasureOptions
from spaceevo.latency.files import Sketch, write_reference, write_sketch
from spaceevo.latency.measure import Measurement, measure_with_reference
from spaceevo.latency.pinning import pinned
from spaceevo.nn.network import subnet_plan
from spaceevo.space import Space, Subnet

CAREFUL_ROUNDS = 21


def measure_files(
    device: Device,
    paths: Sequence[Path],
    *,
    options: MeasureOptions | None = None,
    reference: Path | None = None,
    budget_s: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Time files on a device, in interleaved rounds.

    Args:
        paths: files with the suffix that the device's runtime loads.
        options: those of the device, where not given.
        reference: file of the reference model (`write_reference`), to see the machine drift.
        budget_s, progress: as of `spaceevo.latency.measure`.

    Raises:
        DeviceError: nothing can be run on the device, its runtime is not installed, or it is too noisy.
        ExportError: the runtime cannot load a file.
    """
    device.how.check(device)
    with ExitStack() as stack:
        stack.enter_context(pinned(device.threads))  # before files are loaded: a runtime's threads start there
        models = [stack.enter_context(device.how.load(path, device)) for path in paths]
        beside = None if reference is None else stack.enter_context(device.how.load(reference, device))
        return measure_with_reference(
            models,
            beside,
            device.measure if options is None else options,
            threads=device.threads,
            budget_s=budget_s,
            progress=progress,
        )


def measure_subnet(
    device: Device, space: Space, subnet: Subnet, num_classes: int, options: MeasureOptions | None = None
) -> Measurement:
    """Time a subnet with arbitrary weights, which its latency does not depend on, beside the reference model."""
    return measure_subnets(device, space, [subnet], num_classes, options)


def measure_subnets(
    device: Device, space: Space, subnets: Sequence[Subnet], num_classes: int, options: MeasureOptions | None = None
) -> Measurement:
    """Time subnets in interleaved rounds, with arbitrary weights, beside the reference model."""
    with tempfile.TemporaryDirectory(prefix="spaceevo-") as name:
        folder = Path(name)
        paths = [
            write_sketch(
                Sketch(subnet_plan(space, subnet, num_classes), subnet.resolution, number),
                device,
                folder / f"model{number}",
            )
            for number, subnet in enumerate(subnets)
        ]
        return measure_files(device, paths, options=options, reference=write_reference(device, folder))


def careful(device: Device, interval: float | None = None) -> MeasureOptions:
    """How to measure a few models: with time for more rounds than each of a profile's hundreds gets."""
    return device.measure.model_copy(
        update={"rounds": max(CAREFUL_ROUNDS, device.measure.rounds), "interval": interval}
    )


def check_picture(device: Device, path: Path) -> None:
    """Refuse a file that does not read one picture of a fixed size, or cannot be run on one.

    Raises:
        ExportError: the file cannot be read or run, or what it reads is no picture. Files for a phone are checked where
            TFLite is installed here too.
    """
    from spaceevo.export import runners

    if device.how.removable and importlib.util.find_spec("ai_edge_litert") is None:
        return
    runner = runners.load(path, threads=1)
    shape = runner.input_shape
    shown = " × ".join("?" if size is None else str(size) for size in shape) or "a single value"
    if len(shape) != 4 or shape[0] not in (1, None) or shape[1] not in (1, 3, 4):
        raise ExportError(
            f"{path} does not read a picture: its input is {shown}, where one picture with channels is 1 × 3 × height "
            "× width; name a file that classifies pictures."
        )
    if shape[2] is None or shape[3] is None:
        raise ExportError(
            f"{path} leaves the size of its picture open ({shown}), on which its latency depends: export it with a "
            "fixed height and width."
        )
    try:
        runner.invoke()
    except Exception as error:  # runtimes have no common one
        raise ExportError(
            f"{path} cannot be run on a picture of numbers ({' '.join(str(error).split())}): export it again."
        ) from error
