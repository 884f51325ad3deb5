"""Reading and writing artifacts: the one place that touches result files.

Every artifact is JSON, Parquet or safetensors (never pickle), is written atomically, and carries a header: its kind,
schema version, the version of spaceevo and the parameters it was made from, the seed, the seconds it cost, and a
checksum of all of that and of the content. A file that is missing, truncated, changed, or of another kind or schema
version is an `ArtifactError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

import spaceevo
from spaceevo.errors import ArtifactError

SCHEMA_VERSION = 2
HEADER_KEY = "spaceevo"
RESTORE = "delete it and run again, or fetch it anew with dvc checkout"
HEADER_KEYS = {"kind", "schema_version", "spaceevo_version", "params", "seed", "cost"}
CHECKSUM_KEY = "sha256"

Arrays = dict[str, npt.NDArray[Any]]
Part = bytes | memoryview


@dataclass
class Record:
    """What an artifact says of its origin; the cost counts from the construction of the record.

    Attributes:
        params: the parameters the artifact depends on, by name; JSON-serialisable.
        seed: seed of all its randomness, or None where there is none.
        earlier_wall_s, earlier_cpu_s, earlier_gpu_s: seconds already spent by an interrupted run that this one resumed.
    """

    params: Mapping[str, Any]
    seed: int | None = None
    earlier_wall_s: float = 0.0
    earlier_cpu_s: float = 0.0
    earlier_gpu_s: float = 0.0
    _wall_start: float = field(default_factory=time.perf_counter)
    _cpu_start: float = field(default_factory=time.process_time)

    def cost(self) -> dict[str, float]:
        """Wall seconds, CPU seconds, and GPU seconds (wall time of each GPU held) spent so far.

        CPU seconds are those of this process, as many times as processes share the work.
        """
        wall_s = time.perf_counter() - self._wall_start
        return {
            "wall_s": round(self.earlier_wall_s + wall_s, 3),
            "cpu_s": round(self.earlier_cpu_s + _processes() * (time.process_time() - self._cpu_start), 3),
            "gpu_s": round(self.earlier_gpu_s + _gpus_held() * wall_s, 3),
        }

    def resume(self, cost: Mapping[str, float]) -> None:
        """Count what an interrupted run had already spent."""
        self.earlier_wall_s += cost["wall_s"]
        self.earlier_cpu_s += cost["cpu_s"]
        self.earlier_gpu_s += cost.get("gpu_s", 0.0)

    def header(self, kind: str) -> dict[str, Any]:
        """The header of an artifact of this `kind` finished now."""
        return {
            "kind": kind,
            "schema_version": SCHEMA_VERSION,
            "spaceevo_version": spaceevo.__version__,
            "params": dict(self.params),
            "seed": self.seed,
            "cost": self.cost(),
        }


def _gpus_held() -> int:
    """One for each process of this run where torch has taken hold of a GPU; torch is not loaded to find out."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return _processes()


def _processes() -> int:
    """How many share the work of this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))  # as torch.distributed.run sets it


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without an error.

    Raises:
        ArtifactError: the disk is full or the folder not writable; whatever was at `path` before is untouched.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(target: Path, error: OSError) -> ArtifactError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ArtifactError(
            f"The disk is full: {target} was not written; free some space on {target.parent} and run again."
        )
    return ArtifactError(f"{target} cannot be written ({error.strerror}): make its folder writable.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path | str, kind: str, content: Mapping[str, Any], record: Record) -> None:
    """Write `content` (JSON-serialisable) with its header under the key "spaceevo"."""
    plain = json.loads(json.dumps(dict(content)))
    document = {HEADER_KEY: _sealed(record.header(kind), _json_parts(plain)), **plain}
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def read_json(path: Path | str, kind: str) -> dict[str, Any]:
    """The content of a JSON artifact of this `kind`, without its header."""
    document = _load_json(Path(path))
    header = document.pop(HEADER_KEY, None)
    _check(Path(path), header, kind)
    _check_seal(Path(path), header, _json_parts(document))
    return document


def write_table(path: Path | str, kind: str, table: pd.DataFrame, record: Record) -> None:
    """Write a data frame as Parquet."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    sealed = _sealed(record.header(kind), _table_parts(arrow.to_pandas()))
    header = {HEADER_KEY.encode(): json.dumps(sealed).encode()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **header})
    with atomic_path(path) as temporary:
        pq.write_table(arrow, temporary)


