"""Distillation: one teacher pass per batch feeds every student, both phases run, resume exactly, and lower the loss."""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made import GRID, declared, made_split, pictures, randomise, small_hyperspace

from spaceevo.artifacts import Record
from spaceevo.config import BlocksParams, Recipe
from spaceevo.data.loader import materialise
from spaceevo.data.transforms import resize
from spaceevo.errors import TrainingError
from spaceevo.nn.initialise import initialise
from spaceevo.nn.store import TeacherAccuracy
from spaceevo.nn.teacher import SubnetTeacher
from spaceevo.quant.calibrate import Observer
from spaceevo.quant.quantizers import ActivationQuantizer, fp32, int8
from spaceevo.search.block_losses import measure_block_losses, resolution_costs
from spaceevo.search.lut import LOG_ODDS_PER_LOSS
from spaceevo.space import Space, parse_hyperspace, parse_stage, sample_stage
from spaceevo.train import blocks as distillation
from spaceevo.train.blocks import Students, distill, student_key, teacher_features
from spaceevo.train.loop import Task, finish, train
from spaceevo.train.losses import noise_to_signal
from spaceevo.train.teacher import teacher_accuracy, teachers_at, train_teacher

HYPERSPACE = small_hyperspace()
RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.01)  # 8 steps
PARAMS = BlocksParams(random_choices=1, calibration_batches=2, fp32=RECIPE, int8=RECIPE)
UNSET = 7.0  # no log(scale)
COSTS = {8: 0.3, 12: 0.0}  # of resolutions


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def teacher(monkeypatch):
    """The largest subnet of a space with random weights."""
    space = Space(HYPERSPACE, (0, 2), (1, 0))
    monkeypatch.setattr("spaceevo.nn.teacher.parse_space", lambda code: space)
    made = SubnetTeacher("small-02-10", HYPERSPACE, 4, GRID)
    randomise(made, 0)
    return made.eval()


@pytest.fixture
def task(tmp_path):
    return Task("blocks", made_split(), 12, 0, tmp_path / "blocks.safetensors", checkpoint_steps=3)


def made_students(teacher, stages=("stage1", "stage2"), types=(0, 1, 2)) -> Students:
    students = Students(HYPERSPACE, teacher, stages, types)
    initialise(students, torch.Generator().manual_seed(0))
    return students


def teachers_of(teacher):
    return dict.fromkeys(HYPERSPACE.block_kd_resolutions, teacher)


def run(students, teacher, task, params=PARAMS):
    distill(students, teachers_of(teacher), params, task, Record({}), Accelerator(cpu=True))


def same(first, second):
    state = second.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def count_passes(teacher):
    """How often each part of the teacher runs, by its name."""
    passes = Counter()
    for name, stage in teacher.network.stages.items():
        stage.register_forward_hook(lambda module, args, output, name=name: passes.update([name]))
    return passes


def test_features_take_one_pass(teacher):
    passes = count_passes(teacher)
    features = teacher_features(teacher, pictures(2, 12))
    assert list(features) == [stage.name for stage in HYPERSPACE.body]
    assert passes == {"stem": 1, "stage1": 1, "stage2": 1}
    assert not any(y.requires_grad for y in features.values())


def test_students_are_those_of_all_stages_and_types(teacher):
    students = made_students(teacher)
    keys = [student_key(stage, index) for stage in HYPERSPACE.searched_stages for index in range(3)]
    assert list(students.students) == keys == [f"stage{stage}_{index}" for stage in (1, 2) for index in range(3)]
    features = teacher_features(teacher, pictures(2, 12))
    for stage in students.stages:
        members = list(students.of_stage(stage))
        assert len(members) == 3
        for index, (key, student, options) in enumerate(members):
            assert key == f"{stage.name}_{index}" and options.block_type == HYPERSPACE.block_types[index]
            assert options.widths == stage.widths  # all of the hyperspace's, not one window of them
            for width in student.in_widths:
                y = student(features[students.before[stage.name]], width, options.extreme(-1))
                assert y.shape == features[stage.name].shape


def test_every_batch_takes_one_teacher_pass_for_all_students(teacher, task):
    students = made_students(teacher)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    passes = count_passes(teacher)
    run(students, teacher, task)
    assert len(set(passes.values())) == 1 and set(passes) == {"stem", "stage1", "stage2"}
    # The steps of both phases, the batches of calibration, and at most one to start from.
    assert 16 + PARAMS.calibration_batches <= passes["stem"] <= 16 + PARAMS.calibration_batches + 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert len(list(task.checkpoint.parent.glob("blocks*"))) == 2  # kept until the artifacts are written


