"""Accuracy, latency and size of the SEQnets of each device, from finished results, and what their spaces span."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import Check, print_checks, print_table, write_result
from trained import params_with

from spaceevo.artifacts import read_json
from spaceevo.config import Params
from spaceevo.data.loader import materialise
from spaceevo.data.names import split_suffix
from spaceevo.data.splits import load_split
from spaceevo.nn.store import load_supernet
from spaceevo.report.results import SEQNETS
from spaceevo.scripting import run
from spaceevo.search.evaluator import SubnetEvaluator

BEST_ACCURACY = 0.9  # of A4, in INT8
TOLERANCE = 0.005  # by which a larger SEQnet may be worse than a smaller one, and INT8 differ from FP32
SPAN = 0.05  # of INT8 accuracy between the smallest and the largest subnet of a space
ROUNDING = 1e-9  # so that 0.5 points are within 0.5 points


def main(results: Path = Path("results"), configfile: Path | None = None, threads: int = 1) -> None:
    """Read the cards in `results`, which params.yaml and `configfile` made, and evaluate the ends of each space."""
    torch.set_num_threads(threads)
    settings = params_with(configfile)
    cards = {
        device: [read_json(results / device / f"seqnet_{name}.json", "card") for name in SEQNETS]
        for device in settings.devices
    }
    for device, entries in cards.items():
        print_table(
            f"SEQnets of {device}, test split ({entries[0]['test_images']} images)",
            ("", "INT8 TFLite", "INT8 ONNX", "FP32", "gap, points", "predicted ms", "measured ms", "TFLite KiB",
             "ONNX KiB", "MMACs"),
            [_row(card) for card in entries],
        )  # fmt: skip
    spans = {device: _span(results / device, results / "data" / settings.dataset.name, settings) for device in cards}
    print_table(
        "Smallest and largest subnet of each device's space, INT8 accuracy on the test split",
        ("device", "space", "smallest", "largest", "points apart"),
        [
            (device, s["space"], f"{s['smallest']:.2%}", f"{s['largest']:.2%}", f"{100 * _apart(s):.2f}")
            for device, s in spans.items()
        ],
    )
    checks = [check for device in cards for check in _checks(device, cards[device], spans[device])]
    print_checks(checks)
    write_result("seqnets", {"cards": cards, "spans": spans}, checks)


def _row(card: dict[str, Any]) -> tuple[str, ...]:
    latency, files = card["latency"], card["files"]
    measured = latency["measured_ms"]
    return (
        card["name"],
        *(f"{files[kind]['int8_accuracy']:.2%}" for kind in ("tflite", "onnx")),
        f"{card['fp32_accuracy']:.2%}",
        f"{100 * _gap(card):.2f}",
        f"{latency['predicted_ms']:.3f}",
        "-" if measured is None else f"{measured:.3f}",
        *(f"{files[kind]['size_bytes'] / 1024:.0f}" for kind in ("tflite", "onnx")),
        f"{card['macs'] / 1e6:.2f}",
    )


def _gap(card: dict[str, Any]) -> float:
    """The larger distance of the two files' accuracies from that in FP32."""
    return max(abs(float(file["int8_accuracy"] - card["fp32_accuracy"])) for file in card["files"].values())


def _span(folder: Path, data: Path, settings: Params) -> dict[str, Any]:
    """INT8 accuracy, 0 to 1, of the smallest and the largest subnet of a device's space, as the cards measure it."""
    supernet, _ = load_supernet(folder / "supernet.safetensors")
    space = supernet.space
    resolution, suffix = space.hyperspace.resolutions[-1], split_suffix(settings.dataset.name)
    train = load_split(data / f"train{suffix}")
    images, _ = materialise(train, resolution, settings.export.recalibration_images, settings.seed)
    evaluator = SubnetEvaluator(supernet, images, *materialise(load_split(data / f"test{suffix}"), resolution))
    ends = {"smallest": space.smallest, "largest": space.largest}
    return {"space": space.code} | {name: round(evaluator.accuracy(subnet), 6) for name, subnet in ends.items()}


def _apart(span: dict[str, Any]) -> float:
    return float(span["largest"] - span["smallest"])


def _checks(device: str, cards: list[dict[str, Any]], span: dict[str, Any]) -> list[Check]:
    accuracies = [card["int8_accuracy"] for card in cards]
    drop = max(smaller - larger for smaller, larger in pairwise(accuracies))
    gap = max(_gap(card) for card in cards)
    return [
        Check(
            f"{device}: A4 has at least {BEST_ACCURACY:.0%} in INT8",
            f"{accuracies[-1]:.2%}",
            accuracies[-1] >= BEST_ACCURACY,
        ),
        Check(
            f"{device}: A0 to A4 rise, none worse than the one before by more than {100 * TOLERANCE:g} points",
            f"at most {100 * max(drop, 0.0):.2f} points",
            drop <= TOLERANCE + ROUNDING,
        ),
        Check(
            f"{device}: INT8 within {100 * TOLERANCE:g} points of FP32, every file",
            f"{100 * gap:.2f} points",
            gap <= TOLERANCE + ROUNDING,
        ),
        Check(
            f"{device}: the space's smallest and largest subnet at least {100 * SPAN:g} points apart",
            f"{100 * _apart(span):.2f} points",
            _apart(span) >= SPAN - ROUNDING,
        ),
    ]


if __name__ == "__main__":
    run(main)
