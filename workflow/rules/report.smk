report: "../report/workflow.rst"


MEASURED_LUT = [
    "results/teacher.safetensors",
    *distilled_blocks(STAGES),
    *expand("results/blocks/{stage}.lut.parquet", stage=STAGES),
]
# With a published LUT nothing is distilled; where every supernet is imported, no space is evolved either.
LUT = [
    *([] if PARAMS.lut.published else MEASURED_LUT),
    "results/blocks/lut.parquet",
]

# Every artifact that states a cost.
LEDGER = [
    *DATA.values(),
    *(LUT if EVOLVED else []),
    *expand("results/{device}/latency_profile.parquet", device=MEASURED),
    *expand(
        "results/{device}/{artifact}",
        device=EVOLVED,
        artifact=["space_history.parquet", "supernet_fp32.safetensors"],
    ),
    *expand(
        "results/{device}/{artifact}",
        device=DEVICES,
        artifact=[
            "latency_predictor.json",
            "space.json",
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
        footprints=[
            report(
                f"results/report/footprint_{device}.svg",
                caption="../report/footprint.rst",
                category="Accuracy and memory",
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
            for device in EVOLVED
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
        losses=[
            report(
                "results/report/losses.svg",
                caption="../report/losses.rst",
                category="Losses of the blocks",
                labels={"device": "all"},
            )
            for _ in EVOLVED[:1]
        ],
        pngs=[
            *expand("results/report/front_{device}.png", device=DEVICES),
            *expand("results/report/footprint_{device}.png", device=DEVICES),
            *expand("results/report/evolution_{device}.png", device=EVOLVED),
            *expand("results/report/latency_{device}.png", device=MEASURED),
            *(["results/report/losses.png"] if EVOLVED else []),
        ],
    log:
        "results/logs/report.log",
    resources:
        mem_mb=memory(3000),
        runtime=minutes(60),
    params:
        report=knob("report"),
        devices=lambda wildcards: Value("devices", list(DEVICES)),
        code=code_of("write_report"),
    shell:
        "python workflow/scripts/write_report.py {input} --devices {params.devices:q} "
        "--results $(dirname $(dirname {output.summary:q})) "
        "--report {params.report:q} --output {output.summary} 2> {log}"


localrules:
    report_tables,


rule report_tables:
    """The summary's tables as pages for `snakemake --report`."""
    input:
        "results/report/summary.md",
    output:
        devices=[
            report(
                f"results/report/tables_{device}.html",
                caption="../report/tables.rst",
                category="SEQnets and their tables",
                labels={"device": device},
            )
            for device in DEVICES
        ],
        costs=report(
            "results/report/tables_costs.html",
            caption="../report/costs.rst",
            category="Costs",
            labels={"device": "all"},
        ),
    log:
        "results/logs/report_tables.log",
    params:
        sections=lambda wildcards: Value("sections", [*DEVICES, "Costs"]),
        code=code_of("write_pages"),
    shell:
        "python workflow/scripts/write_pages.py {output} --summary {input} --sections {params.sections:q} 2> {log}"
