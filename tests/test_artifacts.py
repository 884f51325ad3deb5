"""Artifacts: what is read is what was written, a failed write leaves what was there, and damage is an error."""

import ast
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

import spaceevo
from spaceevo import artifacts
from spaceevo.artifacts import (
    HEADER_KEY,
    SCHEMA_VERSION,
    Record,
    atomic_path,
    read_header,
    read_json,
    read_table,
    read_tensors,
    verify,
    write_bytes,
    write_json,
    write_table,
    write_tensors,
)
from spaceevo.errors import ArtifactError

KIND = "made"
PARAMS = {"a": 1, "b": {"c": [0.5, "x"]}, "d": None}
CONTENT = {"code": "tiny-0123", "list": [1, 2.5, None], "nested": {"é": True}}
TABLE = pd.DataFrame({"name": ["a", "b", ""], "loss": [0.5, np.inf, 1e-12], "count": [1, -2, 3], "flag": [True] * 3})
ARRAYS = {
    "weights": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 2), np.int64),
    "pixels": np.full((2, 2), 255, np.uint8),
    "mask": np.array([True, False]),
}
SUFFIXES = (".json", ".parquet", ".safetensors")


def write(path, kind=KIND, record=None):
    record = record or Record(PARAMS, 7)
    match path.suffix:
        case ".json":
            write_json(path, kind, CONTENT, record)
        case ".parquet":
            write_table(path, kind, TABLE, record)
        case _:
            write_tensors(path, kind, ARRAYS, record, CONTENT)


def read(path, kind=KIND):
    return {".json": read_json, ".parquet": read_table}.get(path.suffix, read_tensors)(path, kind)


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"artifact{request.param}"


def left_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_json_round_trips(tmp_path):
    path = tmp_path / "a.json"
    write(path)
    assert read_json(path, KIND) == CONTENT
    assert HEADER_KEY in json.loads(path.read_text())  # people can read it


def test_tables_round_trip(tmp_path):
    path = tmp_path / "a.parquet"
    write(path)
    pd.testing.assert_frame_equal(read_table(path, KIND), TABLE)


def test_tensors_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path)
    arrays, content = read_tensors(path, KIND)
    assert content == CONTENT and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    write_tensors(path, KIND, {}, Record({}))
    assert read_tensors(path, KIND) == ({}, {})


def test_headers_say_where_an_artifact_comes_from(path):
    write(path)
    header = read_header(path)
    assert set(header) == {"kind", "schema_version", "spaceevo_version", "params", "seed", "cost", "sha256"}
    assert (header["kind"], header["schema_version"]) == (KIND, SCHEMA_VERSION)
    assert header["spaceevo_version"] == spaceevo.__version__
    assert (header["params"], header["seed"]) == (PARAMS, 7)
    assert header["cost"].keys() == {"wall_s", "cpu_s", "gpu_s"}


@pytest.mark.parametrize(("initialised", "processes", "gpus"), [(True, None, 1), (True, "4", 4), (False, "4", 0)])
def test_gpu_seconds_are_the_wall_time_of_every_gpu_held(monkeypatch, initialised, processes, gpus):
    torch = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: initialised))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("WORLD_SIZE", processes)
    record = Record({})
    time.sleep(0.05)
    cost = record.cost()
    assert cost["gpu_s"] == pytest.approx(gpus * cost["wall_s"], abs=0.003)


def test_processes_that_share_the_work_cost_as_much_each(monkeypatch):
    def spent(processes):
        monkeypatch.setenv("WORLD_SIZE", processes)
        record = Record({})
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return record.cost()["cpu_s"]

    assert spent("1") == pytest.approx(0.05, abs=0.02)
    assert spent("4") == pytest.approx(0.2, abs=0.08)


def test_costs_count_from_the_record_and_over_interruptions(tmp_path):
    record = Record({})
    first = record.cost()
    record.resume({"wall_s": 100.0, "cpu_s": 200.0, "gpu_s": 300.0})
    second = record.cost()
    assert 0 <= first["wall_s"] < 60 and 0 <= first["cpu_s"] < 60 and first["gpu_s"] == 0
    assert 100 <= second["wall_s"] < 160 and 200 <= second["cpu_s"] < 260 and second["gpu_s"] == 300
    write_json(tmp_path / "a.json", KIND, {}, record)
    assert read_header(tmp_path / "a.json")["cost"]["wall_s"] >= second["wall_s"]


