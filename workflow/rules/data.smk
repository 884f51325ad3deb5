rule prepare_data:
    output:
        **DATA,
    log:
        "results/logs/prepare_data.log",
    resources:
        mem_mb=memory(4000),
        runtime=minutes(240),
        download=int(PARAMS.dataset.download),
    params:
        dataset=dataset,
        seed=knob("seed"),
        code=code_of("prepare_data"),
    shell:
        "python workflow/scripts/prepare_data.py --dataset {params.dataset:q} "
        "--download {resources.download} --seed {params.seed} "
        "--train {output.train} --val {output.val} --test {output.test} 2> {log}"