def read_table(path: Path | str, kind: str) -> pd.DataFrame:
    """The data frame of a Parquet artifact of this `kind`."""
    arrow = _load_parquet(Path(path))
    header = _parquet_header(Path(path), arrow.schema)
    _check(Path(path), header, kind)
    try:
        table: pd.DataFrame = arrow.to_pandas()
    except (ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise _damaged(Path(path), error) from error
    _check_seal(Path(path), header, _table_parts(table))
    return table


def write_tensors(
    path: Path | str, kind: str, arrays: Arrays, record: Record, content: Mapping[str, Any] | None = None
) -> None:
    """Write named arrays as safetensors, with `content` (JSON-serialisable) beside them."""
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    beside = json.dumps(dict(content or {}))
    sealed = _sealed(record.header(kind), _tensor_parts(contiguous, beside))
    metadata = {HEADER_KEY: json.dumps(sealed), "content": beside}
    write_bytes(path, safetensors_bytes(contiguous, metadata=metadata))


def read_tensors(path: Path | str, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the content of a safetensors artifact of this `kind`."""
    metadata, arrays = _load_safetensors(Path(path), with_arrays=True)
    header = _parsed_header(Path(path), metadata[HEADER_KEY]) if HEADER_KEY in metadata else None
    _check(Path(path), header, kind)
    _check_seal(Path(path), header, _tensor_parts(arrays, metadata.get("content", "")))
    return arrays, json.loads(metadata["content"])


def read_header(path: Path | str) -> dict[str, Any]:
    """The header of any artifact: kind, schema_version, spaceevo_version, params, seed, cost."""
    path = Path(path)
    header: dict[str, Any] | None
    if path.suffix == ".json":
        header = _load_json(path).get(HEADER_KEY)
    elif path.suffix == ".parquet":
        header = _parquet_header(path, _load_parquet(path).schema)
    else:
        metadata, _ = _load_safetensors(path, with_arrays=False)
        header = _parsed_header(Path(path), metadata[HEADER_KEY]) if HEADER_KEY in metadata else None
    _check(path, header, None)
    assert header is not None
    return header


def verify(path: Path | str) -> None:
    """Read an artifact of any kind in full.

    Raises:
        ArtifactError: it is missing, or no longer what was written.
    """
    kind = read_header(path)["kind"]
    readers: dict[str, Callable[[Path | str, str], object]] = {".json": read_json, ".parquet": read_table}
    readers.get(Path(path).suffix, read_tensors)(path, kind)


def _sealed(header: dict[str, Any], parts: Iterable[Part]) -> dict[str, Any]:
    """The header with a checksum of itself and of the parts of the content."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for part in parts:
        digest.update(part)
    return {**header, CHECKSUM_KEY: digest.hexdigest()}


def _check_seal(path: Path, header: Any, parts: Iterable[Part]) -> None:
    stated = {key: value for key, value in header.items() if key != CHECKSUM_KEY}
    if _sealed(stated, parts)[CHECKSUM_KEY] != header.get(CHECKSUM_KEY):
        raise ArtifactError(f"{path} was changed after it was written (its checksum differs): {RESTORE}.")


def _json_parts(content: Mapping[str, Any]) -> Iterator[Part]:
    yield json.dumps(content, sort_keys=True).encode()


def _table_parts(table: pd.DataFrame) -> Iterator[Part]:
    for name, column in table.items():
        yield f"{name} {column.dtype}".encode()
        try:
            yield pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes()
        except TypeError:  # cells that are lists
            yield json.dumps(column.tolist(), default=np.ndarray.tolist).encode()


def _tensor_parts(arrays: Arrays, beside: str) -> Iterator[Part]:
    yield beside.encode()
    for name, array in sorted(arrays.items()):
        yield f"{name} {array.dtype} {array.shape}".encode()
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check(path: Path, header: Any, kind: str | None) -> None:
    if not isinstance(header, dict) or not header.keys() >= HEADER_KEYS:
        raise ArtifactError(f"{path} is not an artifact of spaceevo: it has no header.")
    if kind is not None and header["kind"] != kind:
        raise ArtifactError(f"{path} is a {header['kind']}, where a {kind} is needed.")
    if header["schema_version"] != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {header['schema_version']}, this spaceevo reads {SCHEMA_VERSION}: "
            "delete it and run again."
        )


def _damaged(path: Path, error: Exception) -> ArtifactError:
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{path} does not exist: run snakemake to make it.")
    if isinstance(error, PermissionError):
        return ArtifactError(f"{path} cannot be read: you lack the permission.")
    return ArtifactError(f"{path} is corrupt or truncated ({error}): {RESTORE}.")


def _load_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} is not an artifact of spaceevo: it has no header.")
    return document


def _load_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _parquet_header(path: Path, schema: pa.Schema) -> dict[str, Any] | None:
    text = (schema.metadata or {}).get(HEADER_KEY.encode())
    return None if text is None else _parsed_header(path, text)


def _parsed_header(path: Path, text: str | bytes) -> dict[str, Any] | None:
    try:
        header: dict[str, Any] | None = json.loads(text)
    except ValueError as error:
        raise _damaged(path, error) from error
    return header


def _load_safetensors(path: Path, with_arrays: bool) -> tuple[dict[str, str], Arrays]:
    try:
        with safe_open(path, framework="numpy") as stream:
            arrays = {name: stream.get_tensor(name) for name in stream.keys()} if with_arrays else {}  # noqa: SIM118
            return stream.metadata() or {}, arrays
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
