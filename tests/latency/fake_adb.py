"""An `adb` that plays a phone in a folder: files are pushed there, and the tool prints what was recorded.

The folder holds state.json: `phones` (state by serial number), `runs` (how many runs of the tool the phone survives,
null for all), `transcript` (what the tool prints), `code` (its exit code). Every command is noted in commands.txt.
"""

import json
import shlex
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(words: list[str]) -> int:
    path = FOLDER / "state.json"
    state = json.loads(path.read_text())
    with (FOLDER / "commands.txt").open("a") as stream:
        stream.write(shlex.join(words) + "\n")
    if words == ["devices"]:
        print("List of devices attached")
        for serial, phone in state["phones"].items():
            print(f"{serial}\t{phone}")
        return 0
    if words[0] == "-s":
        words = words[2:]
    if not state["phones"]:
        print("error: no devices/emulators found", file=sys.stderr)
        return 1
    match words:
        case ["get-state"]:
            print("device")
        case ["push", local, remote]:
            (FOLDER / Path(remote).name).write_bytes(Path(local).read_bytes())
            print(f"{local}: 1 file pushed, 0 skipped.")
        case ["shell", command]:
            return shell(shlex.split(command.removesuffix(" 2>&1")), state, path)
    return 0


def shell(words: list[str], state: dict, path: Path) -> int:
    if words[:2] == ["taskset", "80"]:
        words = words[2:]
    match words:
        case ["test", "-x", _]:
            return 0 if state["tool"] else 1
        case ["getprop", "ro.product.model"]:
            print("Pixel 4")
        case ["getprop", _]:
            print("google/flame/flame:13/TP1A.221005.002.B2/9382335:user/release-keys")
        case ["md5sum", tool]:
            print(f"0123456789abcdef0123456789abcdef  {tool}")
        case ["rm", "-f", remote]:
            (FOLDER / Path(remote).name).unlink(missing_ok=True)
        case [_, graph, *_] if graph.startswith("--graph="):
            return benchmark(Path(graph).name, state, path)
        case _:
            print(f"/system/bin/sh: {words[0]}: not found")
            return 127
    return 0


def benchmark(name: str, state: dict, path: Path) -> int:
    if state["runs"] is not None:
        state["runs"] -= 1
        if state["runs"] < 0:
            path.write_text(json.dumps(state | {"phones": {}}))
            return 255  # as adb does when the phone is gone: what it said until then is lost
        path.write_text(json.dumps(state))
    size = (FOLDER / name).stat().st_size
    print(state["transcript"].replace("Inference (avg): 5983.62", f"Inference (avg): {size / 100:g}"))
    return int(state["code"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
