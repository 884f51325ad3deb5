"""Subnets measured in a process of their own: one that trains or evaluates holds torch, which disturbs the runtimes.

Run as a module, it is that process: it reads what to measure as JSON, and writes what it found as one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from spaceevo.errors import DeviceError, SpaceEvoError
from spaceevo.latency.bench import careful, measure_subnets
from spaceevo.latency.devices import load_device
from spaceevo.latency.measure import Measurement, Timing
from spaceevo.space import Space, Subnet, parse_space


def measure_subnets_apart(device: str, space: Space, subnets: Sequence[Subnet], num_classes: int) -> Measurement:
    """Time subnets on a device, beside the reference model, in another process.

    Raises:
        DeviceError: nothing can be run on the device, or it has disconnected.
    """
    request = {"device": device, "space": space.code, "subnets": [subnet.code for subnet in subnets]}
    done = subprocess.run(
        [sys.executable, "-m", "spaceevo.latency.apart"],
        input=json.dumps({**request, "classes": num_classes}),
        capture_output=True,
        text=True,
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0:
        said = lines[-1].removeprefix("error: ") if lines else f"the process ended with code {done.returncode}."
        raise DeviceError(said)
    found = json.loads(lines[-1])
    timings = [Timing(**timing) for timing in found["timings"]]
    return Measurement(timings, Timing(**found["reference"]), found["drift"])


def _measure(request: dict[str, object]) -> dict[str, object]:
    device, space = load_device(str(request["device"])), parse_space(str(request["space"]))
    codes, classes = request["subnets"], request["classes"]
    assert isinstance(codes, list) and isinstance(classes, int)
    found = measure_subnets(device, space, [space.subnet(code) for code in codes], classes, careful(device))
    assert found.reference is not None
    timings = [asdict(timing) for timing in found.timings]
    return {"timings": timings, "reference": asdict(found.reference), "drift": found.drift}


if __name__ == "__main__":
    try:
        print(json.dumps(_measure(json.load(sys.stdin))))
    except SpaceEvoError as error:
        sys.exit(f"error: {error}")
