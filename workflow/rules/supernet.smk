rule train_supernet_fp32:
    input:
        space="results/{device}/space.json",
        train=DATA["train"],
    output:
        "results/{device}/supernet_fp32.safetensors",
    log:
        "results/logs/train_supernet_fp32_{device}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=4000,
    params:
        sandwich=as_json(PARAMS.supernet.sandwich),
        recipe=as_json(PARAMS.supernet.fp32),
        augment=as_json(PARAMS.augment),
        seed=PARAMS.seed,
        workers=PARAMS.workers,
        checkpoint_steps=PARAMS.checkpoint_steps,
    shell:
        "python workflow/scripts/train_supernet_fp32.py --space {input.space} --train {input.train} "
        "--sandwich {params.sandwich:q} --recipe {params.recipe:q} --augment {params.augment:q} "
        "--seed {params.seed} --workers {params.workers} --checkpoint-steps {params.checkpoint_steps} "
        "--threads {threads} --checkpoint results/checkpoints/supernet_fp32_{wildcards.device}.safetensors "
        "--output {output} 2> {log}"


rule train_supernet_int8:
    input:
        supernet="results/{device}/supernet_fp32.safetensors",
        train=DATA["train"],
    output:
        "results/{device}/supernet.safetensors",
    log:
        "results/logs/train_supernet_int8_{device}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=4000,
    params:
        sandwich=as_json(PARAMS.supernet.sandwich),
        recipe=as_json(PARAMS.supernet.int8),
        calibration_batches=PARAMS.supernet.calibration_batches,
        augment=as_json(PARAMS.augment),
        seed=PARAMS.seed,
        workers=PARAMS.workers,
        checkpoint_steps=PARAMS.checkpoint_steps,
    shell:
        "python workflow/scripts/train_supernet_int8.py --supernet {input.supernet} --train {input.train} "
        "--sandwich {params.sandwich:q} --recipe {params.recipe:q} "
        "--calibration-batches {params.calibration_batches} --augment {params.augment:q} "
        "--seed {params.seed} --workers {params.workers} --checkpoint-steps {params.checkpoint_steps} "
        "--threads {threads} --checkpoint results/checkpoints/supernet_int8_{wildcards.device}.safetensors "
        "--output {output} 2> {log}"
