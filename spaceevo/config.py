"""params.yaml, typed: every knob, its range and its unit. Functions take the sections they depend on as arguments.

Unknown keys, wrong types and impossible values are a `ParamsError` that names the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from spaceevo.errors import ParamsError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]  # BatchNorm has no statistics of one picture


class Section(BaseModel):
    """A section of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClutterOptions(Section):
    """The pictures of the embedded dataset `clutter`, and how hard they are."""

    image_size: Annotated[int, Field(ge=16)] = Field(32, description="side of the canvas, pixels")
    train_images: Annotated[int, Field(ge=10)] = Field(12_000, description="images of the training split")
    val_images: Annotated[int, Field(ge=10)] = Field(1_500, description="images of the validation split")
    test_images: Annotated[int, Field(ge=10)] = Field(1_500, description="images of the test split")
    strokes: Literal["scanned", "drawn"] = Field(
        "scanned",
        description="of the digits: those of 1,797 scans, which the splits share out, or drawn anew for each picture",
    )
    shake: Annotated[float, Field(ge=0, le=0.2)] = Field(
        0.1, description="drawn: how far each point of a stroke is off at most, share of the digit's side"
    )
    digits: Positive = Field(1, description="whole digits side by side; the first from the left is the class")
    fragments: Annotated[int, Field(ge=0)] = Field(1, description="pieces of other digits on each canvas")
    min_scale: Annotated[float, Field(gt=0, le=1)] = Field(0.75, description="smallest digit, share of the side")
    max_scale: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="largest digit, share of the side")
    max_rotation_deg: Annotated[float, Field(ge=0, lt=90)] = Field(10.0, description="largest rotation, degrees")
    noise: Annotated[int, Field(ge=0, le=255)] = Field(12, description="noise amplitude, of 255")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError("min_scale is above max_scale")
        if self.digits * self.max_scale > 1:
            raise ValueError(f"max_scale is above 1 / {self.digits}, the share that each of {self.digits} digits has")
        return self


class Dataset(Section):
    """Which pictures to learn from."""

    name: Literal["clutter", "imagefolder", "cifar10", "cifar100"] = Field(
        "clutter", description="where the pictures come from"
    )
    root: str | None = Field(None, description="folder of an imagefolder or CIFAR dataset")
    download: bool = Field(False, description="CIFAR: fetch missing files")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of val where there is none")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of test where there is none")
    skip_unreadable: bool = Field(False, description="leave out pictures that do not open, and count them")
    copy_side: Positive | None = Field(
        None,
        description="imagefolder: read copies of this shorter side, made once; pixels; null: the pictures as they are",
    )
    clutter: ClutterOptions = ClutterOptions()

    @model_validator(mode="after")
    def _rooted(self) -> Self:
        if self.name != "clutter" and not self.root:
            raise ValueError(f"dataset {self.name} needs root, the folder where its files are")
        return self


class Augment(Section):
    """How training images are varied."""

    horizontal_flip: bool = Field(False, description="mirror every other image at random; not for digits")
    shift: Annotated[int, Field(ge=0)] = Field(0, description="largest shift along each axis, pixels")
    crop_scale: tuple[Share, Share] | None = Field(
        None, description="random crop: smallest and largest share of the area (RandomResizedCrop)"
    )
    colour_jitter: Share = Field(0.0, description="brightness, contrast, saturation: factor 1 plus or minus this")

    @field_validator("crop_scale")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1]:
            raise ValueError("must rise, within 0 to 1")
        return value


class Recipe(Section):
    """How a module is optimised: linear warm-up, cosine decay to zero."""

    optimizer: Literal["adamw", "sgd", "muon"] = Field(
        "adamw", description="sgd: with a Nesterov momentum of 0.9; muon: sgd, with orthogonal steps of weights"
    )
    epochs: Annotated[float, Field(gt=0)] = Field(description="passes over the training split; may be a fraction")
    batch_size: Positive = Field(description="images per step, over all processes together")
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="its peak")
    matrix_share: Annotated[float, Field(gt=0)] = Field(
        0.1, description="muon: of the learning rate, for convolution and linear weights"
    )
    warmup: Share = Field(0.1, description="share of all steps")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="of convolution and linear weights alone")
    clip_norm: Annotated[float, Field(gt=0)] = Field(
        5.0, description="largest norm of the gradient; muon: weights count in it, their steps are of one length"
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of an exponential moving average of the weights, which is the result; 0: none"
    )
    bf16: bool = Field(False, description="on GPUs, convolutions in bfloat16; not for recipes with quantizers")


