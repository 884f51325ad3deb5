"""Study a device at hand: which operations, blocks and widths are fast on it, in INT8 and in FP32."""

from functools import partial
from pathlib import Path

from spaceevo.artifacts import Record, write_table
from spaceevo.config import ReportParams, StudyParams
from spaceevo.latency.checkpoint import read_checkpoint, write_checkpoint
from spaceevo.latency.devices import load_device
from spaceevo.latency.study.findings import Findings
from spaceevo.latency.study.measuring import STUDY_KIND, study
from spaceevo.latency.study.units import chains, quantities
from spaceevo.report.study import circumstances, write_study
from spaceevo.scripting import run
from spaceevo.space import load_hyperspace


def main(
    device: str,
    hyperspace: str,
    study_params: StudyParams,
    report: ReportParams,
    seed: int,
    checkpoint: Path,
    measurements: Path,
    output: Path,
) -> None:
    """Write what was measured to `measurements`, and the summary to `output` with its figures beside it.

    What a run that was cut short left in `checkpoint` is not measured again.
    """
    declared, space = load_device(device), load_hyperspace(hyperspace)
    declared.how.check(declared)
    machine = declared.how.machine(declared)
    stated = {"device": declared.model_dump(mode="json"), "study": study_params.model_dump(mode="json")}
    record = Record(stated | {"hyperspace": hyperspace, "machine": machine}, seed)
    earlier = read_checkpoint(checkpoint, record)
    table = study(
        declared,
        space,
        study_params,
        seed=seed,
        budget_s=study_params.time_limit_s - record.earlier_wall_s,
        earlier=earlier,
        save=partial(write_checkpoint, checkpoint, record=record),
    )
    write_table(measurements, STUDY_KIND, table, record)
    findings = Findings(table, list(study_params.steps), quantities(space))
    made = circumstances(declared.name, machine, study_params, table, len(chains(space, study_params)))
    write_study(findings, made, report, output)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
