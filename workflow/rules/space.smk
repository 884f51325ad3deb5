rule evolve_space:
    input:
        lut="results/blocks/lut.parquet",
        predictor="results/{device}/latency_predictor.json",
        val=DATA["val"],
    output:
        space="results/{device}/space.json",
        history="results/{device}/space_history.parquet",
    log:
        "results/logs/evolve_space_{device}.log",
    wildcard_constraints:
        device=any_of(EVOLVED),
    resources:
        mem_mb=memory(4000),
        runtime=minutes(240),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        space=knob("space"),
        budgets=knob("devices.{device}.space_budgets"),
        seed=knob("seed"),
        code=code_of("evolve_space"),
    shell:
        "python workflow/scripts/evolve_space.py --lut {input.lut} --predictor {input.predictor} "
        "--val {input.val} --hyperspace {params.hyperspace} --space {params.space:q} "
        "--budgets {params.budgets:q} --seed {params.seed} --output {output.space} "
        "--history {output.history} 2> {log}"