def _full_precision(recipe: Recipe) -> Recipe:
    if recipe.bf16:
        raise ValueError("quantizers need float32, whose products bf16 would round: set bf16 to false")
    return recipe


FullPrecision = Annotated[Recipe, AfterValidator(_full_precision)]


class TeacherParams(Section):
    """The network whose stages the blocks are distilled from."""

    model: str = Field(description="a space code (its largest subnet) or a torchvision EfficientNet")
    pretrained: bool = Field(False, description="EfficientNet: start from torchvision's ImageNet weights")
    label_smoothing: Share = Field(0.0, description="of its cross-entropy")
    recalibration_images: Several = Field(
        2048, description="that BatchNorm statistics are recomputed on, by resolution"
    )
    recipe: Recipe


class BlocksParams(Section):
    """Block-wise distillation."""

    random_choices: Annotated[int, Field(ge=0)] = Field(description="per step, besides the largest and smallest")
    calibration_batches: Positive = Field(description="that initial grids are fitted to")
    fp32: Recipe
    int8: FullPrecision


class LutParams(Section):
    """The accuracy LUT."""

    published: str | None = Field(
        None, description="folder of a published LUT (CSV) to import; nothing is distilled then"
    )
    samples: Positive = Field(description="per stage, block type, window, arriving width and resolution")
    train_images: Several = Field(description="that BatchNorm and the projection to the teacher are computed on")
    val_images: Positive = Field(description="that losses are measured on")


class ProfileParams(Section):
    """Measuring latency on a device at hand."""

    blocks_per_type: Positive = Field(description="blocks measured of each block type in each stage, at most")
    nets: Positive = Field(description="whole subnets measured to fit the predictor, at most")
    test_nets: Positive = Field(description="whole subnets the predictor is tested on")
    time_limit_s: Annotated[float, Field(gt=0)] = Field(description="where it is short, less is measured, seconds")
    target: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="no more is measured once nine in ten subnets are foreseen within this share; 0: all is"
    )


class StudyParams(Section):
    """Studying which operations and widths are fast on a device at hand."""

    channels: Annotated[int, Field(ge=16, multiple_of=16)] = Field(
        64, description="width of the layers and blocks that are compared"
    )
    height: Annotated[int, Field(ge=7)] = Field(28, description="side of their maps, pixels")
    steps: dict[Positive, tuple[Positive, Positive]] = Field(
        {1: (32, 48), 4: (32, 80), 8: (32, 112), 16: (32, 160), 32: (32, 192), 64: (64, 192)},
        description="by step: smallest and largest of its multiples that is measured as a width",
    )
    time_limit_s: Annotated[float, Field(gt=0)] = Field(
        180.0, description="where it is short, the finest widths are left out, seconds"
    )

    @field_validator("steps")
    @classmethod
    def _some(cls, value: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        if not value:
            raise ValueError("there must be at least one step")
        for step, (low, high) in value.items():
            if high // step * step < low:
                raise ValueError(f"there is no multiple of {step} from {low} to {high}")
        return value

    def widths(self, step: int) -> tuple[int, ...]:
        """The multiples of a step that are measured, ascending."""
        low, high = self.steps[step]
        return tuple(range(-(-low // step) * step, high + 1, step))


class QTSettings(Section):
    """How a space is scored."""

    mode: Literal["consistent", "independent"] = Field(
        "consistent",
        description="count only subnets whose widths agree, or draw stages independently, as the release does",
    )
    samples: Positive = Field(description="subnets drawn per space, in expectation: nothing is sampled")
    top: Positive = Field(50, description="of those within a budget, how many of the least loss count")
    target_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.08, description="t: share within the budget from which on a space is not punished"
    )
    exponent: Annotated[float, Field(ge=0)] = Field(0.01, description="a: how hard it is punished below")
    quality: Literal["inverse", "odds"] = Field(
        "inverse",
        description="what a mean loss q within a budget is worth: 1 / q, as in the release, or odds of being right",
    )
    latency: Literal["predicted", "table"] = Field(
        "predicted", description="latency of stages: by the device's predictor, or as a published LUT lists it"
    )
    fixed_latency_ms: dict[int, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="latency of all that is not searched, by resolution, ms; null: predicted; needed if independent",
    )

    @model_validator(mode="after")
    def _top_of_the_samples(self) -> Self:
        if self.top > self.samples:
            raise ValueError("top is above samples, of which it counts the best")
        return self


def _distinct(values: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not name one twice")
    return values


Distinct = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct)]
Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]


class EvolutionSettings(Section):
    """Size of the evolution of spaces."""

    population: Positive = Field(description="spaces alive at a time; the oldest dies")
    parent_sample: Positive = Field(description="spaces drawn from them, the best of which is mutated")
    evaluations: Positive = Field(description="distinct spaces scored in all")
    leave_out: Names = Field((), description="blocks that no space has, by name")
    exact: bool = Field(False, description="then go on to the best of all spaces, by branch and bound; takes minutes")

    @model_validator(mode="after")
    def _drawn_from_the_population(self) -> Self:
        if self.parent_sample > self.population:
            raise ValueError("parent_sample is above population, from which it is drawn")
        return self


class SpaceParams(Section):
    """Designing the search space."""

    score: QTSettings
    evolution: EvolutionSettings


class Sandwich(Section):
    """Which subnets a training step takes, and how."""

    random_subnets: Annotated[int, Field(ge=0)] = Field(description="besides the largest and the smallest")
    sampling: Literal["uniform", "budgets"] = Field(
        "uniform", description="random subnets: any, or those of a latency near the device's subnet budgets"
    )
    candidates: Annotated[int, Field(ge=2)] = Field(
        8, description="with sampling budgets: subnets drawn, of which the nearest to a random budget is trained"
    )
    largest_alone: Share = Field(0.0, description="share of the FP32 phase that trains the largest alone, first")
    mixed_resolutions: bool = Field(
        False, description="the smallest at any resolution, not at the lowest; the largest, while alone, also at others"
    )
    divergence: Literal["adaptive", "kl"] = Field(
        "adaptive", description="from the largest's classes: adaptive α-divergence, or Kullback and Leibler's"
    )
    label_share: Share = Field(
        0.0, description="of the others' loss: how much of it is cross-entropy of the labels, and not divergence"
    )
    label_smoothing: Share = Field(0.1, description="of every cross-entropy")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="before the largest subnet's last layer")


