from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/blocks.smk"
include: "workflow/rules/latency.smk"
include: "workflow/rules/space.smk"
include: "workflow/rules/supernet.smk"
include: "workflow/rules/seqnet.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        SEQNET_FILES,
        CARDS,
        "results/report/summary.md",
