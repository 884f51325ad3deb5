"""Export one SEQnet to TFLite or ONNX, by the output's suffix, and verify the file."""

from pathlib import Path

from spaceevo.export.verify import export_verified, read_verification
from spaceevo.quant.graph import read_graph
from spaceevo.scripting import run


def main(graph: Path, verification: Path, agreement: float, output: Path) -> None:
    """Deliver `output` only where it agrees with the trained network on a share of `agreement` of the samples."""
    parity = export_verified(read_graph(graph), read_verification(verification), output, min_agreement=agreement)
    print(f"{output}: {parity}")


if __name__ == "__main__":
    run(main)
