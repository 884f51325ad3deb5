"""The study for people: what to do follows from the measurements, and the figures are there."""

import re

import pandas as pd
import pytest

from spaceevo.config import ReportParams, StudyParams
from spaceevo.latency.study.findings import Findings
from spaceevo.latency.study.units import chains, quantities
from spaceevo.report.study import circumstances, recommendations, summarise, write_study
from spaceevo.space import load_hyperspace

PARAMS = StudyParams(channels=16, height=14, steps={4: (16, 40), 8: (16, 64)})
MACHINE = {"cpu": "Some CPU", "instructions": ["avx2", "avx_vnni"], "governor": None, "threads": 2}
TINY = load_hyperspace("tiny")


def unit_us(unit, channels, precision):
    """INT8 halves all but depthwise convolutions, whose time it doubles; widths cost what the next multiple does."""
    if unit.startswith("width"):
        return (-(-channels // 8) * 8) ** 2 / 10
    us = {"conv 1×1": 100, "conv 1×1 + swish": 180, "conv 1×1 + hswish": 101, "depthwise 7×7": 700}.get(unit, 200)
    factor = 1.0 if precision == "fp32" else (2.0 if unit.startswith("depthwise") else 0.5)
    return us * factor + (10 if "SE" in unit else 0)


def table(count=None):
    rows = []
    for chain in chains(TINY, PARAMS)[:count]:
        unit, channels, repeats, precision = chain.key
        ms = (20 + repeats * unit_us(unit, channels, precision)) / 1000
        timing = {"latency_ms": ms, "low_ms": 0.98 * ms, "high_ms": 1.01 * ms, "spread_ms": 0.0, "rounds": 11}
        row = {"unit": unit, "channels": channels, "repeats": repeats, "precision": precision, "macs": chain.macs}
        rows.append(row | timing | {"drift": 0.04})
    return pd.DataFrame(rows)


def studied(count=None):
    measured = table(count)
    made = circumstances("mine", MACHINE, PARAMS, measured, len(chains(TINY, PARAMS)))
    return Findings(measured, list(PARAMS.steps), quantities(TINY)), made


@pytest.fixture(scope="module")
def said():
    return "\n".join(recommendations(studied()[0]))


def test_what_gains_and_what_does_not_is_named(said):
    operators = next(line for line in said.splitlines() if line.startswith("**Operators**"))
    assert re.search(r"quantization-friendly: .*convolution 1×1 \(2\.0×\)", operators)
    assert operators.endswith("to be used sparingly: depthwise 3×3 (0.5×).")


def test_costs_are_relative(said):
    assert "relu 100 % (100 % in FP32)" in said and "swish 80 % (80 % in FP32)" in said
    assert "hswish nothing (nothing in FP32)" in said  # 1 % is none
    assert "7×7 takes 3.5 times as long as 3×3 in INT8, 3.5 in FP32, for 5.4 times the multiply-accumulates" in said
    assert "adds 10 % to an inverted residual in INT8, 5 % in FP32" in said


def test_widths_are_recommended(said):
    assert "convolution 1×1: take multiples of 8; those of 8 cost" in said
    assert "No faster than something wider: 20, 28, 36." in said


def test_the_summary_states_machine_noise_and_what_is_missing():
    text = summarise(*studied())
    assert "Some CPU, avx2 avx_vnni, threads: 2." in text and "±2.0 %" in text and "varied by 4 %" in text
    assert "left out" not in text
    cut = len(chains(TINY, PARAMS)) - 5
    assert f"5 of {cut + 5} models were left out" in summarise(*studied(cut))


@pytest.mark.parametrize("count", [None, 6, 1], ids=["all", "six models", "one model"])
def test_everything_is_written_however_little_was_measured(count, tmp_path):
    write_study(*studied(count), ReportParams(dpi=40), tmp_path / "summary.md")
    text = (tmp_path / "summary.md").read_text()
    figures = {name for pair in re.findall(r"\]\((\w+\.png)\)\]\((\w+\.svg)\)", text) for name in pair}
    assert figures <= {path.name for path in tmp_path.iterdir()}
    for name in ("operators.png", "operators.svg", "widths.png", "widths.svg"):
        assert (tmp_path / name).stat().st_size > 1000