class CheckpointParams(Section):
    """A published supernet that takes the place of a device's own: neither its space nor its supernet is made here."""

    file: str = Field(description="PyTorch file with its state_dict")
    space: str = Field(description="its space, one of hyperspace: a code, or a name such as spaceevo@pixel4")


class SupernetParams(Section):
    """Training the quantized-for-all supernet."""

    checkpoints: dict[str, CheckpointParams] = Field({}, description="by device: published supernets to import instead")
    sandwich: Sandwich
    calibration_batches: Positive = Field(description="that initial grids are fitted to")
    fp32: Recipe
    int8: FullPrecision


class SubnetSearchSettings(Section):
    """Size of the subnet search."""

    evaluations: Positive = Field(description="subnets evaluated in all, over all budgets")
    initial: Positive = Field(
        description="of these, how many come before children: the ends of the space, then random ones"
    )
    parents: Positive = Field(description="per budget, how many of the best within it have children")
    mutation_probability: Share = Field(description="of each choice of a subnet")

    @model_validator(mode="after")
    def _initial_within_all(self) -> Self:
        if self.initial > self.evaluations:
            raise ValueError("initial is above evaluations, of which it is a part")
        return self


class ShortlistSettings(Section):
    """Who wins the subnet search is decided on more images than it goes through."""

    subnets: int = Field(0, ge=0, description="per budget, how many of the most accurate are judged once more")
    val_images: Positive = Field(10_000, description="that they are judged on; all of val where it has fewer")


class SearchParams(Section):
    """Searching the supernet."""

    settings: SubnetSearchSettings
    recalibration_images: Several = Field(description="that BatchNorm statistics are recomputed on")
    val_images: Positive = Field(description="that accuracy is measured on")
    shortlist: ShortlistSettings = ShortlistSettings()
    remeasure: bool = Field(
        True, description="measure the winners on a device at hand, and replace those that miss their budget"
    )


class ExportParams(Section):
    """Writing and verifying the INT8 files."""

    recalibration_images: Several = Field(description="that final BatchNorm statistics are computed on")
    verify_images: Positive = Field(description="test images on which files and simulation are compared")
    agreement: Share = Field(0.995, description="share of them that must have the same top class")


def _within_100(text: str) -> str:
    if not 0 < float(text.removesuffix("%")) < 100:
        raise ValueError("a percentage must lie between 0% and 100%")
    return text


Percentage = Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$"), AfterValidator(_within_100)]
Budget = Annotated[float, Field(gt=0)] | Percentage


class FootprintLimits(Section):
    """Limits on more than milliseconds."""

    file_kib: Annotated[float, Field(gt=0)] | None = Field(None, description="largest TFLite file, KiB; null: any")
    activation_kib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest memory of INT8 activations, KiB, as TFLite plans it; null: any"
    )


