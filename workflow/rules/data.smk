rule prepare_data:
    output:
        **DATA,
    log:
        "results/logs/prepare_data.log",
    params:
        dataset=as_json(PARAMS.dataset),
        seed=PARAMS.seed,
    shell:
        "python workflow/scripts/prepare_data.py --dataset {params.dataset:q} --seed {params.seed} "
        "--train {output.train} --val {output.val} --test {output.test} 2> {log}"
