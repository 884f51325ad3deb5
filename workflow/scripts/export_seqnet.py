"""Export one SEQnet to TFLite or ONNX, by the output's suffix, and verify the file."""

from pathlib import Path

from spaceevo.export.verify import export_verified, read_verification
from spaceevo.latency.devices import load_device
from spaceevo.latency.files import suited_graph
from spaceevo.quant.graph import read_graph
from spaceevo.scripting import run


def main(graph: Path, verification: Path, device: str, agreement: float, output: Path) -> None:
    """Deliver `output` only where it agrees with the trained network on a share of `agreement` of the samples."""
    network = read_graph(graph)
    if output.suffix == ".tflite":
        network = suited_graph(network, load_device(device))
    parity = export_verified(network, read_verification(verification), output, min_agreement=agreement)
    print(f"{output}: {parity}")


if __name__ == "__main__":
    run(main)
