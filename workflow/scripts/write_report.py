"""Draw the figures of a run and write its summary."""

import json
from pathlib import Path

from spaceevo.config import ReportParams
from spaceevo.report.summary import write_report
from spaceevo.scripting import run


def main(artifacts: list[Path], devices: str, results: Path, report: ReportParams, output: Path) -> None:
    """Write the summary to `output` and the figures beside it.

    The cost ledger lists `artifacts`; `devices` is a JSON list, and all else is read from the folder `results`.
    """
    write_report(artifacts, json.loads(devices), results, report, output)


if __name__ == "__main__":
    run(main)
