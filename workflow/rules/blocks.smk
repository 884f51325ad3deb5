rule train_teacher:
    input:
        train=DATA["train"],
        val=DATA["val"],
    output:
        "results/teacher.safetensors",
    log:
        "results/logs/train_teacher.log",
    threads: TRAINING_THREADS
    resources:
        **training(3000),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        teacher=knob("teacher"),
        augment=knob("augment"),
        seed=knob("seed"),
        code=code_of("train_teacher"),
    shell:
        "{resources.launcher} workflow/scripts/train_teacher.py --train {input.train} --val {input.val} "
        "--hyperspace {params.hyperspace} --teacher {params.teacher:q} --augment {params.augment:q} --seed {params.seed} "
        "--workers {resources.workers} --checkpoint-steps {resources.checkpoint_steps} --threads {threads} "
        "--checkpoint results/checkpoints/teacher.safetensors --output {output} 2> {log}"


rule distill_blocks:
    """One job per stage; all its block types share the teacher's passes."""
    input:
        train=DATA["train"],
        teacher="results/teacher.safetensors",
    output:
        networks=expand("results/blocks/{{stage}}_{type}.safetensors", type=BLOCK_TYPES),
    log:
        "results/logs/distill_blocks_{stage}.log",
    wildcard_constraints:
        stage=any_of(SEARCHED),
    threads: TRAINING_THREADS
    resources:
        **training(3000),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        blocks=knob("blocks"),
        augment=knob("augment"),
        seed=knob("seed"),
        code=code_of("distill_blocks"),
    shell:
        "{resources.launcher} workflow/scripts/distill_blocks.py {wildcards.stage} --train {input.train} "
        "--teacher {input.teacher} --hyperspace {params.hyperspace} --blocks {params.blocks:q} "
        "--augment {params.augment:q} --seed {params.seed} --workers {resources.workers} "
        "--checkpoint-steps {resources.checkpoint_steps} --threads {threads} "
        "--checkpoint results/checkpoints/blocks_{wildcards.stage}.safetensors "
        "--folder $(dirname {output.networks[0]:q}) 2> {log}"


use rule distill_blocks as distill_fixed_stage with:
    output:
        networks=["results/blocks/{stage}_0.safetensors"],
    log:
        "results/logs/distill_fixed_stage_{stage}.log",
    wildcard_constraints:
        stage=any_of(FIXED),


rule measure_block_losses:
    input:
        blocks=lambda wildcards: distilled_blocks([wildcards.stage]),
        teacher="results/teacher.safetensors",
        train=DATA["train"],
        val=DATA["val"],
    output:
        "results/blocks/{stage}.lut.parquet",
    log:
        "results/logs/measure_block_losses_{stage}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=memory(3000),
        runtime=minutes(360),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        lut=knob("lut"),
        seed=knob("seed"),
        code=code_of("measure_block_losses"),
    shell:
        "python workflow/scripts/measure_block_losses.py --stage {wildcards.stage} --teacher {input.teacher} "
        "--folder $(dirname {input.blocks[0]:q}) --train {input.train} --val {input.val} --hyperspace {params.hyperspace} "
        "--lut {params.lut:q} --seed {params.seed} --threads {threads} --output {output} 2> {log}"


if PARAMS.lut.published:
    from spaceevo.search.published_lut import published_files

    localrules:
        import_lut,

    rule import_lut:
        """A published LUT takes the place of the measured one."""
        input:
            [
                local(path)
                for path, *_ in published_files(PARAMS.lut.published, HYPERSPACE)
            ],
        output:
            "results/blocks/lut.parquet",
        log:
            "results/logs/import_lut.log",
        params:
            folder=knob("lut.published"),
            hyperspace=knob("hyperspace"),
            declared=declared_hyperspace,
            code=code_of("import_lut"),
        shell:
            "python workflow/scripts/import_lut.py --folder {params.folder:q} --hyperspace {params.hyperspace} "
            "--output {output} 2> {log}"

else:

    localrules:
        accuracy_lut,

    rule accuracy_lut:
        input:
            expand("results/blocks/{stage}.lut.parquet", stage=STAGES),
        output:
            "results/blocks/lut.parquet",
        log:
            "results/logs/accuracy_lut.log",
        params:
            code=code_of("merge_lut"),
        shell:
            "python workflow/scripts/merge_lut.py {input} --output {output} 2> {log}"
