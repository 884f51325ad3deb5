rule profile_latency:
    """Measures alone on the machine: it claims every core. Cut short, it goes on from its checkpoint."""
    input:
        val=DATA["val"],
    output:
        "results/{device}/latency/profile.parquet",
    log:
        "results/logs/profile_latency_{device}.log",
    wildcard_constraints:
        device=any_of(MEASURED),
    threads: workflow.cores
    params:
        hyperspace=PARAMS.hyperspace,
        declared=DECLARED,
        device=declared_device,
        counts=as_json(PARAMS.profile),
        seed=PARAMS.seed,
    shell:
        "python workflow/scripts/profile_latency.py --device {wildcards.device} "
        "--hyperspace {params.hyperspace} --val {input.val} --counts {params.counts:q} "
        "--seed {params.seed} --checkpoint results/checkpoints/profile_{wildcards.device}.parquet "
        "--output {output} 2> {log}"


rule fit_latency_predictor:
    input:
        profile="results/{device}/latency/profile.parquet",
    output:
        "results/{device}/latency/predictor.json",
    log:
        "results/logs/fit_latency_predictor_{device}.log",
    wildcard_constraints:
        device=any_of(MEASURED),
    params:
        hyperspace=PARAMS.hyperspace,
        declared=DECLARED,
    shell:
        "python workflow/scripts/fit_latency_predictor.py --profile {input.profile} "
        "--device {wildcards.device} --hyperspace {params.hyperspace} --output {output} 2> {log}"


rule table_latency_predictor:
    input:
        table_of,
    output:
        "results/{device}/latency/predictor.json",
    log:
        "results/logs/table_latency_predictor_{device}.log",
    wildcard_constraints:
        device=any_of(TABLES),
    shell:
        "python workflow/scripts/table_latency_predictor.py --device {wildcards.device} "
        "--output {output} 2> {log}"
