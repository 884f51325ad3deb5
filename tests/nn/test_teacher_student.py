"""Teachers give the features of every stage; students read them and answer in the teacher's widths."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made import GRID, covering_spaces, jitter_scales, pictures, randomise, small_hyperspace

from spaceevo.config import load_params
from spaceevo.errors import CodeError, ParamsError
from spaceevo.nn.elastic import ElasticBlock
from spaceevo.nn.initialise import initialise
from spaceevo.nn.student import StageStudent, least_squares
from spaceevo.nn.teacher import EfficientNetTeacher, SubnetTeacher, build_teacher
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.quantizers import fp32, int8
from spaceevo.space import BlockChoice, StageOptions, load_hyperspace, parse_space, sample_stage
from spaceevo.train.losses import noise_to_signal
from spaceevo.vision_ops import import_torchvision

ROOT = Path(__file__).parents[2]
TINY = load_hyperspace("tiny")
TEACHER = covering_spaces(TINY, 1)[0].code


@pytest.fixture(scope="module")
def teacher():
    made = build_teacher(TEACHER, TINY, 10, GRID)
    randomise(made, 0)
    return made.eval()


@torch.no_grad()
def test_no_stage_of_the_default_teacher_ends_in_a_relu():
    """Behind one, blocks that end in a ReLU imitate it best, whatever else they are worth."""
    model = load_params(ROOT / "params.yaml").teacher.model
    made = build_teacher(model, TINY, 10, GRID)
    randomise(made, 0)
    features = dict(made.eval().features(pictures(2, 32)))
    assert all(features[stage.name].min() < 0 for stage in TINY.searched_stages)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_an_efficientnet_is_torchvisions(memory_format):
    """Its convolutions are computed by our own."""
    made = build_teacher("efficientnet_b0", load_hyperspace("mobilew"), 10, GRID)
    randomise(made, 0)
    theirs = import_torchvision().models.efficientnet_b0(num_classes=10)
    theirs.load_state_dict(made.model.state_dict())
    x = pictures(2, 64).contiguous(memory_format=memory_format)
    found, expected = made.eval()(x), theirs.eval()(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    own = {type(module).__name__ for module in made.modules() if isinstance(module, torch.nn.Conv2d)}
    assert own == {"_Convolution"}


@torch.no_grad()
def test_features_of_a_space_code(teacher):
    assert isinstance(teacher, SubnetTeacher)
    x = pictures(2, 32)
    features = dict(teacher.features(x))
    assert list(features) == [stage.name for stage in TINY.body] == list(teacher.widths)
    names = [stage.name for stage in TINY.stages]
    for name, y in features.items():
        size = TINY.map_size(names[names.index(name) + 1], 32)
        assert y.shape == (2, teacher.widths[name], size, size)
    largest = parse_space(TEACHER).largest
    assert [choice[-1].width for choice in largest.stages] == list(teacher.widths.values())
    assert teacher(x).shape == (2, 10)


@torch.no_grad()
def test_features_are_steps_on_the_way_to_the_logits(teacher):
    x = pictures(2, 32)
    *_, (_, y) = teacher.features(x)
    for stage in TINY.head:
        y = teacher.network.stages[stage.name](y, fp32)
    assert torch.equal(y, teacher(x))


@torch.no_grad()
def test_features_of_an_efficientnet():
    made = build_teacher("efficientnet_b0", load_hyperspace("mobilew"), 7, GRID).eval()
    assert isinstance(made, EfficientNetTeacher) and made.untrained() is made
    x = pictures(1, 64)
    features = dict(made.features(x))
    assert list(features) == ["first_conv", *(f"stage{i}" for i in range(7))] == list(made.widths)
    assert [y.shape[-1] for y in features.values()] == [32, 32, 16, 8, 4, 4, 2, 2]
    assert [y.shape[1] for y in features.values()] == [32, 16, 24, 40, 80, 112, 192, 320] == list(made.widths.values())
    assert made(x).shape == (1, 7)


@torch.no_grad()
def test_a_pretrained_efficientnet_serves_any_number_of_classes(monkeypatch):
    """ImageNet's weights come with 1000 classes; the stages, which blocks are distilled from, do not depend on them."""
    mobilew = load_hyperspace("mobilew")
    weights = EfficientNetTeacher("efficientnet_b0", mobilew, 1000, pretrained=False).model.state_dict()
    api = import_torchvision().models._api
    monkeypatch.setattr(api.WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: weights)
    made = build_teacher("efficientnet_b0", mobilew, 7, GRID, pretrained=True).eval()
    assert sorted(name for name, _ in made.untrained().named_parameters()) == ["0.bias", "0.weight"]
    assert next(made.untrained().parameters()).data_ptr() == made.model.classifier[-1].weight.data_ptr()
    unchanged = build_teacher("efficientnet_b0", mobilew, 1000, GRID, pretrained=True)
    assert not list(unchanged.untrained().parameters())
    stem = "features.0.0.weight"
    assert torch.equal(made.model.state_dict()[stem], weights[stem])
    assert made(pictures(1, 64)).shape == (1, 7)


