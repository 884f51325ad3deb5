rule report:
    input:
        cards=CARDS,
        subnets=expand("results/{device}/subnets.parquet", device=DEVICES),
        histories=expand("results/{device}/space_history.parquet", device=DEVICES),
        spaces=expand("results/{device}/space.json", device=DEVICES),
        predictors=expand("results/{device}/latency_predictor.json", device=DEVICES),
        profiles=expand("results/{device}/latency_profile.parquet", device=MEASURED),
        lut="results/blocks/lut.parquet",
    output:
        "results/report/summary.md",
    log:
        "results/logs/report.log",
    params:
        report=as_json(PARAMS.report),
        devices=list(DEVICES),
    shell:
        "python workflow/scripts/write_report.py {params.devices} --results results "
        "--report {params.report:q} --output {output} 2> {log}"
