"""The training loop: resuming exactly, learning rates, weight decay, clipping, and losses that are not finite."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made import made_split
from torch import nn

from spaceevo.artifacts import Record, read_header, read_tensors
from spaceevo.config import Augment, Recipe
from spaceevo.errors import DataError, TrainingError
from spaceevo.train.loop import Part, Task, finish, learning_rate, subnet_rng, train
from spaceevo.train.state import CHECKPOINT_KIND, WeightAverage

RECIPE = Recipe(epochs=2, batch_size=12, learning_rate=0.05, warmup=0.2, weight_decay=0.1)
STEPS = 10  # of five full batches of 12 out of 64 images, twice


class KilledError(Exception):
    """Stands for a kill."""


class Net(nn.Module):
    """A weight of each kind: convolution, norm, bias, fully connected, and one that no step trains."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 4)
        self.unused = nn.Parameter(torch.ones(2, 2))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).relu().mean((2, 3)))


def cross_entropy(net, seen=None, stop_at=None):
    """An objective with two losses per step; notes the steps it is asked for, and is killed before one of them."""

    def objective(step, x, y):
        if step == stop_at:
            raise KilledError
        if seen is not None:
            seen.append(step)
        yield Part("the net", net, lambda: nn.functional.cross_entropy(net(x), y))
        yield Part("its size", net.linear, lambda: 0.01 * net.linear.weight.square().sum())

    return objective


@pytest.fixture
def setting(tmp_path):
    """What all runs of a test share: their task and how to run it."""
    task = Task("a net", made_split(), 12, 0, tmp_path / "checkpoint.safetensors", Augment(shift=1), checkpoint_steps=3)

    def run(net, *, recipe=RECIPE, task=task, params=None, objective=None, **options):
        record = Record(params or {"a": 1})
        train(net, objective or cross_entropy(net, **options), recipe, task, record, Accelerator(cpu=True))
        return record

    return SimpleNamespace(task=task, run=run)


