"""Elastic stages equal what is extracted from them, bit for bit, and train what a choice uses and nothing else."""

from itertools import product

import numpy as np
import pytest
import torch
from made import jitter_scales, randomise

from spaceevo.nn.blocks import BLOCKS
from spaceevo.nn.elastic import ElasticNorm, ElasticStage
from spaceevo.nn.plan import Conv, Linear
from spaceevo.quant.calibrate import calibrate
from spaceevo.quant.quantizers import ActivationQuantizer, fp32, int8
from spaceevo.space import BlockChoice, BlockType, Stage, StageOptions, sample_stage

IN_WIDTHS, WIDTHS = (8, 16, 24), (16, 24, 32)
ACTIVATION = {"mobilenetv1_dual": None, "linear": None}
ACTIVATIONS = ("relu", "relu6", "swish", "hswish")


def made_stage(block: str, stride: int, activation: str | None, depth: int = 3) -> tuple[ElasticStage, StageOptions]:
    """A calibrated stage with random parameters, in eval mode, and its choices."""
    expands = (0.5, 1.0) if block.startswith("resnet") else (1.0, 2.0, 3.0)
    block_type = BlockType(block, (3, 5, 7), expands, activation)
    stage = ElasticStage(block_type, IN_WIDTHS, WIDTHS, depth, stride).eval()
    options = StageOptions(Stage("made", WIDTHS, tuple(range(1, depth + 1)), stride, 3), block_type, WIDTHS)
    randomise(stage, 0)
    calibrate(stage, runs(stage, options, block), torch.Generator().manual_seed(0))
    jitter_scales(stage, 0)
    return stage, options


def features(channels: int, block: str, seed: int = 0) -> torch.Tensor:
    """A batch of maps of odd size, on a grid as they are inside a network."""
    size = 1 if block == "linear" else 9
    x = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return (x * 20).round() / 20


def runs(stage: ElasticStage, options: StageOptions, block: str):
    rng = np.random.default_rng(1)
    choices = [options.extreme(-1), options.extreme(0), *(sample_stage(options, rng, depth=3) for _ in range(3))]
    for x in [features(width, block) for width in IN_WIDTHS]:
        for choice in choices:
            yield lambda precision, x=x, choice=choice: stage(x, choice, precision)


def cases():
    for block in BLOCKS:
        for stride in (1, 2):
            if block != "linear" or stride == 1:
                for activation in (ACTIVATION[block],) if block in ACTIVATION else ACTIVATIONS:
                    yield block, stride, activation


@pytest.mark.parametrize(("block", "stride", "activation"), list(cases()))
def test_a_stage_equals_what_is_extracted(block, stride, activation):
    """At the first position with every arriving width, at later ones, and where shortcuts are the input itself."""
    stage, options = made_stage(block, stride, activation)
    rng = np.random.default_rng(0)
    identity = tuple(BlockChoice(5, 24, expand) for expand in (1.0, 1.0, 1.0))
    for depth, in_width, fixed in [(1, 8, None), (1, 16, None), (2, 24, None), (3, 8, None), (3, 24, identity)]:
        choice = fixed or sample_stage(options, rng, depth=depth)
        x = features(in_width, block, depth)
        plain = stage.extract(in_width, choice)
        assert not plain.training and len(plain) == depth
        with torch.no_grad():
            for precision in (fp32, int8):
                assert torch.equal(stage(x, choice, precision), plain(x, precision))
            assert not torch.equal(plain(x, fp32), plain(x, int8))
        assert torch.equal(stage(x, choice, int8), plain(x, int8))  # as it is trained, with gradients


@pytest.mark.parametrize("widths", [(8, 12, 16), (24,), (8,)], ids=str)
@pytest.mark.parametrize("in_widths", [(16,), (8, 16, 24)], ids=str)
@pytest.mark.parametrize("block", [block for block in BLOCKS if block != "linear"])
@torch.no_grad()
def test_every_choice_finds_its_layers(block, in_widths, widths):
    """Where the largest choices have no shortcut, or nothing to expand, others of few widths may have."""
    expands = (0.5, 0.75, 1.0) if block.startswith("resnet") else (1.0, 1.5, 2.0)
    block_type = BlockType(block, (3, 5), expands, ACTIVATION.get(block, "relu6"))
    stage = ElasticStage(block_type, in_widths, widths, 1, 1).eval()
    randomise(stage, 0)
    for in_width, width, kernel, expand in product(in_widths, widths, (3, 5), expands):
        choice, x = (BlockChoice(kernel, width, expand),), features(in_width, block)
        assert torch.equal(stage(x, choice), stage.extract(in_width, choice)(x, fp32))


