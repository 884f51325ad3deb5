report: "../report/workflow.rst"


# Every artifact that states a cost.
LEDGER = [
    *DATA.values(),
    "results/teacher.safetensors",
    *expand(
        "results/blocks/{stage}_{type}.safetensors", stage=STAGES, type=BLOCK_TYPES
    ),
    *expand("results/blocks/{stage}.lut.parquet", stage=STAGES),
    "results/blocks/lut.parquet",
    *expand("results/{device}/latency_profile.parquet", device=MEASURED),
    *expand(
        "results/{device}/{artifact}",
        device=DEVICES,
        artifact=[
            "latency_predictor.json",
            "space.json",
            "space_history.parquet",
            "supernet_fp32.safetensors",
            "supernet.safetensors",
            "seqnets.json",
            "subnets.parquet",
        ],
    ),
    *expand(
        "results/{device}/seqnet_{name}{suffix}",
        device=DEVICES,
        name=NAMES,
        suffix=[
            ".safetensors",
            ".graph.safetensors",
            ".verification.safetensors",
            ".json",
        ],
    ),
]


rule report:
    """All figures as PNG for the summary and as SVG for `snakemake --report`."""
    input:
        LEDGER,
    output:
        summary="results/report/summary.md",
        fronts=[
            report(
                f"results/report/front_{device}.svg",
                caption="../report/front.rst",
                category="Accuracy and latency",
                labels={"device": device},
            )
            for device in DEVICES
        ],
        evolutions=[
            report(
                f"results/report/evolution_{device}.svg",
                caption="../report/evolution.rst",
                category="Evolution of the space",
                labels={"device": device},
            )
            for device in DEVICES
        ],
        latencies=[
            report(
                f"results/report/latency_{device}.svg",
                caption="../report/latency.rst",
                category="Latency predictor",
                labels={"device": device},
            )
            for device in MEASURED
        ],
        losses=report(
            "results/report/losses.svg",
            caption="../report/losses.rst",
            category="Losses of the blocks",
            labels={"device": "all"},
        ),
        pngs=[
            *expand(
                "results/report/{kind}_{device}.png",
                kind=["front", "evolution"],
                device=DEVICES,
            ),
            *expand("results/report/latency_{device}.png", device=MEASURED),
            "results/report/losses.png",
        ],
    log:
        "results/logs/report.log",
    params:
        report=as_json(PARAMS.report),
        devices=json.dumps(list(DEVICES)),
    shell:
        "python workflow/scripts/write_report.py {input} --devices {params.devices:q} --results results "
        "--report {params.report:q} --output {output.summary} 2> {log}"