def same(first: nn.Module, second: nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("stop_at", [4, 5, 7, 9])
def test_a_run_that_is_killed_ends_with_the_same_weights(setting, stop_at, optimizer):
    """Within an epoch and at its end, and with the steps after the last checkpoint done again."""
    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    whole, killed, resumed = Net(), Net(), Net()
    setting.run(whole, recipe=recipe)
    finish(setting.task)
    with pytest.raises(KilledError):
        setting.run(killed, recipe=recipe, stop_at=stop_at)
    seen = []
    setting.run(resumed, recipe=recipe, seen=seen)
    assert seen == list(range(stop_at // 3 * 3, STEPS))
    assert same(whole, resumed) and not same(whole, killed)
    assert not resumed.training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_convolutions_of_maps_with_channels_last_are_updated_as_their_gradient_says(setting, optimizer):
    """Their gradient too has its channels last, the weight has not; fused optimizers go by the order in memory."""
    images = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    images = images.to(memory_format=torch.channels_last)

    def loss(net):
        return net.conv(images).square().mean()

    def objective(step, x, y):
        yield Part("the net", net, lambda: loss(net))

    net, expected = Net(), Net()
    recipe = Recipe(optimizer=optimizer, epochs=0.6, batch_size=12, learning_rate=0.1, clip_norm=1e6)
    setting.run(net, recipe=recipe, objective=objective)
    weights, options = expected.conv.parameters(), {"weight_decay": 0.0, "fused": False, "foreach": False}
    plain = {
        "adamw": lambda: torch.optim.AdamW(weights, **options),
        "sgd": lambda: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True, **options),
    }[optimizer]()
    for step in range(3):
        plain.param_groups[0]["lr"] = learning_rate(recipe, step, 3)
        plain.zero_grad()
        loss(expected).backward()
        plain.step()
    torch.testing.assert_close(net.conv.weight, expected.conv.weight)


@pytest.mark.parametrize("stop_at", [4, 9])
def test_an_average_of_weights_resumes_too(setting, stop_at):
    recipe = RECIPE.model_copy(update={"ema": 0.7})
    whole, killed, resumed, last = Net(), Net(), Net(), Net()
    setting.run(whole, recipe=recipe)
    finish(setting.task)
    with pytest.raises(KilledError):
        setting.run(killed, recipe=recipe, stop_at=stop_at)
    setting.run(resumed, recipe=recipe)
    assert same(whole, resumed)
    finish(setting.task)
    setting.run(last)
    assert not same(whole, last)  # the weights of the last step


def test_the_average_follows_its_definition():
    """With a decay that rises from 1/10 to its own."""
    net, expected = nn.Linear(1, 1), 0.0
    with torch.no_grad():
        net.weight.fill_(0.0)
    average = WeightAverage(net, decay=0.3)
    for step, weight in enumerate((1.0, 2.0, -3.0, 5.0, 1.5)):
        with torch.no_grad():
            net.weight.fill_(weight)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    average.to_module()
    assert float(net.weight.detach()) == pytest.approx(expected)


def test_a_run_that_was_finished_is_not_done_again(setting):
    """Its artifact may not have been written; its weights are in the last checkpoint."""
    first, second, third = Net(), Net(), Net()
    setting.run(first)
    seen = []
    setting.run(second, seen=seen)
    assert seen == [] and same(first, second)
    finish(setting.task)
    assert not setting.task.checkpoint.exists()
    setting.run(third, seen=seen)
    assert len(seen) == STEPS and same(first, third)
    finish(setting.task)
    finish(setting.task)  # nothing to remove is no error


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"a": 2}},
        {"recipe": RECIPE.model_copy(update={"learning_rate": 0.01})},
        {"seed": 1},
        {"recipe": RECIPE.model_copy(update={"ema": 0.9})},
        {"recipe": RECIPE.model_copy(update={"optimizer": "sgd"})},
        {"label": "another net"},
        {"resolution": 10},
        {"augment": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_run_is_put_aside(setting, change, capsys):
    """One sentence says so, and nothing of it is lost."""
    with pytest.raises(KilledError):
        setting.run(Net(), stop_at=7)
    before = setting.task.checkpoint.read_bytes()
    capsys.readouterr()
    of_run = {key: change[key] for key in ("params", "recipe") if key in change}
    task = replace(setting.task, **{key: value for key, value in change.items() if key not in of_run})
    seen = []
    setting.run(Net(), task=task, seen=seen, **of_run)
    assert seen == list(range(STEPS))
    aside = setting.task.checkpoint.with_suffix(".earlier.safetensors")
    assert aside.read_bytes() == before
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert sentence.startswith(f"{setting.task.checkpoint} is of other parameters, data or initial weights")
    assert str(aside) in sentence


@pytest.mark.parametrize("other", [made_split(images=60), made_split(seed=1)], ids=["fewer", "as many"])
def test_a_checkpoint_of_other_images_is_ignored(setting, other):
    with pytest.raises(KilledError):
        setting.run(Net(), stop_at=7)
    seen = []
    setting.run(Net(), task=replace(setting.task, split=other), seen=seen)
    assert seen == list(range(STEPS))


def test_a_run_goes_on_where_its_first_weights_are_rounded_otherwise(setting):
    """As on another kind of processor, on which orthogonal weights and fitted grids come out a bit different."""
    with pytest.raises(KilledError):
        setting.run(Net(), stop_at=7)
    net, whole, seen = Net(), Net(), []
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1 + 1e-5)
    setting.run(net, seen=seen)
    assert seen == list(range(6, STEPS))
    finish(setting.task)
    setting.run(whole)
    assert same(whole, net)


def test_a_checkpoint_that_started_from_other_weights_is_ignored(setting):
    """As the INT8 phase of a supernet whose FP32 phase was done anew."""
    with pytest.raises(KilledError):
        setting.run(Net(), stop_at=7)
    net = Net()
    with torch.no_grad():
        net.linear.weight.mul_(2)
    seen = []
    setting.run(net, seen=seen)
    assert seen == list(range(STEPS))


