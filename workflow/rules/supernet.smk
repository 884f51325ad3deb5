rule train_supernet_fp32:
    input:
        space="results/{device}/space.json",
        history="results/{device}/space_history.parquet",  # or a space that was imported before would do
        train=DATA["train"],
        predictor=sampled_near,
    output:
        "results/{device}/supernet_fp32.safetensors",
    log:
        "results/logs/train_supernet_fp32_{device}.log",
    wildcard_constraints:
        device=any_of(EVOLVED),
    threads: TRAINING_THREADS
    resources:
        **training(4000),
    params:
        sandwich=knob("supernet.sandwich"),
        recipe=knob("supernet.fp32"),
        budgets=sampled_budgets,
        augment=knob("augment"),
        seed=knob("seed"),
        code=code_of("train_supernet_fp32"),
    shell:
        "{resources.launcher} workflow/scripts/train_supernet_fp32.py --space {input.space} --train {input.train} "
        "--sandwich {params.sandwich:q} --recipe {params.recipe:q} --augment {params.augment:q} "
        "--seed {params.seed} --workers {resources.workers} --checkpoint-steps {resources.checkpoint_steps} "
        "--threads {threads} --checkpoint results/checkpoints/$(basename {log} .log).safetensors "
        "--predictor={input.predictor} --budgets={params.budgets:q} --output {output} 2> {log}"


rule train_supernet_int8:
    input:
        supernet="results/{device}/supernet_fp32.safetensors",
        train=DATA["train"],
        predictor=sampled_near,
    output:
        "results/{device}/supernet.safetensors",
    log:
        "results/logs/train_supernet_int8_{device}.log",
    wildcard_constraints:
        device=any_of(EVOLVED),
    threads: TRAINING_THREADS
    resources:
        **training(4000),
    params:
        sandwich=knob("supernet.sandwich"),
        recipe=knob("supernet.int8"),
        budgets=sampled_budgets,
        calibration_batches=knob("supernet.calibration_batches"),
        augment=knob("augment"),
        seed=knob("seed"),
        code=code_of("train_supernet_int8"),
    shell:
        "{resources.launcher} workflow/scripts/train_supernet_int8.py --supernet {input.supernet} --train {input.train} "
        "--sandwich {params.sandwich:q} --recipe {params.recipe:q} "
        "--calibration-batches {params.calibration_batches} --augment {params.augment:q} "
        "--seed {params.seed} --workers {resources.workers} --checkpoint-steps {resources.checkpoint_steps} "
        "--threads {threads} --checkpoint results/checkpoints/$(basename {log} .log).safetensors "
        "--predictor={input.predictor} --budgets={params.budgets:q} --output {output} 2> {log}"


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
        mem_mb=memory(8000),
        runtime=minutes(120),
    params:
        space=knob("supernet.checkpoints.{device}.space"),
        declared=declared_hyperspace,
        calibration_batches=knob("supernet.calibration_batches"),
        batch_size=lambda wildcards: Value(
            "supernet.int8.batch_size", min(PARAMS.supernet.int8.batch_size, 64)
        ),
        seed=knob("seed"),
        code=code_of("import_checkpoint"),
    shell:
        "python workflow/scripts/import_checkpoint.py --checkpoint {input.checkpoint:q} --space {params.space} "
        "--train {input.train} --calibration-batches {params.calibration_batches} "
        "--batch-size {params.batch_size} --seed {params.seed} --threads {threads} "
        "--space-output {output.space} --output {output.supernet} 2> {log}"
