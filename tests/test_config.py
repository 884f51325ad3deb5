"""params.yaml: every key is there and typed, and a wrong one is an error that names it."""

import copy
import json
import math
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel
from snakemake.utils import update_config

from spaceevo.config import (
    Augment,
    Dataset,
    Params,
    QTSettings,
    Recipe,
    Sandwich,
    Section,
    SubnetSearchSettings,
    json_schema,
    load_params,
    parse_params,
    parse_section,
)
from spaceevo.errors import ParamsError
from spaceevo.latency.devices import load_device
from spaceevo.space import load_hyperspace

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))]


def document():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_committed_files_are_valid_over_the_default(path):
    laid = document()
    update_config(laid, yaml.safe_load(path.read_text()))  # as snakemake --configfile does
    params = parse_params(laid)
    load_hyperspace(params.hyperspace)
    for device in params.devices:
        load_device(device)


def test_the_published_recipe_trains_the_ends_as_published():
    laid = document()
    update_config(laid, yaml.safe_load((ROOT / "params" / "imagenet.yaml").read_text()))
    assert document()["supernet"]["sandwich"]["mixed_resolutions"]
    assert not parse_params(laid).supernet.sandwich.mixed_resolutions


def sections_of(kind):
    """The sections that a field's type may be: itself, or the values of a dictionary of them."""
    kinds = [kind, *get_args(kind)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def missing_keys(section, values, name=""):
    """Keys of a section that a document leaves to their defaults, sections within it included."""
    for key, field in section.model_fields.items():
        path = f"{name}{key}"
        if key not in values:
            yield path
            continue
        for inner in sections_of(field.annotation):
            members = values[key].items() if inner is not field.annotation else [(None, values[key])]
            for member, value in members:
                yield from missing_keys(inner, value, f"{path}." if member is None else f"{path}.{member}.")


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_settings_of_another_dataset_take_over_nothing_by_chance(name):
    """What suits the embedded default, such as pictures that are shifted or a share of labels, suits no other."""
    laid = yaml.safe_load((ROOT / "params" / f"{name}.yaml").read_text())
    assert list(missing_keys(Augment, laid["augment"])) == []
    assert list(missing_keys(Sandwich, laid["supernet"]["sandwich"])) == []
    if "score" in laid.get("space", {}):
        assert list(missing_keys(QTSettings, laid["space"]["score"])) == []


def test_no_default_is_hidden():
    """Every knob is written out in params.yaml, where it can be seen and turned."""
    assert list(missing_keys(Params, document())) == []
    assert list(missing_keys(Params, {"seed": 0}))  # the test itself can fail


def test_the_schema_for_editors_is_up_to_date():
    assert (ROOT / "params.schema.json").read_text() == json_schema()
    schema = json.loads(json_schema())
    assert schema["additionalProperties"] is False and set(schema["properties"]) == set(Params.model_fields)
    assert (ROOT / "params.yaml").read_text().startswith("# yaml-language-server: $schema=params.schema.json")


def changed(path, value):
    """The committed parameters with one key set; `...` removes it."""
    params = document()
    *sections, key = path.split(".")
    place = params
    for section in sections:
        place = place[section]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return params


def plain_keys(values, name=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from plain_keys(value, f"{name}{key}.")
        else:
            yield f"{name}{key}"


@pytest.mark.parametrize("key", [key for key in plain_keys(document()) if "devices" not in key])
def test_a_value_of_a_wrong_type_is_named(key):
    with pytest.raises(ParamsError) as caught:
        parse_params(changed(key, {"a": []}))
    assert str(caught.value).startswith(f"params.yaml: {key}") and "\n" not in str(caught.value)


BY_DEVICE = ("devices.", "supernet.checkpoints.", "study.steps.")  # sections whose keys are names of devices, or steps


def sections(values, name=""):
    yield name
    for key, value in values.items():
        if isinstance(value, dict):
            yield from sections(value, f"{name}{key}.")


@pytest.mark.parametrize("section", [section for section in sections(document()) if section not in BY_DEVICE])
def test_an_unknown_key_is_named(section):
    with pytest.raises(ParamsError) as caught:
        parse_params(changed(f"{section}learning_rte", 1))
    assert f"there is no key {section}learning_rte;" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("comparison.seeds", []),
        ("comparison.seeds", [0, 1, 0]),
        ("comparison.block_types", []),
        ("space.evolution.leave_out", ["resnet", "resnet"]),
        ("comparison.block_types", [2, 2]),
        ("comparison.random_subnets", 0),
        ("seed", -1),
        ("seed", "zero"),
        ("seed", 0.5),
        ("seed", None),
        ("hyperspace", 3),
        ("workers", -1),
        ("checkpoint_steps", 0),
        ("dataset.name", "mnist"),
        ("dataset.val_fraction", 0),
        ("dataset.test_fraction", 1.0),
        ("dataset.download", "perhaps"),
        ("dataset.clutter.image_size", 8),
        ("dataset.clutter.noise", 256),
        ("dataset.clutter.max_rotation_deg", 90),
        ("dataset.clutter.max_scale", 1.5),
        ("dataset.clutter.digits", 0),
        ("augment.shift", -1),
        ("augment.colour_jitter", 1.5),
        ("augment.crop_scale", [0.9, 0.5]),
        ("augment.crop_scale", [0.0, 0.5]),
        ("augment.crop_scale", 0.5),
        ("teacher.label_smoothing", 1.5),
        ("teacher.recipe.epochs", 0),
        ("teacher.recipe.epochs", math.nan),
        ("teacher.recipe.epochs", math.inf),
        ("teacher.recipe.batch_size", 0),
        ("teacher.recipe.learning_rate", 0),
        ("teacher.recipe.learning_rate", math.inf),
        ("teacher.recipe.warmup", 1.1),
        ("teacher.recipe.weight_decay", -0.1),
        ("teacher.recipe.clip_norm", 0),
        ("blocks.random_choices", -1),
        ("blocks.calibration_batches", 0),
        ("lut.samples", 0),
        ("profile.nets", 0),
        ("profile.time_limit_s", 0),
        ("space.score.target_share", 0),
        ("space.score.exponent", -1),
        ("space.evolution.population", 0),
        ("supernet.sandwich.dropout", 1.0),
        ("supernet.sandwich.largest_alone", 1.1),
        ("search.settings.mutation_probability", 2),
        ("search.val_images", 0),
        ("export.agreement", 1.1),
        ("devices", {}),
        ("report.dpi", 10),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    with pytest.raises(ParamsError) as caught:
        parse_params(changed(key, value))
    assert str(caught.value).startswith(f"params.yaml: {key}") and "\n" not in str(caught.value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("budget", ["fast", "30 ms", -1, 0, None, [1], "%", "130%", "0%"])
def test_a_budget_that_is_none_is_named(budget):
    """Before hours of work, not when it is needed."""
    for key in ("space_budgets", "subnet_budgets"):
        params = document()
        name = next(iter(params["devices"]))
        params["devices"][name][key][1] = budget
        with pytest.raises(ParamsError) as caught:
            parse_params(params)
        sentence = str(caught.value)
        assert f"devices.{name}.{key}.1 " in sentence and "\n" not in sentence


def test_a_device_has_five_subnet_budgets():
    for count in (0, 4, 6):
        params = document()
        name = next(iter(params["devices"]))
        params["devices"][name]["subnet_budgets"] = [10.0 + i for i in range(count)]
        with pytest.raises(ParamsError, match=f"devices.{name}.subnet_budgets"):
            parse_params(params)


@pytest.mark.parametrize("name", ["my phone", "../evil", "a/b", ""])
def test_the_name_of_a_device_is_that_of_a_folder(name):
    params = document()
    params["devices"] = {name: next(iter(params["devices"].values()))}
    with pytest.raises(ParamsError, match="devices"):
        parse_params(params)


@pytest.mark.parametrize("key", ["hyperspace", "dataset", "teacher.recipe.epochs", "space.evolution", "devices"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ParamsError, match=f"the key {key} is missing"):
        parse_params(changed(key, ...))


def test_what_does_not_fit_together_is_named():
    params = document()
    params["dataset"]["clutter"] |= {"min_scale": 0.9, "max_scale": 0.5}
    with pytest.raises(ParamsError, match=r"dataset\.clutter is wrong: min_scale is above max_scale"):
        parse_params(params)
    params["dataset"]["clutter"] |= {"digits": 2, "min_scale": 0.4, "max_scale": 0.6}
    with pytest.raises(ParamsError, match=r"dataset\.clutter is wrong: max_scale is above 1 / 2, the share that each"):
        parse_params(params)
    params = changed("dataset.name", "imagefolder")
    with pytest.raises(ParamsError, match="dataset is wrong: dataset imagefolder needs root"):
        parse_params(params)
    params["dataset"]["root"] = "pictures"
    assert parse_params(params).dataset.root == "pictures"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("- a\n", "is not a mapping"), ("", "is not a mapping"), ("a: [\n", "is not YAML"), ("text", "is not a mapping")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, sentence):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(path) in str(caught.value) and sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"params.yaml does not exist"):
        load_params(tmp_path / "params.yaml")


def test_params_cannot_be_changed():
    params = load_params()
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1


def sections_within(section):
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield value
            yield from sections_within(value)


def test_every_section_survives_its_trip_to_a_script():
    found = list(sections_within(load_params()))
    assert len(found) > 15
    for section in found:
        assert parse_section(type(section), section.model_dump_json()) == section


@pytest.mark.parametrize(
    ("section", "text", "sentence"),
    [
        (Recipe, '{"epochs": 1, "batch_size": 2}', "Recipe: the key learning_rate is missing"),
        (Recipe, '{"epochs": 0, "batch_size": 2, "learning_rate": 1}', "Recipe: epochs 0 is wrong"),
        (Augment, '{"flip": true}', "Augment: there is no key flip"),
        (Dataset, '{"name": "cifar10"}', "dataset cifar10 needs root"),
        (SubnetSearchSettings, "{", "SubnetSearchSettings"),
        (Augment, "", "Augment"),
    ],
)
def test_a_wrong_section_is_named(section, text, sentence):
    with pytest.raises(ParamsError) as caught:
        parse_section(section, text)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_the_committed_parameters_are_not_touched_by_parsing():
    before = document()
    given = copy.deepcopy(before)
    parse_params(given)
    assert given == before
