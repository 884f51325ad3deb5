rule train_supernet_fp32:
    input:
        space="results/{device}/space.json",
        history="results/{device}/space_history.parquet",  # or a space that was imported before would do
        train=DATA["train"],
    output:
        "results/{device}/supernet_fp32.safetensors",
    log:
        "results/logs/train_supernet_fp32_{device}.log",
    wildcard_constraints:
        device=any_of(EVOLVED),
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
    wildcard_constraints:
        device=any_of(EVOLVED),
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


rule import_checkpoint:
    """A published supernet takes the place of the trained one, and its space that of the evolved one."""
    input:
        checkpoint=lambda wildcards: PARAMS.supernet.checkpoints[wildcards.device].file,
        train=DATA["train"],
    output:
        space="results/{device}/space.json",
        supernet="results/{device}/supernet.safetensors",
    log:
        "results/logs/import_checkpoint_{device}.log",
    wildcard_constraints:
        device=any_of(CHECKPOINT_SPACES),
    threads: PARAMS.threads
    resources:
        mem_mb=8000,
    params:
        space=lambda wildcards: CHECKPOINT_SPACES[wildcards.device].code,
        declared=DECLARED,
        calibration_batches=PARAMS.supernet.calibration_batches,
        batch_size=min(PARAMS.supernet.int8.batch_size, 64),
        seed=PARAMS.seed,
    shell:
        "python workflow/scripts/import_checkpoint.py --checkpoint {input.checkpoint:q} --space {params.space} "
        "--train {input.train} --calibration-batches {params.calibration_batches} "
        "--batch-size {params.batch_size} --seed {params.seed} --threads {threads} "
        "--space-output {output.space} --output {output.supernet} 2> {log}"
