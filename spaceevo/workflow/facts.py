"""Facts that DVC compares as it does parameters: digests of code, hyperspaces and devices; fingerprints of machines.

They cover all that is known and not only what params.yaml uses, so that they change with code and files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from spaceevo.errors import SpaceEvoError
from spaceevo.latency.devices import Device, fingerprint, known_devices, load_device
from spaceevo.space import Hyperspace, load_hyperspace
from spaceevo.space.hyperspace import known_hyperspaces
from spaceevo.workflow.code import DIGEST_LENGTH, code_digests, joint_digest


def workflow_facts(scripts: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Digests of the code behind each script, of each hyperspace and of each device, by name; faulty ones left out."""
    return {
        "code": {script.stem: joint_digest(code_digests(script)) for script in sorted(scripts)},
        "hyperspaces": _digests(known_hyperspaces(), load_hyperspace, hyperspace_digest),
        "devices": _digests(known_devices(), load_device, device_digest),
    }


def hyperspace_digest(hyperspace: Hyperspace) -> str:
    """Changes when what the hyperspace declares does."""
    return _short(repr(hyperspace).encode())


def device_digest(device: Device) -> str:
    """Changes when the device's file or the predictor of a table does; where the project lies is no part of it."""
    predictor = device.predictor.read_bytes() if device.predictor else b""
    return _short(device_text(device).encode() + predictor)


def device_text(device: Device) -> str:
    """JSON of what a device's file declares, as far as it matters."""
    return device.model_dump_json(exclude={"predictor", "description"})


def machine_facts() -> dict[str, dict[str, Any]]:
    """What each device measured on this machine is measured with, by name; empty for the others."""
    return {name: fingerprint(device) for name, device in _loaded(known_devices(), load_device)}


def _digests(names: Iterable[str], load: Callable[[str], Any], digest: Callable[[Any], str]) -> dict[str, str]:
    return {name: digest(found) for name, found in _loaded(names, load)}


def _loaded(names: Iterable[str], load: Callable[[str], Any]) -> Iterable[tuple[str, Any]]:
    for name in names:
        try:
            yield name, load(name)
        except SpaceEvoError:
            continue  # who uses it is told


def _short(content: bytes) -> str:
    return sha256(content).hexdigest()[:DIGEST_LENGTH]
