"""Training a teacher resumes exactly, with whatever its network drops out, and is the same in several processes."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from made import GRID, made_split
from torch import nn

from spaceevo.artifacts import Record
from spaceevo.config import Recipe
from spaceevo.nn.initialise import initialise
from spaceevo.nn.teacher import build_teacher
from spaceevo.space import load_hyperspace
from spaceevo.train.evaluate import recalibrate
from spaceevo.train.loop import Task, finish
from spaceevo.train.teacher import train_teacher

RECIPE = Recipe(epochs=1, batch_size=16, learning_rate=0.01)  # 4 steps


class KilledError(Exception):
    """Stands for a kill."""


def made_teacher() -> nn.Module:
    teacher = build_teacher("efficientnet_b0", load_hyperspace("mobilew"), 4, GRID)
    initialise(teacher.untrained(), torch.Generator().manual_seed(0))
    return teacher


def same(first: nn.Module, second: nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_an_efficientnet_that_is_killed_ends_with_the_same_weights(tmp_path):
    """It drops out blocks and values by torch's own generator, which is in another state after the kill."""
    task = Task("teacher", made_split(), 32, 3, tmp_path / "checkpoint.safetensors", checkpoint_steps=1)

    def run(teacher, seed=3):
        accelerator = Accelerator(cpu=True)
        train_teacher(teacher, [32], 0.1, RECIPE, replace(task, seed=seed), Record({}), accelerator)

    def kill_at(passes):
        def count(module, args):
            nonlocal passes
            passes -= 1
            if passes < 0:
                raise KilledError

        return count

    whole, killed, resumed, other = (made_teacher() for _ in range(4))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        run(whole)
        assert torch.equal(torch.get_rng_state(), before)
        finish(task)
        killed.register_forward_pre_hook(kill_at(2))
        with pytest.raises(KilledError):
            run(killed)
        torch.manual_seed(2)
        run(resumed)
        assert same(whole, resumed)
        finish(task)
        run(other, seed=4)
        assert not same(whole, other)


def test_statistics_are_those_of_the_network_with_nothing_dropped_out():
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    once, again = made_teacher(), made_teacher()
    for seed, teacher in enumerate((once, again)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            recalibrate(teacher, teacher, x.split(4))
    assert same(once, again)
    last = once.model.features[-1][1]
    assert float(last.running_var.min()) > 0 and not once.training
