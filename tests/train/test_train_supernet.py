"""Both phases of the supernet: which subnets a step trains, that it learns, and that it resumes exactly."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from made import GRID, made_split, small_hyperspace

from spaceevo.artifacts import Record, read_tensors
from spaceevo.config import Recipe, Sandwich
from spaceevo.data.loader import materialise
from spaceevo.errors import TrainingError
from spaceevo.nn.initialise import initialise
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.calibrate import Observer
from spaceevo.quant.quantizers import ActivationQuantizer, fp32, int8
from spaceevo.search.evaluator import SubnetEvaluator
from spaceevo.space import Space, load_hyperspace, sample_subnet
from spaceevo.train import supernet as training
from spaceevo.train.loop import Task, back_propagate, finish, trained_parameters
from spaceevo.train.losses import kl_divergence
from spaceevo.train.state import CHECKPOINT_KIND
from spaceevo.train.supernet import calibrate_supernet, sandwich_objective, train_fp32, train_int8

RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.01, weight_decay=0.01)  # 16 steps
UNSET = 7.0  # no log(scale)
SANDWICH = Sandwich(random_subnets=2, largest_alone=0.5, label_smoothing=0.1)


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def task(tmp_path):
    return Task("supernet", made_split(), 12, 0, tmp_path / "checkpoint.safetensors", checkpoint_steps=3)


def made_supernet() -> Supernet:
    supernet = Supernet(Space(small_hyperspace(), (0, 2), (1, 0)), 4, GRID)
    initialise(supernet, torch.Generator().manual_seed(0))
    return supernet


def watch(supernet, stop_after=None):
    """Note every pass: subnet, precision, whether it has dropout; killed after so many."""
    passes = []

    def note(module, args, kwargs):
        if stop_after is not None and len(passes) == stop_after:
            raise KilledError
        _, subnet, precision = args
        passes.append(SimpleNamespace(subnet=subnet, precision=precision, dropout=kwargs.get("dropout")))

    supernet.register_forward_pre_hook(note, with_kwargs=True)
    return passes


def run_fp32(supernet, task, sandwich=SANDWICH, recipe=RECIPE):
    train_fp32(supernet, sandwich, recipe, task, Record({}), Accelerator(cpu=True))


def run_int8(supernet, task, recipe=RECIPE):
    train_int8(supernet, SANDWICH, recipe, task, 2, Record({}), Accelerator(cpu=True))


def same(first, second):
    state = second.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_the_largest_is_alone_at_first(task):
    supernet = made_supernet()
    passes = watch(supernet)
    run_fp32(supernet, task)
    space = supernet.space
    assert len(passes) == 8 * 1 + 8 * (2 + SANDWICH.random_subnets)
    assert all(one.subnet == space.largest for one in passes[:8])
    for start in range(8, len(passes), 4):
        subnets = [one.subnet for one in passes[start : start + 4]]
        assert [subnets[0], subnets[-1]] == [space.largest, space.smallest]
        assert all(space.contains(subnet) for subnet in subnets[1:-1])
    assert len({one.subnet for one in passes}) > 8
    assert {one.precision for one in passes} == {fp32}


def test_mixed_resolutions(task):
    """The ends of the space are trained at every resolution: the largest while alone, the smallest in sandwiches."""
    supernet = made_supernet()
    space, resolutions = supernet.space, supernet.space.hyperspace.resolutions
    passes = watch(supernet)
    run_fp32(
        supernet, task, SANDWICH.model_copy(update={"mixed_resolutions": True}), RECIPE.model_copy(update={"epochs": 8})
    )
    subnets = [one.subnet for one in passes]
    alone, sandwiches = subnets[: 16 * 2], subnets[16 * 2 :]
    assert set(alone[::2]) == set(sandwiches[::4]) == {space.largest}
    assert set(alone[1::2]) == {replace(space.largest, resolution=lower) for lower in resolutions[:-1]}
    assert set(sandwiches[3::4]) == {replace(space.smallest, resolution=any_) for any_ in resolutions}


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 16), (0.3, 5)])
def test_how_long_it_is_alone(task, share, count):
    supernet = made_supernet()
    passes = watch(supernet)
    run_fp32(supernet, task, SANDWICH.model_copy(update={"largest_alone": share}))
    assert len(passes) == count + (16 - count) * 4


def test_students_learn_by_the_divergence_that_is_asked_for(task):
    trained = {name: made_supernet() for name in ("adaptive", "kl")}
    for name, supernet in trained.items():
        run_fp32(supernet, task.phase(name), SANDWICH.model_copy(update={"divergence": name}))
    assert not same(trained["adaptive"], trained["kl"])


def test_students_learn_from_labels_as_well():
    """Their loss is the share of each; without labels it is the divergence alone, and the largest's is as it was."""
    supernet = made_supernet()
    x, y = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4
    losses = {}
    for share in (0.0, 0.3, 1.0):
        sandwich = SANDWICH.model_copy(update={"label_share": share, "divergence": "kl"})
        parts = list(sandwich_objective(supernet, sandwich, fp32, seed=0)(0, x, y))
        losses[share] = torch.stack([part.loss() for part in parts])
    smallest = supernet(x, supernet.space.smallest, fp32)
    labels = F.cross_entropy(smallest, y, label_smoothing=SANDWICH.label_smoothing)
    target = supernet(x, supernet.space.largest, fp32).detach()
    assert torch.allclose(losses[0.0][-1], kl_divergence(smallest, target))
    assert torch.allclose(losses[1.0][-1], labels)
    assert torch.allclose(losses[0.3][1:], 0.7 * losses[0.0][1:] + 0.3 * losses[1.0][1:])
    assert torch.equal(losses[0.0][0], losses[1.0][0])


