rule evolve_space:
    input:
        lut="results/blocks/lut.parquet",
        predictor="results/{device}/latency/predictor.json",
        val=DATA["val"],
    output:
        space="results/{device}/space.json",
        history="results/{device}/space_history.parquet",
    log:
        "results/logs/evolve_space_{device}.log",
    wildcard_constraints:
        device=any_of(EVOLVED),
    params:
        hyperspace=PARAMS.hyperspace,
        declared=DECLARED,
        space=as_json(PARAMS.space),
        budgets=lambda wildcards: json.dumps(
            PARAMS.devices[wildcards.device].space_budgets
        ),
        seed=PARAMS.seed,
    shell:
        "python workflow/scripts/evolve_space.py --lut {input.lut} --predictor {input.predictor} "
        "--val {input.val} --hyperspace {params.hyperspace} --space {params.space:q} "
        "--budgets {params.budgets:q} --seed {params.seed} --output {output.space} "
        "--history {output.history} 2> {log}"
