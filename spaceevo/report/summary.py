"""The summary of a run in Markdown, with its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spaceevo.artifacts import read_table, write_bytes
from spaceevo.config import ReportParams
from spaceevo.report.describe import describe_space
from spaceevo.report.figures import (
    device_colours,
    draw_evolution,
    draw_footprint,
    draw_front,
    draw_latency,
    draw_losses,
    save,
)
from spaceevo.report.ledger import Cost, StepCost, read_costs, solution_costs, step_costs
from spaceevo.report.markdown import digits, figure_link, listed, markdown_table
from spaceevo.report.results import DeviceResults, read_device
from spaceevo.search.lut import LUT_KIND

CARD_HEADER = (
    "",
    "resolution",
    "M MACs",
    "M params",
    "KiB tflite, onnx",
    "KiB of activations",
    "budget ms",
    "predicted ms",
    "measured ms",
    "FP32 %",
    "INT8 % tflite, onnx",
    "agreement % tflite, onnx",
)
BEYOND = "\\*"  # marks predictions beyond the sizes that the predictor was fitted on


def write_report(
    artifacts: Sequence[Path], device_names: Sequence[str], results: Path, params: ReportParams, summary: Path
) -> None:
    """Write `summary` and, in its folder, the figures `<kind>[_<device>].{png,svg}`.

    Args:
        artifacts: all that the cost ledger lists.
        device_names: in the order of the report.
        results: the folder that holds a folder per device and, where a space was evolved, `blocks/lut.parquet`.

    Raises:
        ArtifactError: an artifact is missing or damaged.
    """
    devices = [read_device(results, name) for name in device_names]
    write_figures(devices, results / "blocks" / "lut.parquet", params, summary.parent)
    write_bytes(summary, summarise(devices, read_costs(results, artifacts)).encode())


def write_figures(devices: Sequence[DeviceResults], lut: Path, params: ReportParams, folder: Path) -> None:
    """Write every figure of the report, as PNG and SVG.

    Fronts and footprints of all devices, evolutions and losses where spaces were evolved, latencies where they were
    measured.
    """
    colours = device_colours([device.name for device in devices], params.colour)
    for device in devices:
        colour = colours[device.name]
        save(draw_front(device, colour), folder / f"front_{device.name}", params.dpi)
        save(draw_footprint(device, colour), folder / f"footprint_{device.name}", params.dpi)
        if device.history is not None:
            save(draw_evolution(device, colour), folder / f"evolution_{device.name}", params.dpi)
        if device.profile is not None:
            save(draw_latency(device, colour), folder / f"latency_{device.name}", params.dpi)
    if any_evolved(devices):
        losses = draw_losses(read_table(lut, LUT_KIND), devices[0].space.hyperspace, devices, colours)
        save(losses, folder / "losses", params.dpi)


def any_evolved(devices: Sequence[DeviceResults]) -> bool:
    """Whether a space was evolved, and so blocks distilled, for any device."""
    return any(device.history is not None for device in devices)


def summarise(devices: Sequence[DeviceResults], costs: Sequence[Cost]) -> str:
    """The summary as Markdown; its figures are expected beside it."""
    parts = [f"# Networks for {listed(device.name for device in devices)}\n"]
    for device in devices:
        parts += [f"## {device.name}\n", f"{device.description}.\n" if device.description else ""]
        parts += [_seqnets(device), _space(device), _predictor(device)]
    if any_evolved(devices):
        parts += ["## Losses of the blocks\n", figure_link("losses", "INT8 loss by stage and block type")]
    parts.append(_ledger(costs))
    return "\n".join(part for part in parts if part)


def _seqnets(device: DeviceResults) -> str:
    rows = [_card_row(name, card) for name, card in device.cards.items()]
    images = next(iter(device.cards.values()))["test_images"]
    notes = f"Accuracy on the {images:,} test images, read once. Agreement: same top class as the trained network."
    stated = [
        card["latency"]["predicted_error"] for card in device.cards.values() if "predicted_error" in card["latency"]
    ]
    if stated:
        notes += f" 95 % of predictions are to hold within their error, here ±{100 * max(stated):.1f} % or less."
    if any(card["latency"]["predicted_beyond_fitted_range"] for card in device.cards.values()):
        notes += f" {BEYOND} Extrapolated: some layer is of a size that the predictor was not fitted on."
    by_code: dict[str, list[str]] = {}
    for name, card in device.cards.items():
        by_code.setdefault(card["subnet"], []).append(name)
    for names in by_code.values():
        if len(names) > 1:
            notes += f" {' and '.join(names)} are one network: the larger budgets brought nothing better."
    for name, winner in device.winners.items():
        if count := len(winner["replaced"]):
            others = "a better subnet that measures" if count == 1 else f"{count} better subnets that measure"
            notes += f" {name} took the place of {others} over its budget."
    codes = "\n".join(f"- {', '.join(names)}: `{code}`" for code, names in by_code.items())
    figures = figure_link(f"front_{device.name}", f"Accuracy and latency on {device.name}") + figure_link(
        f"footprint_{device.name}", f"Accuracy and memory on {device.name}"
    )
    return f"### SEQnets\n\n{markdown_table(CARD_HEADER, rows)}\n{notes}\n\n{codes}\n\n{figures}\n{_front(device)}"


def _front(device: DeviceResults) -> str:
    """The subnets that none beats in both latency and accuracy, with what else they take."""
    front = device.subnets[device.subnets["on_front"]].sort_values("latency_ms")
    rows = [
        (
            digits(row["latency_ms"]),
            "-" if pd.isna(row["measured_ms"]) else digits(row["measured_ms"]),
            f"{100 * row['accuracy']:.2f}",
            f"{row['file_kib']:.0f}",
            f"{row['activation_kib']:.1f}",
            f"`{row['code']}`",
        )
        for row in front.to_dict("records")
    ]
    return (
        f"<details><summary>The {len(rows)} subnets on the front</summary>\n\n"
        + markdown_table(
            ("predicted ms", "measured ms", "INT8 % on val", "KiB of file", "KiB of activations", "subnet"), rows
        )
        + "\nSizes of files are those of TFLite, about. `subnets.parquet` has the same of every subnet evaluated."
        + "\n\n</details>\n"
    )


def _card_row(name: str, card: dict[str, Any]) -> tuple[str, ...]:
    latency, files = card["latency"], [card["files"][kind] for kind in ("tflite", "onnx")]
    measured = latency["measured_ms"]
    return (
        f"**{name}**",
        str(card["resolution"]),
        f"{card['macs'] / 1e6:.2f}",
        f"{card['params'] / 1e6:.3f}",
        ", ".join(f"{file['size_bytes'] / 1024:.0f}" for file in files),
        f"{card['activation_bytes'] / 1024:.1f}",
        digits(latency["budget_ms"]),
        digits(latency["predicted_ms"]) + (BEYOND if latency["predicted_beyond_fitted_range"] else ""),
        "-" if measured is None else digits(measured),
        f"{100 * card['fp32_accuracy']:.2f}",
        ", ".join(f"{100 * file['int8_accuracy']:.2f}" for file in files),
        ", ".join(f"{100 * file['agreement_with_simulation']:.2f}" for file in files),
    )


def _space(device: DeviceResults) -> str:
    found = describe_space(device.space)
    rows = [
        (
            stage["stage"],
            f"**{stage['block']}**" if stage["searched"] else stage["block"],
            listed(stage["widths"]) or "classes",
            listed(stage["depths"]),
            listed(stage["kernel_sizes"]),
            listed(f"{ratio:g}" for ratio in stage["expand_ratios"]) or "-",
            stage["activation"] or "-",
        )
        for stage in found["stages"]
    ]
    table = markdown_table(("stage", "block type", "widths", "depths", "kernels", "expand", "activation"), rows)
    held = f"It holds {found['subnets']:,} subnets at {listed(found['resolutions'])} pixels"
    origin = _imported(device, held) if device.history is None else _evolved(device, device.history, held)
    parts = [f"### Space\n\n`{found['space']}`: {origin} Block types that were searched are bold.\n", table]
    if device.history is not None:
        parts.append(figure_link(f"evolution_{device.name}", f"Evolution of the space for {device.name}"))
    return "\n".join(parts)


def _evolved(device: DeviceResults, history: pd.DataFrame, held: str) -> str:
    evolved = device.evolution
    budgets = [
        f"{share:.0%} of its subnets within {digits(budget)} ms"
        for budget, share in zip(evolved["budgets_ms"], evolved["shares"], strict=True)
    ]
    return f"Q-T score {evolved['score']:.3f}, the best of {len(history):,} spaces. {held}, {listed(budgets)}."


def _imported(device: DeviceResults, held: str) -> str:
    """Of a space that came with a published supernet: its file, and where its 8-bit grids come from."""
    grids = [
        f"of its {kind} {listed(f'{count:,} {origin}' for origin, count in counts.items())}"
        for kind, counts in device.evolution["grids"].items()
    ]
    return f"imported from `{device.evolution['checkpoint']}`, 8-bit grids {'; '.join(grids)}. {held}."


def _predictor(device: DeviceResults) -> str:
    rows = [
        (
            name.replace("_", " "),
            f"{figures['models']:,}",
            *(f"{100 * figures[f'within_{percent}_percent']:.1f}" for percent in (5, 10, 15)),
            f"{100 * figures['mean_absolute_relative_error']:.1f}",
        )
        for name, figures in _error_rows(device.predictor.errors)
    ]
    header = ("tested on", "number", "% within 5 %", "% within 10 %", "% within 15 %", "mean abs. error %")
    parts = ["### Latency predictor\n", f"{device.predictor.notes}\n" if device.predictor.notes else ""]
    parts.append(markdown_table(header, rows) if rows else "It was not tested on unseen networks.\n")
    if device.profile is not None:
        parts.append(figure_link(f"latency_{device.name}", f"Predicted and measured latency on {device.name}"))
    return "\n".join(part for part in parts if part)


def _error_rows(errors: Any, name: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Groups of error figures, however deep: a predictor may state them by block type."""
    if not isinstance(errors, dict):
        return []
    if "within_15_percent" in errors:
        return [(name, errors)]
    return [row for key, value in errors.items() for row in _error_rows(value, f"{name}: {key}" if name else key)]


