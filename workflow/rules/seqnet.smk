rule search_subnets:
    input:
        supernet="results/{device}/supernet.safetensors",
        predictor="results/{device}/latency_predictor.json",
        train=DATA["train"],
        val=DATA["val"],
    output:
        seqnets="results/{device}/seqnets.json",
        subnets="results/{device}/subnets.parquet",
    log:
        "results/logs/search_subnets_{device}.log",
    threads: PARAMS.threads
    resources:
        mem_mb=memory(3000),
        runtime=minutes(1440),
    params:
        search=knob("search"),
        budgets=knob("devices.{device}.subnet_budgets"),
        limits=knob("devices.{device}.limits"),
        seed=knob("seed"),
        device=declared_device,
        code=code_of("search_subnets"),
    shell:
        "python workflow/scripts/search_subnets.py --supernet {input.supernet} "
        "--predictor {input.predictor} --train {input.train} --val {input.val} "
        "--search {params.search:q} --budgets {params.budgets:q} "
        "--limits {params.limits:q} --seed {params.seed} "
        "--threads {threads} --output {output.seqnets} --subnets {output.subnets} 2> {log}"


rule extract_seqnet:
    input:
        supernet="results/{device}/supernet.safetensors",
        seqnets="results/{device}/seqnets.json",
        train=DATA["train"],
        test=DATA["test"],
    output:
        seqnet="results/{device}/seqnet_{name}.safetensors",
        graph="results/{device}/seqnet_{name}.graph.safetensors",
        verification="results/{device}/seqnet_{name}.verification.safetensors",
    log:
        "results/logs/extract_seqnet_{device}_{name}.log",
    resources:
        mem_mb=memory(3000),
        runtime=minutes(60),
    params:
        recalibration_images=knob("export.recalibration_images"),
        verify_images=knob("export.verify_images"),
        seed=knob("seed"),
        code=code_of("extract_seqnet"),
    shell:
        "python workflow/scripts/extract_seqnet.py --supernet {input.supernet} --seqnets {input.seqnets} "
        "--device {wildcards.device} --name {wildcards.name} --train {input.train} --test {input.test} "
        "--recalibration-images {params.recalibration_images} --verify-images {params.verify_images} "
        "--seed {params.seed} --threads {threads} --output {output.seqnet} "
        "--graph {output.graph} --verification {output.verification} 2> {log}"


rule export_seqnet:
    """The file is there only if its runtime agrees with the trained network on test images."""
    input:
        graph="results/{device}/seqnet_{name}.graph.safetensors",
        verification="results/{device}/seqnet_{name}.verification.safetensors",
    output:
        "results/{device}/seqnet_{name}.{format}",
    log:
        "results/logs/export_seqnet_{device}_{name}_{format}.log",
    wildcard_constraints:
        format="tflite|onnx",
    resources:
        mem_mb=memory(3000),
        runtime=minutes(60),
    params:
        agreement=knob("export.agreement"),
        device=declared_device,
        code=code_of("export_seqnet"),
    shell:
        "python workflow/scripts/export_seqnet.py --graph {input.graph} --verification {input.verification} "
        "--device {wildcards.device} --agreement {params.agreement} --output {output} 2> {log}"


rule write_card:
    input:
        seqnet="results/{device}/seqnet_{name}.safetensors",
        tflite="results/{device}/seqnet_{name}.tflite",
        onnx="results/{device}/seqnet_{name}.onnx",
        supernet="results/{device}/supernet.safetensors",
        seqnets="results/{device}/seqnets.json",
        predictor="results/{device}/latency_predictor.json",
        train=DATA["train"],
        test=DATA["test"],
    output:
        "results/{device}/seqnet_{name}.json",
    log:
        "results/logs/write_card_{device}_{name}.log",
    resources:
        mem_mb=memory(3000),
        runtime=minutes(120),
    params:
        recalibration_images=knob("export.recalibration_images"),
        seed=knob("seed"),
        device=declared_device,
        code=code_of("write_card"),
    shell:
        "python workflow/scripts/write_card.py --seqnet {input.seqnet} --tflite {input.tflite} "
        "--onnx {input.onnx} --supernet {input.supernet} --seqnets {input.seqnets} "
        "--predictor {input.predictor} --device {wildcards.device} --name {wildcards.name} "
        "--train {input.train} --test {input.test} "
        "--recalibration-images {params.recalibration_images} --seed {params.seed} "
        "--threads {threads} --output {output} 2> {log}"
