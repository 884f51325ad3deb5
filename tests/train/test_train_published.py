"""Importing a published checkpoint: what its supernet computes, in FP32 and in INT8, and where its grids come from."""

import pytest
import torch
from made import GRID, covering_spaces, made_split, random_subnets, randomise
from published import published_state, save

from spaceevo.data.loader import materialise
from spaceevo.errors import CheckpointError, DataError
from spaceevo.nn.published import published_name
from spaceevo.nn.published_grids import tensor_readers
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizers import ActivationQuantizer, WeightQuantizer, int8
from spaceevo.space import load_hyperspace
from spaceevo.train.published import (
    CALIBRATED,
    CONVERTED,
    REPLACED,
    UNSEEN,
    image_spec,
    import_fp32,
    import_int8,
    open_checkpoint,
    open_pictures,
)

SPACE = covering_spaces(load_hyperspace("tiny"), 1)[0]
CLASSES = 4
SPLIT = made_split(64, 32, CLASSES)
NOISE = 0.4  # of INT8 in a network of random weights; without grids it is 1 and more


@pytest.fixture(scope="module")
def trained():
    supernet = Supernet(SPACE, CLASSES, GRID).train()
    randomise(supernet, 0)
    return supernet


@pytest.fixture(scope="module")
def state(trained):
    """A checkpoint whose grids cover what they are for."""
    x, _ = materialise(SPLIT, 32)
    return published_state(trained, x, [SPACE.largest, SPACE.smallest, *random_subnets(SPACE, 30, 0)])


def opened(state, folder):
    return open_checkpoint(save(state, folder / "lsq.pth"), SPACE)


def imported(state, folder, batches=2):
    checkpoint = opened(state, folder)
    return import_int8(checkpoint, image_spec(checkpoint, SPLIT), SPLIT, 32, batches, 0)


def error(supernet, trained):
    """Mean relative error of the INT8 logits against the FP32 logits of the network the checkpoint is of."""
    x, _ = materialise(SPLIT, 32)
    supernet.train()
    with torch.no_grad():
        pairs = [(supernet(x, subnet, int8), trained(x, subnet)) for subnet in random_subnets(SPACE, 6, 1)]
    supernet.eval()
    return sum(float((found - expected).norm() / expected.norm()) for found, expected in pairs) / len(pairs)


def test_an_fp32_supernet_computes_what_the_checkpoint_does(state, trained, tmp_path):
    checkpoint = opened(state, tmp_path)
    supernet = import_fp32(checkpoint, image_spec(checkpoint, None))
    assert not supernet.training
    x, _ = materialise(SPLIT, 32)
    trained.eval()
    for subnet in random_subnets(SPACE, 3, 0):
        assert torch.equal(supernet(x, subnet), trained(x, subnet))
    trained.train()
    scales = [module.log_scale for module in supernet.modules() if isinstance(module, WeightQuantizer)]
    assert not any(scale.any() for scale in scales)
    assert error(supernet, trained) > 2 * NOISE


def test_grids_are_converted_where_they_carry_over_and_calibrated_elsewhere(state, trained, tmp_path):
    supernet, origins = imported(state, tmp_path)
    assert not supernet.training
    readers = tensor_readers(SPACE, CLASSES)
    quantizers = {name: module for name, module in supernet.named_modules() if isinstance(module, ActivationQuantizer)}
    assert origins.activations.keys() == quantizers.keys()
    for name, origin in origins.activations.items():
        layers = readers.get(name, set())
        if origin == CONVERTED:
            assert layers and None not in layers
            low, high = _published_range(state, layers)
            grid = quantizers[name].grid()
            assert -grid.zero_point * grid.scale == pytest.approx(min(low, 0), abs=0.51 * grid.scale + 0.06 * high)
            assert (255 - grid.zero_point) * grid.scale == pytest.approx(high, rel=0.06)
        elif origin == CALIBRATED:
            assert not layers or None in layers or len(layers) > 1
    counts = origins.counts()["activations"]
    assert counts[CONVERTED] > 20 and counts[CALIBRATED] > 20 and UNSEEN not in counts
    assert counts.get(REPLACED, 0) <= 3
    assert set(origins.weights.values()) == {CONVERTED}
    assert error(supernet, trained) < NOISE