def _ledger(costs: Sequence[Cost]) -> str:
    steps = step_costs(costs)
    rows = [(step.step, step.device or "all", str(step.artifacts), *_seconds(step)) for step in steps]
    wall_s, cpu_s, gpu_s = (sum(getattr(step, unit) for step in steps) for unit in ("wall_s", "cpu_s", "gpu_s"))
    rows.append(("**all**", "", str(len(costs)), f"**{wall_s:,.1f}**", f"**{cpu_s:,.1f}**", f"**{gpu_s:,.1f}**"))
    each = [(f"`{cost.path}`", *_seconds(cost)) for cost in costs]
    units = ("wall s", "CPU s", "GPU s")
    solutions = [(device, *(f"{cost:,.1f}" for cost in spent)) for device, spent in solution_costs(steps).items()]
    return (
        "## Costs\n\nAs the artifacts state them; interrupted runs that were resumed count in full. Artifacts of one "
        "job share its cost, which counts once. CPU seconds are those of a job's first process, GPU seconds the wall "
        "time of every GPU that it held.\n\n"
        + markdown_table(("step", "device", "artifacts", *units), rows)
        + "\nWhat one device's SEQnets cost, with what all devices share counted in full:\n\n"
        + markdown_table(("device", *units), solutions)
        + "\n<details><summary>Every artifact</summary>\n\n"
        + markdown_table(("artifact", *units), each)
        + "\n</details>\n"
    )


def _seconds(cost: Cost | StepCost) -> tuple[str, str, str]:
    return f"{cost.wall_s:,.1f}", f"{cost.cpu_s:,.1f}", f"{cost.gpu_s:,.1f}"