@pytest.mark.parametrize(
    ("model", "error", "sentence"),
    [
        ("efficientnet_b0", ParamsError, "efficientnet_b0 has 8 stages, tiny has "),
        ("efficientnet_v2_s", ParamsError, "efficientnet_v2_s has 7 stages, tiny has "),
        ("efficientnet_b99", ParamsError, "efficientnet_b99"),
        ("mobilew-122222-155400", ParamsError, "the stages of mobilew-122222-155400 are not those of tiny"),
        ("tiny-99999999-99999999", CodeError, "tiny-99999999-99999999"),
        ("resnet50", CodeError, "'resnet50'"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(model, error, sentence):
    with pytest.raises(error) as caught:
        build_teacher(model, TINY, 10, GRID)
    assert sentence in str(caught.value)


STUDENTS = [(stage, index) for stage in ("stage1", "stage3") for index in range(len(TINY.block_types))]


@pytest.mark.parametrize(("name", "index"), STUDENTS)
def test_students_answer_in_the_teachers_shape_and_equal_their_extraction(teacher, name, index):
    stage, block_type = TINY.stage(name), TINY.block_types[index]
    before = TINY.body[TINY.body.index(stage) - 1].name
    with torch.no_grad():
        features = dict(teacher.features(pictures(2, 32)))
    student = StageStudent(TINY, stage, block_type, teacher.widths[before], teacher.widths[name]).eval()
    randomise(student, 1)
    options = StageOptions(stage, block_type, stage.widths)
    rng = np.random.default_rng(0)
    choices = [(student.in_widths[pick], options.extreme(pick)) for pick in (0, -1)]
    choices += [(int(rng.choice(student.in_widths)), sample_stage(options, rng)) for _ in range(2)]

    def run(precision, choice):
        return student(features[before], *choice, precision)

    runs = [lambda precision, choice=choice: run(precision, choice) for choice in choices]
    calibrate(student, runs, torch.Generator().manual_seed(0))
    jitter_scales(student, 0)
    with torch.no_grad():
        for in_width, choice in choices:
            plain = student.extract(features[before].shape[1], in_width, choice).eval()
            for precision in (fp32, int8):
                y = run(precision, (in_width, choice))
                assert y.shape == features[name].shape
                last = student.exit(plain(features[before], precision), BlockChoice(1, teacher.widths[name], 0.0))
                assert torch.equal(y, last)
            assert not torch.equal(run(fp32, (in_width, choice)), run(int8, (in_width, choice)))


@torch.no_grad()
def test_least_squares_finds_a_linear_map_and_the_best_one_where_there_is_none():
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 6, 5, 5, generator=generator) * torch.arange(1.0, 7.0).view(-1, 1, 1) for n in (8, 3)]
    true = torch.nn.Conv2d(6, 4, 1)
    for parameter in true.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    readout = least_squares(features, [true(maps) for maps in features])
    assert torch.allclose(readout.weight, true.weight, atol=2e-2) and torch.allclose(readout.bias, true.bias, atol=1e-2)
    noisy = [true(maps) + torch.randn(len(maps), 4, 5, 5, generator=generator) for maps in features]

    def error(projection):
        return sum(float((projection(maps) - y).square().sum()) for maps, y in zip(features, noisy, strict=True))

    best = error(least_squares(features, noisy))
    for _ in range(20):
        other = least_squares(features, noisy)
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        assert error(other) > best


@torch.no_grad()
def test_features_that_never_vary_are_no_harm_to_least_squares():
    features = torch.cat([torch.zeros(4, 2, 3, 3), torch.randn(4, 1, 3, 3)], 1)
    readout = least_squares([features], [2 * features[:, 2:] + 1])
    assert readout(features).allclose(2 * features[:, 2:] + 1, atol=0.02)
    nothing = least_squares([torch.zeros(4, 2, 3, 3)], [torch.ones(4, 1, 3, 3)])
    assert nothing(torch.zeros(1, 2, 3, 3)).allclose(torch.ones(1, 1, 3, 3))


@pytest.mark.parametrize("index", range(len(TINY.block_types)))
@torch.no_grad()
def test_the_exit_starts_better_than_the_channel_means(teacher, index):
    """Whose noise-to-signal ratio is 1; with random weights before it, of the largest choice."""
    features = dict(teacher.features(pictures(32, 32)))
    stage, block_type = TINY.stage("stage1"), TINY.block_types[index]
    student = StageStudent(TINY, stage, block_type, teacher.widths["stage0"], teacher.widths["stage1"]).train()
    initialise(student, torch.Generator().manual_seed(0))
    choice = StageOptions(stage, block_type, stage.widths).extreme(-1)
    student.start_exit(features["stage0"], features["stage1"], choice)
    output = student(features["stage0"], student.in_widths[-1], choice)
    assert float(noise_to_signal(output, features["stage1"])) < 0.9


def test_projections_of_students_stay_in_full_precision():
    hyperspace = small_hyperspace()
    stage = hyperspace.stage("stage1")
    student = StageStudent(hyperspace, stage, hyperspace.block_types[0], 5, 7).eval()
    assert student.in_widths == hyperspace.stages[0].widths
    randomise(student, 0)
    seen = []

    def trace(quantizer, x):
        seen.append(quantizer)
        return x

    choice = StageOptions(stage, hyperspace.block_types[0], stage.widths).extreme(0)
    student(torch.randn(2, 5, 6, 6), 8, choice, trace)
    outer = [module for block in (student.entry, student.exit) for module in block.modules()]
    assert isinstance(student.entry, ElasticBlock) and student.entry_quantizer in seen
    assert not set(seen) & set(outer)
