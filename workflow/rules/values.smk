"""What rules take: parameters under their names, and resources."""

from functools import cache
from os.path import relpath

from spaceevo.workflow.code import code_digests
from spaceevo.workflow.facts import device_text, hyperspace_digest
from spaceevo.workflow.values import Value


def knob(key, without=()):
    """A parameter of rules: the value of a key of params.yaml, such as "supernet.fp32" or "devices.{device}.limits".

    A section may come without some of its fields.
    """

    def value(wildcards):
        path, found = key.format(**wildcards), PARAMS
        for name in path.split("."):
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        return Value(path, found, without)

    return value


def dataset(wildcards):
    """A parameter of rules: the dataset without what its pictures do not depend on."""
    unused = {"download"} | (set() if PARAMS.dataset.name == "clutter" else {"clutter"})
    return knob("dataset", without=unused)(wildcards)


def code_of(script):
    """A parameter of rules: digests of the script and of the modules that it uses, which change when the code does."""
    value = cache(lambda: Value("code", code_digests(f"workflow/scripts/{script}.py")))
    return lambda wildcards: value()


def declared_hyperspace(wildcards):
    """A parameter of every rule that reads the hyperspace, so that an edit of its file counts as a change."""
    return hyperspace_file()


@cache
def hyperspace_file():
    return Value("hyperspace file", {HYPERSPACE.name: hyperspace_digest(HYPERSPACE)})


def declared_device(wildcards):
    """The same for the file of a device, as far as it matters; of any device, with budgets or without."""
    device = DEVICES.get(wildcards.device) or load_device(wildcards.device)
    return Value("device file", device_text(device))


def machine(wildcards):
    """The fingerprint of the machine that a device is measured on: what was measured on another is measured anew."""
    return Value("machine", MACHINES[wildcards.device])


def table_of(wildcards):
    """The predictor file that a table device names."""
    return relpath(DEVICES[wildcards.device].predictor)


def sampled_near(wildcards):
    """The predictor of the latencies near which subnets are sampled; none where any subnet will do."""
    near = PARAMS.supernet.sandwich.sampling == "budgets"
    return f"results/{wildcards.device}/latency_predictor.json" if near else []


def sampled_budgets(wildcards):
    """The budgets of those latencies."""
    near = PARAMS.supernet.sandwich.sampling == "budgets"
    return knob("devices.{device}.subnet_budgets")(wildcards) if near else "[]"


def compared_space(wildcards):
    """The file of a space that is compared."""
    if wildcards.space == "evolved":
        return f"results/{wildcards.device}/space.json"
    return f"results/{wildcards.device}/comparison/{wildcards.space}/space.json"


def run_seed(wildcards):
    """A parameter of rules of which each seed has jobs of its own."""
    return Value("seed of the run", wildcards.seed)


def memory(mb):
    """What a rule needs, MB; as much more with each attempt, for jobs that a cluster ended for taking too much."""
    return lambda wildcards, attempt: mb * attempt


def minutes(number):
    """The longest that a job of a rule may take on a cluster; as much more with each attempt."""
    return lambda wildcards, attempt: number * attempt


TRAINING_THREADS = PARAMS.threads * PARAMS.processes  # which its processes share


def training(mb):
    """Resources of training, where processes that decode pictures take memory too; a profile may set the launcher."""
    return {
        "mem_mb": memory((mb + 500 * PARAMS.workers) * PARAMS.processes),
        "runtime": minutes(24 * 60),
        "workers": PARAMS.workers,
        "checkpoint_steps": PARAMS.checkpoint_steps,
        "launcher": launcher(PARAMS.processes),
    }


def launcher(processes):
    """The command that runs a training script in this many processes; a profile may put its own in its place."""
    if processes == 1:
        return "python"
    return f"python -m torch.distributed.run --standalone --nproc-per-node {processes}"
