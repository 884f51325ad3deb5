rule train_teacher:
    input:
        train=DATA["train"],
    output:
        "results/teacher.safetensors",
    log:
        "results/logs/train_teacher.log",
    threads: PARAMS.threads
    resources:
        mem_mb=3000,
    params:
        hyperspace=PARAMS.hyperspace,
        declared=DECLARED,
        teacher=as_json(PARAMS.teacher),
        augment=as_json(PARAMS.augment),
        seed=PARAMS.seed,
        workers=PARAMS.workers,
        checkpoint_steps=PARAMS.checkpoint_steps,
    shell:
        "python workflow/scripts/train_teacher.py --train {input.train} --hyperspace {params.hyperspace} "
        "--teacher {params.teacher:q} --augment {params.augment:q} --seed {params.seed} "
        "--workers {params.workers} --checkpoint-steps {params.checkpoint_steps} --threads {threads} "
        "--checkpoint results/checkpoints/teacher.safetensors --output {output} 2> {log}"


rule distill_blocks:
    """One job per stage; all its block types share the teacher's passes."""
    input:
        train=DATA["train"],
        teacher="results/teacher.safetensors",
    output:
        expand("results/blocks/{{stage}}_{type}.safetensors", type=BLOCK_TYPES),
    log:
        "results/logs/distill_blocks_{stage}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=3000,
    params:
        hyperspace=PARAMS.hyperspace,
        declared=DECLARED,
        blocks=as_json(PARAMS.blocks),
        augment=as_json(PARAMS.augment),
        seed=PARAMS.seed,
        workers=PARAMS.workers,
        checkpoint_steps=PARAMS.checkpoint_steps,
    shell:
        "python workflow/scripts/distill_blocks.py {wildcards.stage} --train {input.train} "
        "--teacher {input.teacher} --hyperspace {params.hyperspace} --blocks {params.blocks:q} "
        "--augment {params.augment:q} --seed {params.seed} --workers {params.workers} "
        "--checkpoint-steps {params.checkpoint_steps} --threads {threads} "
        "--checkpoint results/checkpoints/blocks_{wildcards.stage}.safetensors "
        "--folder results/blocks 2> {log}"


rule measure_block_losses:
    input:
        blocks=expand("results/blocks/{{stage}}_{type}.safetensors", type=BLOCK_TYPES),
        teacher="results/teacher.safetensors",
        train=DATA["train"],
        val=DATA["val"],
    output:
        "results/blocks/{stage}.lut.parquet",
    log:
        "results/logs/measure_block_losses_{stage}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=3000,
    params:
        hyperspace=PARAMS.hyperspace,
        declared=DECLARED,
        lut=as_json(PARAMS.lut),
        seed=PARAMS.seed,
    shell:
        "python workflow/scripts/measure_block_losses.py --stage {wildcards.stage} --teacher {input.teacher} "
        "--folder results/blocks --train {input.train} --val {input.val} --hyperspace {params.hyperspace} "
        "--lut {params.lut:q} --seed {params.seed} --threads {threads} --output {output} 2> {log}"


if PARAMS.lut.published:
    from spaceevo.search.published_lut import published_files

    rule import_lut:
        """A published LUT takes the place of the measured one."""
        input:
            [path for path, *_ in published_files(PARAMS.lut.published, HYPERSPACE)],
        output:
            "results/blocks/lut.parquet",
        log:
            "results/logs/import_lut.log",
        params:
            folder=PARAMS.lut.published,
            hyperspace=PARAMS.hyperspace,
            declared=DECLARED,
        shell:
            "python workflow/scripts/import_lut.py --folder {params.folder:q} --hyperspace {params.hyperspace} "
            "--output {output} 2> {log}"

else:

    rule accuracy_lut:
        input:
            expand("results/blocks/{stage}.lut.parquet", stage=STAGES),
        output:
            "results/blocks/lut.parquet",
        log:
            "results/logs/accuracy_lut.log",
        shell:
            "python workflow/scripts/merge_lut.py {input} --output {output} 2> {log}"
