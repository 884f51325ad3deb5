rule study_device:
    """Asked for by name alone. Measures alone on the machine: it claims every core."""
    output:
        summary="results/{device}/study/summary.md",
        measurements="results/{device}/study/measurements.parquet",
        figures=expand(
            "results/{{device}}/study/{figure}.{format}",
            figure=["operators", "widths"],
            format=["png", "svg"],
        ),
    log:
        "results/logs/study_device_{device}.log",
    wildcard_constraints:
        device=any_of(MACHINES),
    threads: workflow.cores
    resources:
        mem_mb=memory(5000),
        runtime=minutes(60),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        device=declared_device,
        machine=machine,
        study=knob("study"),
        report=knob("report"),
        seed=knob("seed"),
        code=code_of("study_device"),
    shell:
        "python workflow/scripts/study_device.py --device {wildcards.device} "
        "--hyperspace {params.hyperspace} --study-params {params.study:q} --report {params.report:q} "
        "--seed {params.seed} --checkpoint results/checkpoints/study_{wildcards.device}.parquet "
        "--measurements {output.measurements} --output {output.summary} 2> {log}"