def test_the_second_phase_takes_whole_sandwiches_in_int8(task):
    supernet = made_supernet()
    run_fp32(supernet, task.phase("fp32"))
    passes = watch(supernet)
    run_int8(supernet, task.phase("int8"))
    calibration, steps = passes[: 2 * 3 + 4], passes[2 * 3 + 4 :]
    assert [one.subnet for one in calibration[:2]] == [supernet.space.largest, supernet.space.smallest]
    assert all(one.precision not in (fp32, int8) for one in calibration)
    assert len(steps) == 16 * 4 and {one.precision for one in steps} == {int8}


def test_dropout_is_for_the_largest_alone_and_depends_on_the_step(task):
    supernet = made_supernet()
    passes = watch(supernet)
    run_fp32(supernet, task, SANDWICH.model_copy(update={"dropout": 0.25, "largest_alone": 0.0}))
    dropouts = [one.dropout for one in passes[::4]]
    assert all(one.dropout is None for number, one in enumerate(passes) if number % 4)
    x = torch.ones(64, 64)
    masks = [dropout(x) for dropout in dropouts]
    assert not torch.equal(masks[0], masks[1])
    assert float((masks[0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(masks[0].max()) == pytest.approx(1 / 0.75)
    again = made_supernet()
    seen = watch(again)
    run_fp32(again, task.phase("again"), SANDWICH.model_copy(update={"dropout": 0.25, "largest_alone": 0.0}))
    assert torch.equal(seen[0].dropout(x), masks[0]) and same(supernet, again)


@pytest.mark.parametrize("precision", [fp32, int8])
def test_the_gradients_of_a_step_are_those_of_its_losses(task, precision):
    found, expected = made_supernet().train(), made_supernet().train()
    for supernet in (found, expected):
        calibrate_supernet(supernet, task, 16, 1)
    x, y = materialise(task.split, 12)
    parts = sandwich_objective(found, SANDWICH, precision, 0)(0, x[:16], y[:16])
    losses = back_propagate(parts, trained_parameters)
    for part in sandwich_objective(expected, SANDWICH, precision, 0)(0, x[:16], y[:16]):
        loss = part.loss()
        loss.backward()
        assert torch.equal(losses[part.label], loss)
    trained = 0
    for (name, ours), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda told, name=name: f"{name}: {told}")
            trained += 1
    assert trained > 50


def test_subnets_side_by_side_give_the_same_weights(task):
    """Bit for bit, in both phases: gradients are added up in the order of the sandwich."""
    alone, together = made_supernet(), made_supernet()
    for supernet, at_once in ((alone, 1), (together, 2)):
        own = replace(task, at_once=at_once).phase(f"at_once_{at_once}")
        run_fp32(supernet, own.phase("fp32"))
        run_int8(supernet, own.phase("int8"))
    assert same(alone, together) and not same(alone, made_supernet())


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_of_the_largest_is_not_waited_for(task, at_once):
    """The subnets beside it learn from its logits, which then never come."""
    supernet = made_supernet()

    def fail(module, args, kwargs):
        if args[1] == supernet.space.largest:
            raise KilledError

    supernet.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(KilledError):
        run_fp32(supernet, replace(task, at_once=at_once), SANDWICH.model_copy(update={"largest_alone": 0.0}))


@pytest.mark.parametrize("stop_after", [5, 8 + 4 * 2 + 1, 8 + 4 * 5])
def test_a_killed_first_phase_ends_with_the_same_weights(task, stop_after):
    whole, killed, resumed = (made_supernet() for _ in range(3))
    run_fp32(whole, task)
    finish(task)
    watch(killed, stop_after)
    with pytest.raises(KilledError):
        run_fp32(killed, task)
    passes = watch(resumed)
    run_fp32(resumed, task)
    assert len(passes) < 8 + 4 * 8
    assert same(whole, resumed) and not same(whole, killed)


@pytest.mark.parametrize("stop_after", [3, 6 + 4 * 4 + 2, 6 + 4 * 9])
def test_a_killed_second_phase_ends_with_the_same_weights(task, stop_after):
    def start():
        supernet = made_supernet()
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter.mul_(1.01)
        return supernet

    whole, killed, resumed = start(), start(), start()
    run_int8(whole, task)
    finish(task)
    watch(killed, stop_after)
    with pytest.raises(KilledError):
        run_int8(killed, task)
    run_int8(resumed, task)
    assert same(whole, resumed)


def test_statistics_of_an_elastic_network_stay_as_they_are(task):
    supernet = made_supernet()
    before = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    run_fp32(supernet, task)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in supernet.named_buffers())


def test_calibration_leaves_weights_alone_and_depends_on_the_seed(task):
    first, second = made_supernet(), made_supernet()
    weights = {name: p.clone() for name, p in first.named_parameters() if "quantizer" not in name}
    for supernet in (first, second):
        calibrate_supernet(supernet, task, 16, 2)
    assert same(first, second)
    parameters = dict(first.named_parameters())
    assert all(torch.equal(parameters[name], weight) for name, weight in weights.items())
    quantizers = [module for module in first.modules() if isinstance(module, ActivationQuantizer)]
    assert len({float(quantizer.log_scale.detach()) for quantizer in quantizers}) > len(quantizers) / 2


@pytest.mark.parametrize("block_type", range(10))
@torch.no_grad()
def test_calibration_sets_every_grid_that_a_subnet_uses(task, block_type):
    space = Space(load_hyperspace("tiny"), (block_type,) * 4, (1, 1, 1, 1))
    supernet = Supernet(space, 4, GRID)
    initialise(supernet, torch.Generator().manual_seed(0))
    grids = {module: name for name, module in supernet.named_modules() if isinstance(module, ActivationQuantizer)}
    for quantizer in grids:
        quantizer.log_scale.fill_(UNSET)
    calibrate_supernet(supernet, task, 16, 1)
    used = Observer(torch.Generator().manual_seed(0))
    x, _ = materialise(task.split, 12)
    rng = np.random.default_rng(0)
    for _ in range(30):
        supernet(x[:4], sample_subnet(space, rng), used)
    assert len(used.samples) > 20
    assert [grids[quantizer] for quantizer in used.samples if quantizer.log_scale == UNSET] == []


@pytest.mark.parametrize(
    "optimizer, state", [("adamw", "exp_avg"), ("sgd", "momentum_buffer"), ("muon", "momentum_buffer")]
)
def test_every_parameter_that_a_subnet_uses_is_trained(task, optimizer, state):
    """Some are used for the first time after many steps."""
    supernet, again = made_supernet(), made_supernet()
    passes = watch(supernet)
    run_fp32(supernet, task, recipe=RECIPE.model_copy(update={"optimizer": optimizer}))
    for subnet in {one.subnet for one in passes}:
        again(materialise(task.split, 12)[0][:4], subnet).sum().backward()
    used = {name for name, parameter in again.named_parameters() if parameter.grad is not None}
    arrays, _ = read_tensors(task.checkpoint, CHECKPOINT_KIND)
    assert used == {name.removeprefix(f"optimizer.{state}.") for name in arrays if f".{state}." in name}


def test_a_divergence_names_the_subnet(task, monkeypatch):
    supernet = made_supernet()
    passes = watch(supernet)
    monkeypatch.setitem(training.DIVERGENCES, "adaptive", lambda student, teacher: student.sum() * float("nan"))
    with pytest.raises(TrainingError) as caught:
        run_fp32(supernet, task)
    first_student = passes[8 + 1].subnet
    assert f"{first_student.code} is not finite at step 8" in str(caught.value)
    assert task.checkpoint.is_file()


def test_it_learns_so_that_every_subnet_is_right_in_int8(task):
    """Four classes of pictures that are easy to tell apart; chance is a quarter."""
    supernet = made_supernet()
    recipe = RECIPE.model_copy(update={"epochs": 12})
    run_fp32(supernet, task.phase("fp32"), recipe=recipe)
    run_int8(supernet, task.phase("int8"), RECIPE.model_copy(update={"learning_rate": 0.002}))
    x, y = materialise(task.split, 12)
    evaluator = SubnetEvaluator(supernet, x, x, y)
    for subnet in (supernet.space.largest, supernet.space.smallest):
        assert evaluator.accuracy(subnet) > 0.9
