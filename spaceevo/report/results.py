"""What the report is made of: the artifacts of each device, read and put side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spaceevo.artifacts import read_json, read_table
from spaceevo.latency.devices import load_device
from spaceevo.latency.fit import row_plan
from spaceevo.latency.predictor import Predictor, read_predictor
from spaceevo.latency.profile import PROFILE_KIND
from spaceevo.space import Space, parse_space

SEQNETS = ("A0", "A1", "A2", "A3", "A4")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DeviceResults:
    """All there is to report on one device.

    Attributes:
        evolution: the content of space.json.
        history: every evaluated space, in order; columns as `spaceevo.search.evolve.evolve_space` returns them. None
            where the space is that of an imported supernet.
        subnets: every evaluated subnet; columns as `spaceevo.search.subnets.search_subnets` returns them, file_kib and
            activation_kib, and measured_ms (NaN where it was not).
        winners: the entries of seqnets.json, by name.
        cards: the SEQnets' cards, by name: A0 to A4.
        profile: what was measured on the device; None where it is not at hand.
    """

    name: str
    description: str
    evolution: dict[str, Any]
    history: pd.DataFrame | None
    subnets: pd.DataFrame
    winners: dict[str, dict[str, Any]]
    cards: dict[str, dict[str, Any]]
    predictor: Predictor
    profile: pd.DataFrame | None

    @cached_property
    def space(self) -> Space:
        """The evolved or imported space."""
        return parse_space(self.evolution["space"])

    @cached_property
    def test_latencies(self) -> tuple[Floats, Floats] | None:
        """Predicted and measured ms of the networks the predictor has not seen; None where nothing was measured."""
        if self.profile is None:
            return None
        rows = self.profile[self.profile["split"] == "test"]
        predicted = []
        for record in rows.to_dict("records"):
            row = {str(key): value for key, value in record.items()}
            plan = row_plan(row, self.space.hyperspace)
            predicted.append(self.predictor.predict(plan, int(row["height"])).latency_ms)
        return np.array(predicted), rows["latency_ms"].to_numpy(np.float64)


def read_device(results: Path, name: str) -> DeviceResults:
    """Read the artifacts of the device `name` from its folder in `results`.

    Raises:
        ArtifactError: one is missing or damaged.
        DeviceError: there is no such device.
    """
    device, folder = load_device(name), results / name
    space = read_json(folder / "space.json", "space")
    evolved = "checkpoint" not in space
    return DeviceResults(
        name=name,
        description=device.description,
        evolution=space,
        history=read_table(folder / "space_history.parquet", "space_history") if evolved else None,
        subnets=read_table(folder / "subnets.parquet", "subnets"),
        winners=read_json(folder / "seqnets.json", "seqnets")["seqnets"],
        cards={k: read_json(folder / f"seqnet_{k}.json", "card") for k in SEQNETS},
        predictor=read_predictor(folder / "latency_predictor.json"),
        profile=read_table(folder / "latency_profile.parquet", PROFILE_KIND) if device.measured else None,
    )