def test_a_damaged_checkpoint_only_costs_time(setting):
    whole, again = Net(), Net()
    setting.run(whole)
    data = setting.task.checkpoint.read_bytes()
    setting.task.checkpoint.write_bytes(data[: len(data) // 2])
    seen = []
    setting.run(again, seen=seen)
    assert len(seen) == STEPS and same(whole, again)


def test_the_cost_of_an_interrupted_run_counts(setting):
    with pytest.raises(KilledError):
        setting.run(Net(), stop_at=7)
    spent = read_tensors(setting.task.checkpoint, CHECKPOINT_KIND)[1]["cost"]["wall_s"]
    record = setting.run(Net())
    assert record.earlier_wall_s == spent > 0 and record.cost()["wall_s"] >= spent
    assert read_header(setting.task.checkpoint)["kind"] == CHECKPOINT_KIND


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(setting, bad):
    net = Net()

    def objective(step, x, y):
        yield Part("d1#2_k3", net, lambda: nn.functional.cross_entropy(net(x), y))
        yield Part("d1#1_k5", net, lambda: net.linear.bias.sum() * (bad if step == 7 else 0))

    with pytest.raises(TrainingError) as caught:
        setting.run(net, objective=objective)
    rate = learning_rate(RECIPE, 7, STEPS)
    sentence = str(caught.value)
    assert "a net: the loss of d1#1_k5 is not finite at step 7" in sentence and f"{rate:.3g}" in sentence
    assert "\n" not in sentence
    arrays, content = read_tensors(setting.task.checkpoint, CHECKPOINT_KIND)
    assert content["step"] == 6
    assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize("step_of_it", [7, STEPS - 1])
def test_a_gradient_that_is_not_finite_is_not_taken(setting, step_of_it):
    """Of a loss that is: the square root's slope at zero is infinite."""
    net = Net()

    def objective(step, x, y):
        yield from cross_entropy(net)(step, x, y)
        if step == step_of_it:
            yield Part("a root", net, lambda: (0 * net.linear.bias.sum()).sqrt())

    with pytest.raises(TrainingError, match=f"a net: the gradient is not finite at step {step_of_it} "):
        setting.run(net, objective=objective)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())
    arrays, content = read_tensors(setting.task.checkpoint, CHECKPOINT_KIND)
    assert content["step"] == step_of_it // 3 * 3
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_steps_that_cannot_be_are_refused(setting):
    with pytest.raises(DataError, match="A batch of 65 is more than the 64 images"):
        setting.run(Net(), recipe=RECIPE.model_copy(update={"batch_size": 65}))


def test_weight_decay_falls_on_convolution_and_linear_weights_alone(setting):
    """With gradients of zero, decay is all that moves a weight: by 1 − rate · decay in every step."""
    net, untouched = Net(), Net()

    def objective(step, x, y):
        used = [parameter for name, parameter in net.named_parameters() if name != "unused"]
        yield Part("nothing", net, lambda: sum((parameter * 0).sum() for parameter in used))

    setting.run(net, objective=objective)
    kept = math.prod(1 - learning_rate(RECIPE, step, STEPS) * RECIPE.weight_decay for step in range(STEPS))
    before = dict(untouched.named_parameters())
    for name, parameter in net.named_parameters():
        decayed = name in ("conv.weight", "linear.weight")
        assert torch.allclose(parameter, before[name] * (kept if decayed else 1), rtol=1e-5), name
    assert kept < 0.99


def test_muon_takes_all_weights(setting):
    """One step of a constant gradient: where steps are orthogonal its length does not count."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 4))
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}

    def objective(step, x, y):
        yield Part("constant", net, lambda: 7 * sum(parameter.sum() for parameter in net.parameters()))

    recipe = Recipe(
        optimizer="muon", epochs=0.2, batch_size=12, learning_rate=0.5, warmup=0.0, weight_decay=0.0, clip_norm=1e6,
        matrix_share=0.3,
    )  # fmt: skip
    setting.run(net, objective=objective, recipe=recipe)
    rate = learning_rate(recipe, 0, 1)
    for name, parameter in net.named_parameters():
        step = (before[name] - parameter.detach()) / rate
        if name == "1.weight":
            torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.full((4,), 0.3), msg=name)  # of each filter
        elif name.endswith("weight"):
            assert 0.6 < step.norm() / 0.3 < 1.3, name  # of one singular value
        else:
            torch.testing.assert_close(step, 1.9 * 7 * torch.ones_like(step), msg=name)


def test_the_gradient_is_clipped(setting):
    """The first moment of Adam after one step is a tenth of the gradient that reached it."""
    recipe = RECIPE.model_copy(update={"epochs": 0.2, "clip_norm": 0.5})
    net = Net()

    def objective(step, x, y):
        yield Part("steep", net, lambda: 1e4 * net(x).sum())

    setting.run(net, objective=objective, recipe=recipe)
    arrays, content = read_tensors(setting.task.checkpoint, CHECKPOINT_KIND)
    moments = [array.ravel() for name, array in arrays.items() if name.startswith("optimizer.exp_avg.")]
    assert content["step"] == 1
    assert np.linalg.norm(np.concatenate(moments)) == pytest.approx(0.05, rel=1e-3)


def test_losses_of_one_step_add_up(setting):
    """Each is back-propagated on its own; the step is that of their sum."""
    first, second = Net(), Net()

    def together(step, x, y):
        yield Part("sum", second, lambda: sum(part.loss() for part in cross_entropy(second)(step, x, y)))

    recipe = RECIPE.model_copy(update={"epochs": 0.2})
    setting.run(first, recipe=recipe)
    finish(setting.task)
    setting.run(second, recipe=recipe, objective=together)
    assert all(
        torch.allclose(tensor, other, atol=1e-5)
        for tensor, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        if tensor.is_floating_point()
    )


def test_parts_side_by_side_give_the_same_weights(setting):
    """Bit for bit, although many parts share weights and end in any order."""

    def many(net):
        def objective(step, x, y):
            for number in range(12):
                power = 1 + number % 3
                yield Part(str(number), net, lambda power=power: net(x).abs().pow(power).mean() / (1 + power))

        return objective

    alone, together = Net(), Net()
    setting.run(alone, objective=many(alone))
    finish(setting.task)
    setting.run(together, objective=many(together), task=replace(setting.task, at_once=4))
    assert same(alone, together) and not same(alone, Net())


def test_a_gradient_that_two_parameters_share_is_not_counted_twice(setting):
    """A sum passes the very same gradient to both of its terms."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    net = Sum()

    def objective(step, x, y):
        for number in range(2):
            yield Part(str(number), net, lambda: (net.first + net.second).sum())

    setting.run(net, objective=objective, recipe=RECIPE.model_copy(update={"epochs": 0.2, "clip_norm": 1e6}))
    arrays, _ = read_tensors(setting.task.checkpoint, CHECKPOINT_KIND)
    for name in ("first", "second"):
        assert arrays[f"optimizer.exp_avg.{name}"] == pytest.approx(0.2)  # a tenth of 1 + 1


def test_fractions_of_an_epoch_are_rounded_to_steps_and_one_at_least(setting):
    for epochs, steps in ((0.01, 1), (0.5, 2), (1.0, 5), (1.3, 6)):
        finish(setting.task)
        seen = []
        setting.run(Net(), recipe=RECIPE.model_copy(update={"epochs": epochs}), seen=seen)
        assert len(seen) == steps


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_learning_rates_rise_to_their_peak_and_fall_to_nearly_nothing(warmup, steps):
    recipe = RECIPE.model_copy(update={"warmup": warmup})
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    warm = max(round(warmup * steps), 1)
    assert max(rates) == pytest.approx(recipe.learning_rate) and min(rates) > 0
    assert rates[:warm] == pytest.approx([recipe.learning_rate * (i + 1) / warm for i in range(warm)])
    assert all(later <= earlier for earlier, later in zip(rates[warm:], rates[warm + 1 :], strict=False))
    if steps == 100 and warmup < 1:
        assert rates[-1] < 0.01 * recipe.learning_rate


def test_phases_have_checkpoints_of_their_own(setting):
    fp32, int8 = setting.task.phase("fp32"), setting.task.phase("int8")
    assert len({fp32.checkpoint, int8.checkpoint, setting.task.checkpoint}) == 3
    assert fp32.label == "a net fp32" and fp32.checkpoint.suffix == ".safetensors"


def test_random_subnets_of_a_step_depend_on_seed_and_step_alone():
    draws = {(seed, step): subnet_rng(seed, step).random() for seed in range(3) for step in range(3)}
    assert len(set(draws.values())) == 9
    assert subnet_rng(2, 1).random() == draws[2, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_says_what_to_lower(setting, error):
    net = Net()

    def objective(step, x, y):
        yield from cross_entropy(net)(step, x, y)
        if step == 7:
            yield Part("one too many", net, failing)

    def failing():
        raise error

    with pytest.raises(
        TrainingError, match=r"^a net: memory ran out at step 7, with a batch_size of 12: lower it, to 6"
    ):
        setting.run(net, objective=objective)
    _, content = read_tensors(setting.task.checkpoint, CHECKPOINT_KIND)
    assert content["step"] == 6


def test_other_errors_are_not_about_memory(setting):
    def objective(step, x, y):
        raise RuntimeError("shapes differ")
        yield

    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        setting.run(Net(), objective=objective)
