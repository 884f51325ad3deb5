"""Training the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from spaceevo.artifacts import Record
from spaceevo.config import Recipe
from spaceevo.data.pictures import Pictures
from spaceevo.data.splits import Split
from spaceevo.data.transforms import resize
from spaceevo.nn.layout import images_on
from spaceevo.nn.processes import norms_over_processes
from spaceevo.nn.store import TeacherAccuracy
from spaceevo.nn.teacher import Teacher, Teachers, sharing_weights
from spaceevo.train.evaluate import EVALUATION_BATCH, RECALIBRATION_BATCH, recalibrate, share_right
from spaceevo.train.loop import Part, Task, subnet_rng, train

ACCURACY_IMAGES = 10_000  # at most, that a teacher's accuracy is measured on


def train_teacher(
    teacher: Teacher,
    resolutions: Sequence[int],
    label_smoothing: float,
    recipe: Recipe,
    task: Task,
    record: Record,
    accelerator: Accelerator,
) -> None:
    """Train in place; every step at one of `resolutions`, drawn at random: students ask for features at all of them.

    Processes normalise by the batch they share; each drops out values and blocks of its own share.
    """

    def objective(step: int, x: Tensor, y: Tensor) -> Iterator[Part]:
        resolution = int(subnet_rng(task.seed, step).choice(resolutions))

        def loss() -> Tensor:
            with _dropout_of(task.seed, step, accelerator):
                logits = teacher(resize(x, resolution))
            return F.cross_entropy(logits, y, label_smoothing=label_smoothing)

        yield Part(f"the teacher at {resolution} pixels", teacher, loss)

    with norms_over_processes(teacher):
        train(teacher, objective, recipe, task, record, accelerator)


@contextmanager
def _dropout_of(seed: int, step: int, accelerator: Accelerator) -> Iterator[None]:
    """Seed torch's own generators, which torchvision's networks drop out by, for a step; then they are as before."""
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        rng = np.random.default_rng([seed, step, accelerator.process_index])
        torch.manual_seed(int(rng.integers(2**63)))
        yield


def teachers_at(teacher: Teacher, resolutions: Sequence[int], split: Split, images: int, seed: int) -> Teachers:
    """A trained teacher at each resolution, in eval mode: BatchNorm statistics are those of `images` pictures there."""
    pictures = Pictures.of_split(split, max(resolutions), RECALIBRATION_BATCH, images, seed)
    device = next(teacher.parameters()).device
    teachers = {resolution: sharing_weights(teacher) for resolution in resolutions}
    for resolution, own in teachers.items():
        recalibrate(own, own, (images_on(batch, device) for batch in pictures.batches(resolution)))
    return teachers


@torch.no_grad()
def teacher_accuracy(teachers: Teachers, split: Split, seed: int) -> TeacherAccuracy:
    """How often a teacher is right on a split, or on `ACCURACY_IMAGES` pictures of it, at each of its resolutions."""
    pictures = Pictures.of_split(split, max(teachers), EVALUATION_BATCH, min(len(split), ACCURACY_IMAGES), seed)
    assert pictures.labels is not None
    shares = {}
    for resolution, teacher in teachers.items():
        device = next(teacher.parameters()).device
        logits = [teacher(images_on(batch, device)).cpu() for batch in pictures.batches(resolution)]
        shares[resolution] = share_right(torch.cat(logits), pictures.labels)
    return TeacherAccuracy(shares, len(pictures.labels))
