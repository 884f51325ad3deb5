rule prepare_data:
    output:
        **DATA,
    log:
        "results/logs/prepare_data.log",
    resources:
        mem_mb=memory(4000),
        runtime=minutes(240),
    params:
        dataset=knob("dataset"),
        seed=knob("seed"),
        code=code_of("prepare_data"),
    shell:
        "python workflow/scripts/prepare_data.py --dataset {params.dataset:q} --seed {params.seed} "
        "--train {output.train} --val {output.val} --test {output.test} 2> {log}"