class DeviceParams(Section):
    """Latency budgets of a device: milliseconds, or a quantile such as "30%" of random subnets of the hyperspace."""

    space_budgets: tuple[Budget, ...] = Field(min_length=1, description="T of the Q-T score")
    subnet_budgets: tuple[Budget, Budget, Budget, Budget, Budget] = Field(description="of SEQnet A0 to A4, rising")
    limits: FootprintLimits = Field(FootprintLimits(), description="on every SEQnet, beside its budget")

    @field_validator("subnet_budgets")
    @classmethod
    def _rising(cls, value: tuple[float | str, ...]) -> tuple[float | str, ...]:
        for same_unit in (float, str):
            numbers = [float(str(budget).removesuffix("%")) for budget in value if isinstance(budget, same_unit)]
            if numbers != sorted(set(numbers)):
                raise ValueError("must rise from A0 to A4")
        return value


class ComparisonParams(Section):
    """Comparing a device's evolved space with uniform ones, which use one block type and middle widths throughout."""

    seeds: Distinct = Field((0, 1, 2), description="of trainings: each space is trained and searched once with each")
    block_types: Distinct | None = Field(
        None, description="of the uniform spaces, by their digits in a space code; null: every one of the hyperspace"
    )
    random_subnets: Positive = Field(20, description="per budget, whose accuracies the error distributions show")


class ReportParams(Section):
    """Figures of the report."""

    dpi: Annotated[int, Field(ge=30)] = Field(120, description="pixels per inch of the PNG figures")
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = Field("#1f6f8b", description="of the main series")


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="of all randomness")
    hyperspace: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")] = Field(
        description="mobilew, onnxw, tiny, small, or the name of a file in hyperspaces/"
    )
    workers: Annotated[int, Field(ge=0)] = Field(0, description="processes that decode pictures, per training job")
    threads: Positive = Field(
        1, description="of training, block losses and the search; another number may give another teacher"
    )
    processes: Positive = Field(1, description="of a training job, which share its batches; on GPUs, one per GPU")
    checkpoint_steps: Positive = Field(200, description="training steps between two checkpoints")
    dataset: Dataset
    augment: Augment = Augment()
    teacher: TeacherParams
    blocks: BlocksParams
    lut: LutParams
    profile: ProfileParams
    study: StudyParams = StudyParams()
    space: SpaceParams
    supernet: SupernetParams
    search: SearchParams
    export: ExportParams
    devices: dict[str, DeviceParams] = Field(min_length=1, description="by name: shipped, or a file in devices/")
    comparison: ComparisonParams = ComparisonParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _devices_named(self) -> Self:
        for name in self.devices:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"devices: {name!r} is not a name of letters, digits, '-' and '_'")
        return self

    @model_validator(mode="after")
    def _checkpoints_of_devices(self) -> Self:
        for name in self.supernet.checkpoints:
            if name not in self.devices:
                raise ValueError(f"supernet.checkpoints: {name!r} is not one of the devices {', '.join(self.devices)}")
        return self


def parse_params(document: Mapping[str, Any], source: str = "params.yaml") -> Params:
    """Params of a parsed YAML document.

    Raises:
        ParamsError: one sentence for the first key that is unknown, missing, of the wrong type or out of range.
    """
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        raise ParamsError(_sentence(error, source)) from None


def load_params(path: Path | str = "params.yaml") -> Params:
    """Params of a YAML file; `ParamsError` where it is absent or wrong."""
    try:
        document = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist: run in the project's folder, or name the file.") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{path} is not a mapping of keys to values.")
    return parse_params(document, str(path))


def _sentence(error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("constrained", "function")))
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        return f"{source}: there is no key {key}; remove it or correct its name (docs/configuration.md lists all keys)."
    if first["type"] == "missing":
        return f"{source}: the key {key} is missing; docs/configuration.md says what it means."
    message = first["msg"].removeprefix("Value error, ")
    shown = f" {value!r}" if isinstance(value, str | int | float | bool | type(None)) else ""
    return f"{source}: {key or 'the file'}{shown} is wrong: {message[0].lower()}{message[1:]}."


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], text: str) -> S:
    """A section from its JSON text, as the workflow passes it to scripts; `ParamsError` as for the file."""
    try:
        return section.model_validate_json(text)
    except ValidationError as error:
        raise ParamsError(_sentence(error, section.__name__)) from None


def json_schema() -> str:
    """The JSON schema of params.yaml, for editors."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"