def test_each_student_is_trained_at_its_largest_its_smallest_and_at_random(teacher, task, monkeypatch):
    labels = []

    def recording(module, objective, *rest):
        def recorded(step, x, y):
            for part in objective(step, x, y):
                labels.append((step, part.label))
                yield part

        train(module, recorded, *rest)

    monkeypatch.setattr(distillation, "train", recording)
    students = made_students(teacher)
    run(students, teacher, task, PARAMS.model_copy(update={"random_choices": 2}))
    first = [label for step, label in labels if step == 0][: len(labels) // 16]
    expected = ("largest choice", "smallest choice", "random choice 0", "random choice 1")
    assert first == [f"{key}, {name}" for key in students.students for name in expected]
    assert len(labels) == 16 * len(first)


@torch.no_grad()
def loss_of(students, teacher, task, precision):
    """Mean loss of the largest choices in training mode, which normalises by the batch."""
    x, _ = materialise(task.split, HYPERSPACE.block_kd_resolutions[-1])
    features = teacher_features(teacher, x)
    losses = []
    for stage in students.stages:
        for _, student, options in students.of_stage(stage):
            y = student.train()(
                features[students.before[stage.name]], student.in_widths[-1], options.extreme(-1), precision
            )
            losses.append(float(noise_to_signal(y, features[stage.name])))
    return sum(losses) / len(losses)


def test_it_lowers_the_loss_in_full_precision_and_in_int8(teacher, task):
    students = made_students(teacher)
    start = loss_of(students, teacher, task, fp32)
    recipe = RECIPE.model_copy(update={"epochs": 6})
    run(students, teacher, task, PARAMS.model_copy(update={"fp32": recipe}))
    assert loss_of(students, teacher, task, fp32) < 0.8 * start
    assert loss_of(students, teacher, task, int8) < 0.8 * start
    assert loss_of(students, teacher, task, int8) < 0.9  # the channel means would have 1


@pytest.mark.parametrize(("phase", "step"), [(0, 5), (1, 0), (1, 5)])
def test_a_killed_distillation_ends_with_the_same_weights(teacher, task, monkeypatch, phase, step):
    """In the first phase, between the phases and in the second one."""

    def start():
        return made_students(teacher, stages=["stage1"], types=(0, 1))

    whole, killed, resumed = start(), start(), start()
    run(whole, teacher, task)
    for name in distillation.PHASES:
        finish(task.phase(name))
    phases = iter(range(2))

    def killing(module, objective, *rest):
        number = next(phases)

        def until(current, x, y):
            if (number, current) == (phase, step):
                raise KilledError
            yield from objective(current, x, y)

        train(module, until, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(distillation, "train", killing)
        with pytest.raises(KilledError):
            run(killed, teacher, task)
    assert list(task.checkpoint.parent.glob("blocks*"))
    run(resumed, teacher, task)
    assert same(whole, resumed) and not same(whole, killed)


@torch.no_grad()
def test_calibration_sets_every_grid_that_a_choice_uses(teacher, task):
    students = made_students(teacher)
    grids = {module: name for name, module in students.named_modules() if isinstance(module, ActivationQuantizer)}
    for quantizer in grids:
        quantizer.log_scale.fill_(UNSET)
    distillation._calibrate(students, teacher, task, 16, 1)
    used = Observer(torch.Generator().manual_seed(0))
    features = teacher_features(teacher, materialise(task.split, 12)[0][:8])
    rng = np.random.default_rng(0)
    for stage in students.stages:
        for _, student, options in students.of_stage(stage):
            for _ in range(30):
                in_width = int(rng.choice(student.in_widths))
                student(features[students.before[stage.name]], in_width, sample_stage(options, rng), used)
    assert [grids[quantizer] for quantizer in used.samples if quantizer.log_scale == UNSET] == []


def test_a_loss_that_is_not_finite_names_the_student(teacher, task, monkeypatch):
    monkeypatch.setattr(distillation, "noise_to_signal", lambda output, target: output.sum() * float("nan"))
    with pytest.raises(TrainingError, match="the loss of stage1_0, largest choice is not finite at step 0"):
        run(made_students(teacher), teacher, task)


def test_block_losses_cover_every_window_width_and_resolution(teacher, task):
    students = made_students(teacher)
    run(students, teacher, task)
    before = {name: tensor.clone() for name, tensor in students.state_dict().items()}
    x, _ = materialise(task.split, 12)
    table = measure_block_losses(students, teachers_of(teacher), COSTS, x, x[:32], samples=2, seed=0)
    again = measure_block_losses(students, teachers_of(teacher), COSTS, x, x[:32], samples=2, seed=0)
    assert table.equals(again)
    assert all(torch.equal(tensor, before[name]) for name, tensor in students.state_dict().items())
    keys = table.groupby(["stage", "block_type", "window", "in_width", "resolution"]).size()
    # Two windows and two arriving widths of stage1; one window and three of stage2; three types, two resolutions.
    assert len(keys) == (2 * 2 + 1 * 3) * 3 * 2 and set(keys) == {2}
    assert (table["loss"] > 0).all() and table["loss"].median() < 1.5
    assert (table["nsr"] > 0).all() and table["nsr"].median() < 1
    for row in table.itertuples():
        choice = parse_stage(row.choice)
        widths = HYPERSPACE.stage(row.stage).window_widths(row.window)
        assert choice[-1].width == row.out_width and {block.width for block in choice} <= set(widths)
        assert row.macs > 0 and row.params > 0


@torch.no_grad()
def test_block_types_and_resolutions_are_compared_by_the_same_draws(teacher, task):
    """Kernels, widths and expand ratios by their place among those of the type; types 1 and 2 have as many of each."""
    students = made_students(teacher)
    x, _ = materialise(task.split, 12)
    table = measure_block_losses(students, teachers_of(teacher), COSTS, x[:16], x[:16], samples=4, seed=0)
    places = []
    for row in table.itertuples():
        expands = HYPERSPACE.block_types[row.block_type].expands
        choice = parse_stage(row.choice)
        places.append(str([(block.kernel_size, block.width, expands.index(block.expand_ratio)) for block in choice]))
    keys = ["stage", "window", "in_width"]
    drawn = table.assign(places=places).groupby([*keys, "block_type", "resolution"])["places"].agg(tuple)
    assert all(group.nunique() == 1 for _, group in drawn.loc[:, :, :, [1, 2]].groupby(keys))
    assert drawn.nunique() > 1


@torch.no_grad()
def test_losses_of_a_lossless_stage_add_up_to_what_the_resolution_costs(teacher, task, monkeypatch):
    """Where students answer as the teacher's stage does, nothing else is left."""
    students = made_students(teacher, types=(0,))

    def exact(student, example, in_width, choice):
        (stage,) = (s for s in students.stages for _, other, _ in students.of_stage(s) if other is student)
        module = teacher.network.stages[stage.name]

        class Exact(torch.nn.Module):
            def forward(self, x, precision):
                return module(x, fp32)

        return Exact()

    monkeypatch.setattr(distillation.StageStudent, "extract", exact)
    x, _ = materialise(task.split, 12)
    table = measure_block_losses(students, teachers_of(teacher), COSTS, x, x[:32], samples=1, seed=0)
    assert set(table["resolution"]) == {8, 12}
    assert table["nsr"].max() < 1e-3  # the ridge of the projection
    for resolution, group in table.groupby("resolution"):
        assert 2 * group["loss"].mean() == pytest.approx(COSTS[resolution], abs=2e-3)  # of two searched stages


def test_the_best_choice_loses_as_much_at_every_resolution_but_for_what_that_costs(teacher, task):
    students = made_students(teacher)
    run(students, teacher, task)
    x, _ = materialise(task.split, 12)
    table = measure_block_losses(students, teachers_of(teacher), COSTS, x, x[:32], samples=2, seed=0)
    for _, stage in table.groupby("stage"):
        best = {resolution: group["loss"].min() for resolution, group in stage.groupby("resolution")}
        assert best[12] == stage.loc[stage["resolution"] == 12, "nsr"].min() > 0
        assert best[8] - COSTS[8] / 2 == pytest.approx(best[12])
        for _, group in stage.groupby("resolution"):  # within a resolution, losses differ as the ratios do
            assert (group["loss"] - group["nsr"]).std() < 1e-12


@pytest.fixture
def fixed(monkeypatch):
    """A student of a stage that is not searched, which gets 8 or 16 channels, and a teacher."""
    document = declared()
    stem = document["stages"][0]
    document["stages"].insert(1, {**stem, "name": "second", "stride": 1, "depths": [1, 2]})
    hyperspace = parse_hyperspace("small", document)
    space = Space(hyperspace, (0, 2), (1, 0))
    monkeypatch.setattr("spaceevo.nn.teacher.parse_space", lambda code: space)
    teacher = SubnetTeacher("small-02-10", hyperspace, 4, GRID)
    randomise(teacher, 0)
    students = Students(hyperspace, teacher.eval(), ["second", "stage1"], (1, 2))
    initialise(students, torch.Generator().manual_seed(0))
    return students, teachers_of(teacher)


def test_stages_are_distilled_that_are_searched_or_can_get_several_widths(fixed):
    students, _ = fixed
    assert [stage.name for stage in students.hyperspace.distilled_stages] == ["second", "stage1", "stage2"]
    # Of a stage that is not searched, one student of its own type, whatever types are asked for.
    assert list(students.students) == ["second_0", "stage1_1", "stage1_2"]
    (second, _) = students.stages
    ((_, student, options),) = students.of_stage(second)
    assert options.block_type == second.block_type and student.in_widths == (8, 16) and options.widths == second.widths


def test_a_stage_that_is_not_searched_loses_what_the_best_choice_for_an_arriving_width_does(fixed):
    students, teachers = fixed
    table = measure_block_losses(students, teachers, COSTS, pictures(24, 12), pictures(16, 12), samples=1, seed=0)
    table = table[table["stage"] == "second"]
    assert not table[["block_type", "window"]].to_numpy().any()
    choices = 2 + 2 * 2  # one block or two, of one of two widths
    assert table.groupby(["resolution", "in_width"])["choice"].nunique().tolist() == [choices] * 4
    for _, group in table.groupby("resolution"):  # whatever that costs: searched stages have it
        ratios = group.groupby("in_width")["nsr"].min()
        losses = group.groupby("in_width")["loss"]
        assert losses.nunique().tolist() == [1, 1] and group["loss"].min() == 0
        assert losses.first().tolist() == pytest.approx((ratios - ratios.min()).tolist())


def test_of_many_choices_of_a_stage_that_is_not_searched_some_are_drawn(fixed, monkeypatch):
    monkeypatch.setattr("spaceevo.space.space.MOST_CHOICES", 5)
    students, teachers = fixed
    table = measure_block_losses(students, teachers, COSTS, pictures(8, 12), pictures(8, 12), samples=3, seed=0)
    assert set(table[table["stage"] == "second"].groupby(["resolution", "in_width"]).size()) == {3}


def test_a_teacher_learns(task, monkeypatch):
    space = Space(HYPERSPACE, (1, 2), (1, 0))
    monkeypatch.setattr("spaceevo.nn.teacher.parse_space", lambda code: space)
    teacher = SubnetTeacher("small-12-10", HYPERSPACE, 4, GRID)
    initialise(teacher, torch.Generator().manual_seed(0))
    sizes = set()
    teacher.register_forward_pre_hook(lambda module, args: sizes.add(args[0].shape[-1]))
    recipe = RECIPE.model_copy(update={"epochs": 15})
    train_teacher(teacher, (8, 12), 0.05, recipe, task, Record({}), Accelerator(cpu=True))
    x, y = materialise(task.split, 12)
    assert sizes == {8, 12} and not teacher.training
    teachers = teachers_at(teacher, (8, 12), task.split, 64, 0)
    accuracy = teacher_accuracy(teachers, task.split, 0)
    assert accuracy.images == len(task.split)
    with torch.no_grad():
        for resolution, own in teachers.items():
            right = float((own(resize(x, resolution)).argmax(1) == y).double().mean())
            assert accuracy.shares[resolution] == pytest.approx(right) and right > 0.9


def test_the_accuracy_of_a_teacher_is_of_each_resolution_and_of_few_pictures_of_a_large_split(monkeypatch):
    """Teachers that say one class for all pictures: right as often as it occurs."""

    class Says(torch.nn.Module):
        def __init__(self, label):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.eye(4)[label])

        def forward(self, x):
            return self.logits.expand(len(x), 4)

    split = made_split(402)
    counts = np.bincount(split.labels, minlength=4) / len(split)
    assert counts[1] > counts[3]
    monkeypatch.setattr("spaceevo.train.teacher.EVALUATION_BATCH", 30)
    accuracy = teacher_accuracy({8: Says(1), 12: Says(3)}, split, 0)
    assert accuracy == TeacherAccuracy({8: pytest.approx(counts[1]), 12: pytest.approx(counts[3])}, 402)
    monkeypatch.setattr("spaceevo.train.teacher.ACCURACY_IMAGES", 100)
    assert teacher_accuracy({8: Says(0)}, split, 0).images == 100


def test_a_resolution_costs_what_the_teacher_errs_more_often_there():
    right = {16: 0.8, 24: 0.95, 32: 0.9}
    costs = resolution_costs(TeacherAccuracy(right, 10_000))
    assert costs[32] == 0 and costs[24] == 0  # right more often than at the largest
    odds = [(1 - right[resolution]) / right[resolution] for resolution in (16, 32)]
    assert costs[16] == pytest.approx(np.log(odds[0] / odds[1]) / LOG_ODDS_PER_LOSS, rel=0.01)
    assert 0 < resolution_costs(TeacherAccuracy({16: 0.9, 32: 1.0}, 100))[16] < np.inf
