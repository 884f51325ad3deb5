"""Recalibration is the plain average of batch statistics; evaluation counts right answers."""

import pytest
import torch
from made import pictures, random_subnets, random_supernet, small_hyperspace
from torch import nn

from spaceevo.quant.quantizers import fp32, int8
from spaceevo.search.evaluator import RECALIBRATION_BATCH, SubnetEvaluator
from spaceevo.space import Space
from spaceevo.train.evaluate import EVALUATION_BATCH, accuracy, logits, recalibrate


@pytest.fixture(scope="module")
def supernet():
    space = Space(small_hyperspace(), (0, 2), (1, 0))
    return random_supernet(space, 0, pictures(8, 12), [space.largest, space.smallest], num_classes=4)


def norms(module):
    return [submodule for submodule in module.modules() if isinstance(submodule, nn.BatchNorm2d)]


def test_every_batch_counts_the_same():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    net[1].running_mean.fill_(99.0)  # what was there before does not count
    net[1].momentum = 0.1
    batches = [3 * pictures(4, 9, seed) + seed for seed in range(7)]
    recalibrate(net, net, batches)
    with torch.no_grad():
        maps = [net[0](batch) for batch in batches]
    mean = torch.stack([y.mean((0, 2, 3)) for y in maps]).mean(0)
    variance = torch.stack([y.var((0, 2, 3)) for y in maps]).mean(0)
    assert torch.allclose(net[1].running_mean, mean, rtol=1e-5)
    assert torch.allclose(net[1].running_var, variance, rtol=1e-5)
    assert int(net[1].num_batches_tracked) == 7 and not net.training


def test_it_changes_statistics_alone_and_may_be_repeated(supernet):
    network = supernet.extract(supernet.space.largest)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = pictures(16, 12)
    recalibrate(network, lambda batch: network(batch, int8), x.split(8))
    once = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name, tensor in once.items():
        assert torch.equal(tensor, before[name]) != ("running" in name or "num_batches" in name), name
    recalibrate(network, lambda batch: network(batch, int8), x.split(8))
    assert all(torch.equal(tensor, once[name]) for name, tensor in network.state_dict().items())


def test_on_one_batch_evaluation_equals_training(supernet):
    """With its own statistics, and with the biased variance that training normalises by."""
    network = supernet.extract(supernet.space.largest)
    x = pictures(256, 12)
    recalibrate(network, lambda batch: network(batch, fp32), [x])
    with torch.no_grad():
        evaluated = network(x, fp32)
        trained = network.train()(x, fp32)
    assert torch.allclose(evaluated, trained, rtol=0.02, atol=0.02 * float(trained.abs().max()))


def test_logits_are_computed_in_batches(supernet):
    network = supernet.extract(supernet.space.smallest)
    x = pictures(EVALUATION_BATCH + 7, 8)
    sizes = []
    network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = logits(network, x, int8)
    assert sizes == [EVALUATION_BATCH, 7] and found.shape == (len(x), 4) and not found.requires_grad
    with torch.no_grad():
        assert torch.allclose(found, network(x), atol=1e-5)


def test_accuracy_is_the_share_of_right_answers(supernet):
    network = supernet.extract(supernet.space.smallest)
    x = pictures(40, 8)
    right = logits(network, x, int8).argmax(1)
    wrong = (right + 1) % 4
    assert accuracy(network, x, right, int8) == 1
    assert accuracy(network, x, wrong, int8) == 0
    assert accuracy(network, x, torch.cat([right[:10], wrong[10:]]), int8) == 0.25


@pytest.mark.parametrize(("precision", "tolerance"), [(fp32, 0.0), (int8, 0.15)])
def test_an_evaluator_recalibrates_what_it_extracts(supernet, precision, tolerance):
    """In INT8, another order of summation moves a value by a step here or there."""
    train_images, images = pictures(RECALIBRATION_BATCH + 8, 12, 1), pictures(20, 12, 2)
    labels = torch.arange(20) % 4
    evaluator = SubnetEvaluator(supernet, train_images, images, labels)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    for subnet in random_subnets(supernet.space, 4, 0):
        network = supernet.extract(subnet)
        batches = train_images.tensor_split(2)
        recalibrate(network, lambda batch, network=network: network(batch, precision), batches)
        expected = accuracy(network, images, labels, precision)
        assert evaluator.accuracy(subnet, precision) == pytest.approx(expected, abs=tolerance + 1e-9)
        found = norms(evaluator.network(subnet, precision))
        for norm, other in zip(found, norms(network), strict=True):
            assert torch.allclose(norm.running_mean, other.running_mean, atol=1e-5 + 0.1 * tolerance)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
