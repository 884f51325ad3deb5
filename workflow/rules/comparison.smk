# The evolved space of a device beside uniform ones, each trained and searched alike. Asked for by name alone.


rule write_uniform_space:
    output:
        "results/{device}/comparison/{space}/space.json",
    log:
        "results/logs/write_uniform_space_{device}_{space}.log",
    wildcard_constraints:
        device=any_of(EVOLVED),
        space=any_of(COMPARED[1:]),
    params:
        hyperspace=knob("hyperspace"),
        declared=declared_hyperspace,
        block_type=lambda wildcards: wildcards.space.removeprefix("uniform"),
        code=code_of("write_uniform_space"),
    shell:
        "python workflow/scripts/write_uniform_space.py --hyperspace {params.hyperspace} "
        "--block-type {params.block_type} --output {output} 2> {log}"


use rule train_supernet_fp32 as compare_supernet_fp32 with:
    input:
        space=compared_space,
        train=DATA["train"],
        predictor=sampled_near,
    output:
        "results/{device}/comparison/{space}/supernet_fp32_{seed}.safetensors",
    log:
        "results/logs/compare_supernet_fp32_{device}_{space}_{seed}.log",
    params:
        sandwich=knob("supernet.sandwich"),
        recipe=knob("supernet.fp32"),
        budgets=sampled_budgets,
        augment=knob("augment"),
        seed=run_seed,
        code=code_of("train_supernet_fp32"),


use rule train_supernet_int8 as compare_supernet_int8 with:
    input:
        supernet="results/{device}/comparison/{space}/supernet_fp32_{seed}.safetensors",
        train=DATA["train"],
        predictor=sampled_near,
    output:
        "results/{device}/comparison/{space}/supernet_{seed}.safetensors",
    log:
        "results/logs/compare_supernet_int8_{device}_{space}_{seed}.log",
    params:
        sandwich=knob("supernet.sandwich"),
        recipe=knob("supernet.int8"),
        budgets=sampled_budgets,
        calibration_batches=knob("supernet.calibration_batches"),
        augment=knob("augment"),
        seed=run_seed,
        code=code_of("train_supernet_int8"),


rule compare_space:
    input:
        **DATA,
        supernet="results/{device}/comparison/{space}/supernet_{seed}.safetensors",
        predictor="results/{device}/latency_predictor.json",
    output:
        "results/{device}/comparison/{space}/outcomes_{seed}.parquet",
    log:
        "results/logs/compare_space_{device}_{space}_{seed}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=memory(3000),
        runtime=minutes(1440),
    params:
        search=knob("search", without=["remeasure"]),
        recalibration_images=knob("export.recalibration_images"),
        budgets=knob("devices.{device}.subnet_budgets"),
        budgets_seed=knob("seed"),
        random_subnets=knob("comparison.random_subnets"),
        seed=run_seed,
        code=code_of("compare_space"),
    shell:
        "python workflow/scripts/compare_space.py --supernet {input.supernet} --predictor {input.predictor} "
        "--train {input.train} --val {input.val} --test {input.test} "
        "--search {params.search:q} --recalibration-images {params.recalibration_images} --budgets {params.budgets:q} --budgets-seed {params.budgets_seed} "
        "--random-subnets {params.random_subnets} --seed {params.seed} --threads {threads} "
        "--output {output} 2> {log}"


rule write_comparison:
    input:
        outcomes=expand(
            "results/{{device}}/comparison/{space}/outcomes_{seed}.parquet",
            space=COMPARED,
            seed=PARAMS.comparison.seeds,
        ),
        spaces=expand(
            "results/{{device}}/comparison/{space}/space.json", space=COMPARED[1:]
        ),
        evolved="results/{device}/space.json",
        lut="results/blocks/lut.parquet",
        predictor="results/{device}/latency_predictor.json",
        val=DATA["val"],
    output:
        summary="results/{device}/comparison/summary.md",
        pngs=expand(
            "results/{{device}}/comparison/{figure}.png",
            figure=["accuracies", "errors"],
        ),
        accuracies=report(
            "results/{device}/comparison/accuracies.svg",
            caption="../report/compared_accuracies.rst",
            category="Spaces compared",
            labels={"device": "{device}", "figure": "best subnets"},
        ),
        errors=report(
            "results/{device}/comparison/errors.svg",
            caption="../report/compared_errors.rst",
            category="Spaces compared",
            labels={"device": "{device}", "figure": "random subnets"},
        ),
    log:
        "results/logs/write_comparison_{device}.log",
    resources:
        mem_mb=memory(3000),
        runtime=minutes(60),
    params:
        score=knob("space.score"),
        budgets=knob("devices.{device}.space_budgets"),
        seed=knob("seed"),
        report=knob("report"),
        code=code_of("write_comparison"),
    shell:
        "python workflow/scripts/write_comparison.py {input.outcomes} --evolved {input.evolved} --lut {input.lut} "
        "--predictor {input.predictor} --val {input.val} --score {params.score:q} "
        "--budgets {params.budgets:q} --seed {params.seed} --report {params.report:q} "
        "--output {output.summary} 2> {log}"