def _published_range(state, layers):
    names = [published_name(f"{layer}.weight").removesuffix("weight") for layer in layers]
    lows = [float(state[f"{name}beta"]) for name in names]
    highs = [float(state[f"{name}beta"] + 255 * state[f"{name}sa"]) for name in names]
    return sum(lows) / len(lows), sum(highs) / len(highs)


def test_an_fp32_checkpoint_is_calibrated_as_a_whole(trained, tmp_path):
    plain = published_state(trained)
    untouched = {name: torch.tensor([value]) for name, value in _fresh(plain).items()}
    for content in (plain, plain | untouched):
        supernet, origins = imported(content, tmp_path)
        assert set(origins.weights.values()) | set(origins.activations.values()) == {CALIBRATED}
        assert error(supernet, trained) < NOISE


def _fresh(state):
    """Quantizers as they are before their first use."""
    layers = [
        name.removesuffix("weight") for name, value in state.items() if name.endswith(".weight") and value.dim() > 1
    ]
    return {layer + leaf: value for layer in layers for leaf, value in (("sw", 1.0), ("sa", 1.0), ("beta", 0.0))}


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_grids_that_do_not_cover_their_tensors_are_replaced(state, trained, tmp_path, factor):
    wrong = {name: value * factor if name.endswith((".sw", ".sa", ".beta")) else value for name, value in state.items()}
    supernet, origins = imported(wrong, tmp_path)
    counts = origins.counts()
    assert counts["weights"] == {REPLACED: len(origins.weights)}
    assert counts["activations"][REPLACED] > 20
    assert counts["activations"].get(CONVERTED, 0) <= 2
    assert error(supernet, trained) < NOISE


def test_the_same_seed_gives_the_same_supernet(state, tmp_path):
    (first, _), (second, _) = imported(state, tmp_path), imported(state, tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_class_names_come_from_a_file_the_pictures_or_numbers(state, tmp_path):
    checkpoint = opened(state, tmp_path)
    assert image_spec(checkpoint, None).classes == ("0", "1", "2", "3")
    assert image_spec(checkpoint, None).mean == (0.485, 0.456, 0.406)
    assert image_spec(checkpoint, None, mean=(0.5,) * 3).mean == (0.5,) * 3
    spec = image_spec(checkpoint, SPLIT)
    assert (spec.classes, spec.mean, spec.std) == (SPLIT.classes, SPLIT.mean, SPLIT.std)
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\n\ncat\n dog \n")
    assert image_spec(checkpoint, SPLIT, names).classes == ("ant", "bee", "cat", "dog")
    names.write_text("ant\nbee\n")
    with pytest.raises(CheckpointError, match=r"lsq\.pth tells 4 classes apart and .*names\.txt has 2"):
        image_spec(checkpoint, None, names)
    with pytest.raises(CheckpointError, match="tells 4 classes apart and the set of pictures has 3"):
        image_spec(checkpoint, made_split(12, 12, 3))
    with pytest.raises(CheckpointError, match=r"lost\.txt cannot be read"):
        image_spec(checkpoint, None, tmp_path / "lost.txt")


def test_pictures_are_a_folder_or_a_split(tmp_path):
    from PIL import Image

    for name in ("train/bee", "train/ant", "val/bee"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    split = open_pictures(tmp_path, mean=(0.5,) * 3)
    assert (split.classes, len(split), split.mean, split.std) == (("ant", "bee"), 2, (0.5,) * 3, (0.229, 0.224, 0.225))
    assert split.fetch([0, 1], 8).shape == (2, 3, 8, 8)
    assert len(open_pictures(tmp_path / "train")) == 2
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "b").mkdir()
    with pytest.raises(DataError, match=r"No images in the class folders of .*empty"):
        open_pictures(tmp_path / "empty")
    with pytest.raises(DataError, match=r"lost.* is no split"):
        open_pictures(tmp_path / "lost")