def test_folders_are_made_and_nothing_else_is_left(path):
    deep = path.parent / "one" / "two" / path.name
    write(deep)
    write(deep)  # over what is there
    assert left_in(deep.parent) == [path.name]
    assert deep.stat().st_mode & 0o777 == 0o666 & ~current_umask()  # colleagues can read it


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_error_while_writing_leaves_what_was_there(path):
    write(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == before and temporary.parent == path.parent
        raise RuntimeError
    assert path.read_bytes() == before and left_in(path.parent) == [path.name]
    new = path.with_stem("new")
    with pytest.raises(KeyboardInterrupt), atomic_path(new):
        raise KeyboardInterrupt
    assert left_in(path.parent) == [path.name]


@pytest.mark.parametrize("where", ["writing", "syncing", "replacing"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(path, monkeypatch, where):
    write(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        match where:
            case "writing":
                patch.setattr(Path, "write_bytes", full)
                patch.setattr(pq, "write_table", full)
            case "syncing":
                patch.setattr(artifacts.os, "fsync", full)
            case _:
                patch.setattr(Path, "replace", full)
        with pytest.raises(ArtifactError) as caught:
            write(path, record=Record({"other": 1}))
    sentence = str(caught.value)
    assert sentence.startswith("The disk is full") and str(path) in sentence and "\n" not in sentence
    assert path.read_bytes() == before and left_in(path.parent) == [path.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def denied(*args):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(ArtifactError, match=r"/a cannot be written \(denied\): make its folder writable"):
        write_bytes(tmp_path / "a", b"")
    assert left_in(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; skips the test where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_really_full(small_disk, suffix):
    path = small_disk / f"artifact{suffix}"
    write(path)
    before = path.read_bytes()
    noise = np.random.default_rng(0).random(40_000)
    with pytest.raises(ArtifactError, match="The disk is full"):
        match suffix:
            case ".json":
                write_json(path, KIND, {"noise": noise.tolist()}, Record({}))
            case ".parquet":
                write_table(path, KIND, pd.DataFrame({"noise": noise}), Record({}))
            case _:
                write_tensors(path, KIND, {"noise": noise}, Record({}))
    assert path.read_bytes() == before and left_in(small_disk) == [path.name]
    write(path)  # there is room for this one


def assert_names(path, error):
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_file_is_named(path):
    write(path)
    data = path.read_bytes()
    for length in sorted({0, 1, 4, 7, 8, 9, len(data) // 4, len(data) // 2, len(data) - 9, len(data) - 2}):
        path.write_bytes(data[:length])
        for reading in (read, read_header):
            if reading is read_header and path.suffix == ".safetensors" and length > len(data) // 2:
                continue  # the header is whole, and the tensors are not read
            with pytest.raises(ArtifactError, match="corrupt or truncated") as caught:
                reading(path)
            assert_names(path, caught)


@pytest.mark.parametrize(
    "data", [b"\x00" * 64, b"\xff\xfe not text", b"[1, 2", b"PAR1" * 8, b"\xff" * 8 + b"{}"], ids=range(5)
)
def test_a_corrupt_file_is_named(path, data):
    path.write_bytes(data)
    for reading in (read, read_header):
        with pytest.raises(ArtifactError, match="corrupt or truncated") as caught:
            reading(path)
        assert_names(path, caught)


def test_a_missing_file_and_a_folder_are_named(path):
    with pytest.raises(ArtifactError, match="does not exist: run snakemake to make it") as caught:
        read(path)
    assert_names(path, caught)
    path.mkdir()
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert_names(path, caught)


def test_a_file_of_another_kind_is_named(path):
    write(path, "other")
    with pytest.raises(ArtifactError, match="is a other, where a made is needed") as caught:
        read(path)
    assert_names(path, caught)
    assert read_header(path)["kind"] == "other"  # its header can be looked at


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1"])
def test_a_file_of_another_schema_version_is_named(path, version, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "SCHEMA_VERSION", version)
        write(path)
    for reading in (read, read_header):
        with pytest.raises(ArtifactError, match=f"schema version {version}, this spaceevo reads") as caught:
            reading(path)
        assert_names(path, caught)


def test_a_file_of_someone_elses_is_named(path):
    match path.suffix:
        case ".json":
            path.write_text('{"a": 1}')
        case ".parquet":
            pq.write_table(pa.table({"a": [1]}), path)
        case _:
            save_file({"a": np.zeros(2)}, path)
    for reading in (read, read_header):
        with pytest.raises(ArtifactError, match="is not an artifact of spaceevo: it has no header") as caught:
            reading(path)
        assert_names(path, caught)


@pytest.mark.parametrize("header", [None, 5, "made", [], {}, {"kind": KIND}])
def test_a_header_that_is_none_is_named(path, header):
    match path.suffix:
        case ".json":
            path.write_text(json.dumps({HEADER_KEY: header}))
        case ".parquet":
            table = pa.table({"a": [1]}).replace_schema_metadata({HEADER_KEY: json.dumps(header)})
            pq.write_table(table, path)
        case _:
            save_file({"a": np.zeros(2)}, path, metadata={HEADER_KEY: json.dumps(header), "content": "{}"})
    for reading in (read, read_header):
        with pytest.raises(ArtifactError) as caught:
            reading(path)
        assert_names(path, caught)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"text"'])
def test_json_that_is_no_object_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    for reading in (read, read_header):
        with pytest.raises(ArtifactError, match="no header"):
            reading(path)


def test_what_cannot_be_written_without_pickle_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises((TypeError, ValueError, SafetensorError)):
        write_tensors(path, KIND, {"objects": np.array([{}, []], dtype=object)}, Record({}))
    assert left_in(tmp_path) == []


def modules():
    return sorted(Path(spaceevo.__file__).parent.rglob("*.py"))


def loads_weights_only(call):
    return any(key.arg == "weights_only" and getattr(key.value, "value", None) is True for key in call.keywords)


@pytest.mark.parametrize("module", modules(), ids=lambda path: path.stem)
def test_nothing_in_the_package_pickles(module):
    """Neither by name nor through torch.load, torch.save, numpy.load or numpy.save."""
    tree = ast.parse(module.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    imported = {alias.name for node in imports for alias in node.names}
    members = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    errors_aside = [node for node in members if not all(alias.name.endswith("Error") for alias in node.names)]
    imported |= {node.module or "" for node in errors_aside}
    assert not {name.split(".")[0] for name in imported} & {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
    }
    safe = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and loads_weights_only(node)}
    calls = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in safe
    }
    forbidden = {f"{library}.{name}" for library in ("torch", "np", "numpy") for name in ("load", "save", "savez")}
    assert not calls & (forbidden | {"pd.read_pickle"})


def flip(path: Path, position: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"made{suffix}"
    record = Record({"epochs": 2, "name": "one"}, seed=3)
    match suffix:
        case ".json":
            write_json(path, "made", {"values": {1: 0.25, "b": [1, 2]}, "pair": (1, 2)}, record)
        case ".parquet":
            table = pd.DataFrame({"code": ["a", "b", None], "loss": [0.5, np.nan, 2.0], "lists": [[1], [2, 3], []]})
            write_table(path, "made", table.assign(count=pd.array([1, None, 3], dtype="Int64")), record)
        case ".safetensors":
            arrays = {"w": np.arange(600, dtype=np.float32).reshape(20, 30), "scalar": np.array(3, dtype=np.int64)}
            write_tensors(path, "made", arrays, record, {"code": "x"})
    return path


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".safetensors"])
def test_an_untouched_artifact_is_whole(suffix: str, tmp_path: Path) -> None:
    verify(written(tmp_path, suffix))


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".safetensors"])
def test_a_flipped_byte_is_noticed_wherever_it_matters(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path, suffix)
    whole, size = path.read_bytes(), path.stat().st_size
    unnoticed = []
    for position in np.random.default_rng(0).choice(size, 300, replace=False):
        path.write_bytes(whole)
        flip(path, int(position))
        try:
            verify(path)
        except ArtifactError as error:
            assert str(path) in str(error)
        else:
            unnoticed.append(int(position))
    path.write_bytes(whole)
    read = {".json": read_json, ".parquet": read_table, ".safetensors": read_tensors}[suffix]
    expected = repr(read(path, "made"))
    for position in unnoticed:  # white space of JSON, statistics of Parquet: what is read is the same
        flip(path, position)
        assert repr(read(path, "made")) == expected
        path.write_bytes(whole)