@pytest.mark.parametrize("precision", [fp32, int8])
@pytest.mark.parametrize("block", BLOCKS)
def test_they_are_equal_in_training_mode(block, precision):
    """Both normalise by the batch; the elastic stage leaves its statistics alone."""
    stage, options = made_stage(block, 1, ACTIVATION.get(block, "swish"))
    stage.train()
    choice = sample_stage(options, np.random.default_rng(0), depth=2)
    before = {name: buffer.clone() for name, buffer in stage.named_buffers()}
    plain = stage.extract(16, choice)
    assert plain.training
    x = features(16, block)
    assert torch.equal(stage(x, choice, precision), plain(x, precision))
    assert all(torch.equal(buffer, before[name]) for name, buffer in stage.named_buffers())


def used_parts(stage: ElasticStage, in_width: int, choice, height: int) -> dict[str, tuple[slice, ...]]:
    """The part of each parameter that a choice uses, by name, as the plans of its blocks say."""
    parts = {}
    for index, block_choice in enumerate(choice):
        block = stage.blocks[index]
        plan = block.plan(in_width, block_choice).without_unit_pools(height)
        height = plan.shapes(height)[plan.output].height
        in_width = block_choice.width
        for op in plan.ops:
            if isinstance(op, Conv | Linear):
                prefix = f"blocks.{index}.convs.{op.weight}"
                out = slice(0, op.out_channels)
                if isinstance(op, Conv):
                    margin = (block.convs[op.weight].weight.shape[-1] - op.kernel_size) // 2
                    crop = slice(margin, margin + op.kernel_size)
                    parts[f"{prefix}.weight"] = (out, slice(0, op.in_channels // op.groups), crop, crop)
                    if op.norm:
                        for leaf in ("weight", "bias"):
                            parts[f"blocks.{index}.norms.{op.norm}.{leaf}"] = (out,)
                else:
                    parts[f"{prefix}.weight"] = (out, slice(0, op.in_channels))
                parts[f"{prefix}.quantizer.log_scale"] = (out,)
                if isinstance(op, Linear) or op.bias:
                    parts[f"{prefix}.bias"] = (out,)
        outputs = {op.output for op in plan.ops}
        for tensor, quantizer in block.quantizers.items():
            if tensor.removesuffix("_pre") in outputs and isinstance(quantizer, ActivationQuantizer):
                for leaf, _ in quantizer.named_parameters():
                    parts[f"blocks.{index}.quantizers.{tensor}.{leaf}"] = ()
    return parts


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_flow_to_what_a_choice_uses_and_to_nothing_else(block):
    stage, options = made_stage(block, 1, ACTIVATION.get(block, "swish"))
    stage.train()
    rng = np.random.default_rng(0)
    for choice in (options.extreme(0)[:1] * 2, sample_stage(options, rng, depth=2), options.extreme(-1)):
        stage.zero_grad(set_to_none=True)
        output = stage(features(16, block), choice, int8)
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        inputs = features(16, block)
        parts = used_parts(stage, 16, choice, inputs.shape[-1])
        for name, parameter in stage.named_parameters():
            if name not in parts:
                assert parameter.grad is None, name
                continue
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            outside = torch.ones_like(parameter, dtype=torch.bool)
            outside[parts[name]] = False
            assert not parameter.grad[outside].any(), name
            if "offset" not in name:  # offsets move only where a grid clips
                share = 0.0 if "se_" in name else 0.3  # on 1×1 maps, a rectifier is often off for the whole batch
                assert parameter.grad[~outside].count_nonzero() > share * int((~outside).sum()), name


def test_fewer_kernels_and_channels_are_the_centre_and_the_first():
    stage, _ = made_stage("conv_bn_act", 1, "relu", depth=3)
    weight = stage.blocks[0].convs["conv"].weight
    plain = stage.extract(8, (BlockChoice(3, 16, 1.0),))
    assert weight.shape == (32, 24, 7, 7)
    assert torch.equal(plain[0].convs["conv"].weight, weight[:16, :8, 2:5, 2:5])


def test_extraction_copies():
    """An extracted network can be changed without changing the supernet."""
    stage, options = made_stage("mobilenetv3_res", 1, "swish")
    before = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    plain = stage.extract(8, options.extreme(-1))
    with torch.no_grad():
        for tensor in plain.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.state_dict().items())


def test_elastic_norms_normalise_by_the_batch_in_training():
    norm = ElasticNorm(4)
    x = 3 + 2 * torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    y = norm.train()(x)
    assert y.mean((0, 2, 3)).abs().max() < 1e-5 and (y.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
    assert torch.allclose(norm.eval()(x), x / (1 + 1e-5) ** 0.5)
