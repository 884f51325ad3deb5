"""Two processes that share each batch train as one does that has all of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from made import made_split
from torch import nn

from spaceevo.artifacts import Record, read_tensors
from spaceevo.config import Recipe
from spaceevo.errors import TrainingError
from spaceevo.train.loop import Task, train
from spaceevo.train.state import CHECKPOINT_KIND

RECIPE = Recipe(epochs=1, batch_size=16, learning_rate=0.1)
SCRIPT = Path(__file__).with_name("sharing.py")


def launch(folder: Path, processes: int, *launcher: str) -> None:
    folder.mkdir()
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *launcher, str(SCRIPT), str(folder), str(processes)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with the checkpoints of one process and of two."""
    one, two = (tmp_path_factory.mktemp("sharing") / name for name in ("one", "two"))
    launch(one, 1)
    launch(two, 2, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    return one, two


@pytest.mark.parametrize("name", ["supernet.fp32", "supernet.int8", "blocks.fp32", "teacher"])
def test_gradients_of_two_processes_are_those_of_one(checkpoints: tuple[Path, Path], name: str) -> None:
    """Adam's first moment after one step is a tenth of the gradient: statistics, dropout and losses agree too."""
    (one, _), (two, _) = (read_tensors(folder / f"{name}.safetensors", CHECKPOINT_KIND) for folder in checkpoints)
    moments = [key for key in one if key.startswith("optimizer.exp_avg.")]
    assert set(one) == set(two) and len(moments) > 20
    largest = max(float(np.abs(one[key]).max()) for key in moments)
    assert largest > 0
    for key in moments:
        np.testing.assert_allclose(two[key], one[key], rtol=2e-3, atol=2e-5 * largest, err_msg=key)


def test_batches_that_cannot_be_shared_evenly(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)

    class Three:
        num_processes, process_index, is_main_process, device = 3, 0, True, accelerator.device

    task = Task("a net", made_split(), 12, 0, tmp_path / "checkpoint.safetensors")
    with pytest.raises(TrainingError, match="3 processes cannot share batches of 16 evenly"):
        train(nn.Linear(2, 2), lambda step, x, y: iter(()), RECIPE, task, Record({}), Three())
