"""`spaceevo score`: the Q-T score of a space."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spaceevo.cli.output import AsJson, Debug, guarded, print_found, print_table
from spaceevo.errors import BudgetError, ParamsError

SAMPLES, TOP = 100_000, 50  # of the release


def score(
    code: Annotated[str, typer.Argument(help="A space: its code, or a name such as spaceevo@pixel4.")],
    lut: Annotated[Path, typer.Option(help="Accuracy LUT: an artifact, or the folder of a published one.")],
    budget: Annotated[list[float], typer.Option(help="Latency budget, ms; several add up.")],
    device: Annotated[
        str | None,
        typer.Option(help="Device (or latency_predictor.json) that predicts latencies; else those of the LUT count."),
    ] = None,
    from_params: Annotated[
        bool,
        typer.Option("--from-params", help="By space.score of params.yaml, as the workflow; options go before it."),
    ] = False,
    configfile: Annotated[
        list[Path],
        typer.Option(help="With --from-params: as given to snakemake, on top of params.yaml; may be repeated."),
    ] = [],  # noqa: B006
    mode: Annotated[
        Literal["consistent", "independent"] | None,
        typer.Option(help="consistent (if not said): widths agree; independent: stages on their own, as the release."),
    ] = None,
    fixed_ms: Annotated[
        list[str],
        typer.Option(help="RESOLUTION=MS of all that is not searched, such as 160=1.5; needed if independent."),
    ] = [],  # noqa: B006
    samples: Annotated[
        int | None, typer.Option(min=1, help="Subnets that the score is defined on: 100000 if not said.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Of those within a budget, how many of the least loss count: 50.")
    ] = None,
    target_share: Annotated[
        float | None, typer.Option(min=1e-6, max=1, help="t: share within that is not punished: 0.08.")
    ] = None,
    exponent: Annotated[
        float | None, typer.Option(min=0, help="a: how hard a smaller share is punished: 0.01.")
    ] = None,
    quality: Annotated[
        Literal["inverse", "odds"] | None,
        typer.Option(help="What a mean loss q within a budget is worth: inverse, 1 / q as in the release, or odds."),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Classes of the network, for the latency of its head.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the spaces that the error is estimated on.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say how quantization-friendly a space is under latency budgets: its Q-T score."""
    given = {
        "mode": mode,
        "samples": samples,
        "top": top,
        "target_share": target_share,
        "exponent": exponent,
        "quality": quality,
    }
    given = {key: value for key, value in given.items() if value is not None}
    files = configfile if from_params else None
    guarded(partial(_score, code, lut, sorted(budget), device, files, given, fixed_ms, classes, seed, as_json), debug)


def _score(
    code: str,
    lut: Path,
    budgets: list[float],
    device: str | None,
    configfiles: list[Path] | None,
    given: dict[str, Any],
    fixed_ms: list[str],
    classes: int,
    seed: int,
    as_json: bool,
) -> None:
    from spaceevo.artifacts import read_table
    from spaceevo.config import QTSettings
    from spaceevo.latency.devices import device_predictor
    from spaceevo.search.lut import LUT_KIND, build_lut, smallest_latency
    from spaceevo.search.published_lut import read_published_lut
    from spaceevo.search.score import make_scorer
    from spaceevo.space import parse_space
    from spaceevo.workflow.plan import merged_params

    latency = "table" if device is None else "predicted"
    stated: dict[str, Any] = {"samples": SAMPLES, "latency": latency}
    if configfiles is not None:
        stated = merged_params(configfiles).space.score.model_dump()
        if stated["latency"] != latency:
            way_out = "name its --device" if device is None else "leave out --device"
            raise ParamsError(f"space.score.latency is {stated['latency']}: {way_out}, or --from-params.")
    settings = stated | given
    if fixed_ms:
        settings["fixed_latency_ms"] = _latencies(fixed_ms)
    options = QTSettings(**settings | {"top": min(settings.get("top", TOP), settings["samples"])})
    for budget in budgets:
        if not (math.isfinite(budget) and budget > 0):
            raise ParamsError(f"The budget of {budget:g} ms is not a positive number of milliseconds.")
    space = parse_space(code)
    predictor = None if device is None else device_predictor(device)
    rows = read_published_lut(lut, space.hyperspace) if lut.is_dir() else read_table(lut, LUT_KIND)
    table = build_lut(rows, space.hyperspace, predictor, classes, options)
    found = make_scorer(table, budgets, options, seed)(space)
    if not math.isfinite(found.losses[-1]):
        raise BudgetError(
            f"Next to no subnet of {space.code} is within {budgets[-1]:g} ms; the smallest latency of any space of "
            f"{space.hyperspace.name} is {smallest_latency(table):.4g} ms."
        )
    content = {
        "space": space.code,
        "mode": options.mode,
        "quality": options.quality,
        "samples": options.samples,
        "score": found.score,
        "standard_error": found.standard_error,
        "budgets": [
            {"budget_ms": budget, "share_within": share, "mean_top_loss": loss if math.isfinite(loss) else None}
            for budget, share, loss in zip(budgets, found.shares, found.losses, strict=True)
        ],
    }
    print_found(content, _show, as_json)


def _latencies(entries: list[str]) -> dict[int, float]:
    """Milliseconds by resolution, from RESOLUTION=MS."""
    found: dict[int, float] = {}
    for entry in entries:
        resolution, _, milliseconds = entry.partition("=")
        try:
            pixels, latency_ms = int(resolution), float(milliseconds)
        except ValueError:
            raise ParamsError(f"--fixed-ms {entry!r} is not of the form RESOLUTION=MS, such as 160=1.5.") from None
        if pixels in found or not (math.isfinite(latency_ms) and latency_ms >= 0):
            why = "gives a resolution twice" if pixels in found else "is not a number of milliseconds"
            raise ParamsError(f"--fixed-ms {entry!r} {why}.")
        found[pixels] = latency_ms
    return found


def _show(found: dict[str, Any]) -> None:
    how = f"{found['mode']}, {found['quality']}, {found['samples']} samples"
    print(f"Q-T score of {found['space']} ({how}): {found['score']:.5f} ± {found['standard_error']:.1g}\n")
    rows = [
        (
            f"{entry['budget_ms']:g} ms",
            f"{entry['share_within']:.4%}",
            "-" if entry["mean_top_loss"] is None else f"{entry['mean_top_loss']:.4f}",
        )
        for entry in found["budgets"]
    ]
    print_table(("budget", "share within", "mean top loss"), rows)
