"""Networks as artifacts: what is read computes what was written, and a wrong file is an error that names it."""

import pytest
import torch
from made import (
    GRID,
    covering_spaces,
    is_quantized,
    made_split,
    pictures,
    random_subnets,
    random_supernet,
    randomise,
    small_hyperspace,
)
from torch import nn

from spaceevo.artifacts import Record, read_header
from spaceevo.errors import ArtifactError
from spaceevo.nn.store import (
    STUDENT_KIND,
    SUPERNET_KIND,
    ImageSpec,
    TeacherAccuracy,
    load_seqnet,
    load_supernet,
    load_teachers,
    load_weights,
    read_teacher_accuracy,
    write_module,
    write_seqnet,
    write_supernet,
    write_teacher,
)
from spaceevo.nn.student import StageStudent
from spaceevo.nn.teacher import build_teacher, sharing_weights
from spaceevo.quant.grids import image_grid
from spaceevo.quant.quantizers import int8
from spaceevo.space import load_hyperspace

SPEC = ImageSpec(("cat", "dog", "owl"), (0.5,) * 3, (0.25,) * 3)
TEACHER = covering_spaces(load_hyperspace("tiny"), 1)[0].code


@pytest.fixture(scope="module")
def supernet():
    space = covering_spaces(load_hyperspace("tiny"), 1)[0]
    return random_supernet(space, 0, pictures(4, 32), [space.largest, space.smallest], num_classes=3)


def test_image_specs_are_those_of_splits():
    split = made_split()
    spec = ImageSpec.of(split)
    assert (spec.classes, spec.mean, spec.std) == (split.classes, split.mean, split.std)
    assert spec.grid == image_grid(spec.mean, spec.std) == GRID


@torch.no_grad()
def test_a_supernet_round_trips(tmp_path, supernet):
    path = tmp_path / "supernet.safetensors"
    write_supernet(path, supernet, SPEC, Record({"a": 1}, 3))
    read, spec = load_supernet(path)
    assert spec == SPEC and not read.training and read.space == supernet.space
    for subnet in random_subnets(supernet.space, 3, 0):
        assert torch.equal(read(pictures(2, 32), subnet, int8), supernet(pictures(2, 32), subnet, int8))
    header = read_header(path)
    assert (header["kind"], header["params"], header["seed"]) == (SUPERNET_KIND, {"a": 1}, 3)


@torch.no_grad()
def test_a_seqnet_round_trips(tmp_path, supernet):
    network = supernet.extract(random_subnets(supernet.space, 1, 5)[0])
    path = tmp_path / "seqnet.safetensors"
    write_seqnet(path, network, SPEC, Record({}))
    read, spec = load_seqnet(path)
    assert spec == SPEC and not read.training and read.subnet == network.subnet
    assert torch.equal(read(pictures(2, 32)), network(pictures(2, 32)))
    assert is_quantized(read, pictures(2, 32))


@torch.no_grad()
def test_a_teacher_round_trips(tmp_path):
    hyperspace = load_hyperspace("tiny")
    teacher = build_teacher(TEACHER, hyperspace, 3, GRID).eval()
    randomise(teacher, 0)
    teachers = {16: teacher, 32: sharing_weights(teacher)}
    for norm in teachers[32].modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.mul_(2)
    path = tmp_path / "teacher.safetensors"
    accuracy = TeacherAccuracy({16: 0.8, 32: 0.9}, 50)
    write_teacher(path, teachers, TEACHER, hyperspace, SPEC, accuracy, Record({}))
    read, spec = load_teachers(path)
    assert read_teacher_accuracy(path) == accuracy
    assert spec == SPEC and list(read) == [16, 32]
    x = pictures(2, 24)
    assert not torch.equal(teachers[16](x), teachers[32](x))
    for resolution, own in read.items():
        assert not own.training and torch.equal(own(x), teachers[resolution](x))
    weights = [list(own.parameters()) for own in read.values()]
    assert all(first is second for first, second in zip(*weights, strict=True))


def test_a_teacher_that_does_not_say_how_often_it_is_right(tmp_path):
    path = tmp_path / "teacher.safetensors"
    write_module(path, "teacher", nn.Linear(2, 2), {}, SPEC, Record({}))
    with pytest.raises(ArtifactError, match="does not say how often the teacher is right"):
        read_teacher_accuracy(path)


def test_a_teacher_of_another_shape_is_refused(tmp_path):
    hyperspace = load_hyperspace("tiny")
    path = tmp_path / "teacher.safetensors"
    teachers = {16: build_teacher(TEACHER, hyperspace, 4, GRID)}
    write_teacher(path, teachers, TEACHER, hyperspace, SPEC, TeacherAccuracy({16: 0.8}, 50), Record({}))
    with pytest.raises(ArtifactError, match="does not fit the network"):
        load_teachers(path)


def test_weights_of_another_shape_are_refused(tmp_path):
    hyperspace = small_hyperspace()
    stage = hyperspace.stage("stage1")
    written, wider, other = (
        StageStudent(hyperspace, stage, hyperspace.block_types[index], 5, width)
        for index, width in ((0, 7), (0, 8), (1, 7))
    )
    path = tmp_path / "stage1_0.safetensors"
    write_module(path, STUDENT_KIND, written, {}, SPEC, Record({}))
    load_weights(path, STUDENT_KIND, written)
    for module in (wider, other):
        with pytest.raises(ArtifactError) as caught:
            load_weights(path, STUDENT_KIND, module)
        assert str(path) in str(caught.value) and "does not fit" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path, supernet):
    path = tmp_path / "supernet.safetensors"
    write_supernet(path, supernet, SPEC, Record({}))
    for load, kind in ((load_seqnet, "seqnet"), (load_teachers, "teacher")):
        with pytest.raises(ArtifactError, match=f"supernet.safetensors is a supernet, where a {kind} is needed"):
            load(path)
    with pytest.raises(ArtifactError, match=r"lost.safetensors does not exist"):
        load_supernet(tmp_path / "lost.safetensors")
