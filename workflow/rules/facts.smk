from spaceevo.workflow.facts import workflow_facts


localrules:
    workflow_facts,
    machine_facts,


rule workflow_facts:
    """Digests of code, hyperspaces and devices, for dvc.yaml."""
    output:
        "results/facts.json",
    log:
        "results/logs/workflow_facts.log",
    params:
        facts=lambda wildcards: Value(
            "facts", workflow_facts(Path("workflow/scripts").glob("*.py"))
        ),
    shell:
        "python workflow/scripts/write_facts.py --kind facts --facts {params.facts:q} --output {output} 2> {log}"


rule machine_facts:
    """What each device's latency is measured with here, for dvc.yaml; never shared."""
    output:
        "results/machine.json",
    log:
        "results/logs/machine_facts.log",
    params:
        facts=lambda wildcards: Value("facts", MACHINES),
    shell:
        "python workflow/scripts/write_facts.py --kind machine --facts {params.facts:q} --output {output} 2> {log}"
