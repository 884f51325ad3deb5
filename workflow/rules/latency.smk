localrules:
    table_latency_predictor,


rule profile_latency:
    """Measures alone on the machine: it claims every core. Cut short, it goes on from its checkpoint."""
    input:
        val=DATA["val"],
    output:
        "results/{device}/latency_profile.parquet",
    log:
        "results/logs/profile_latency_{device}.log",
    wildcard_constraints:
        device=any_of(MEASURED),
    threads: workflow.cores
    resources:
        mem_mb=memory(5000),
        runtime=minutes(120),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        device=declared_device,
        machine=machine,
        counts=knob("profile"),
        seed=knob("seed"),
        code=code_of("profile_latency"),
    shell:
        "python workflow/scripts/profile_latency.py --device {wildcards.device} "
        "--hyperspace {params.hyperspace} --val {input.val} --counts {params.counts:q} "
        "--seed {params.seed} --checkpoint results/checkpoints/profile_{wildcards.device}.parquet "
        "--output {output} 2> {log}"


rule fit_latency_predictor:
    input:
        profile="results/{device}/latency_profile.parquet",
    output:
        "results/{device}/latency_predictor.json",
    log:
        "results/logs/fit_latency_predictor_{device}.log",
    wildcard_constraints:
        device=any_of(MEASURED),
    resources:
        mem_mb=memory(3000),
        runtime=minutes(60),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        code=code_of("fit_latency_predictor"),
    shell:
        "python workflow/scripts/fit_latency_predictor.py --profile {input.profile} "
        "--device {wildcards.device} --hyperspace {params.hyperspace} --output {output} 2> {log}"


rule table_latency_predictor:
    input:
        local(table_of),
    output:
        "results/{device}/latency_predictor.json",
    log:
        "results/logs/table_latency_predictor_{device}.log",
    wildcard_constraints:
        device=any_of(TABLES),
    params:
        device=declared_device,
        code=code_of("table_latency_predictor"),
    shell:
        "python workflow/scripts/table_latency_predictor.py --device {wildcards.device} "
        "--output {output} 2> {log}"
