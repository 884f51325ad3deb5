"""Kernels in Triton are used where they can be compiled, and PyTorch's elsewhere."""

import pytest
import torch

from spaceevo.gpu import has_triton, lacking_for_triton
from spaceevo.nn.layout import images_on


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch, tmp_path):
    """A machine with a GPU, Triton, a compiler and Python's headers."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("spaceevo.gpu.find_spec", lambda name: name)
    monkeypatch.setattr("spaceevo.gpu.sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr("spaceevo.gpu.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("CC", raising=False)
    has_triton.cache_clear()
    yield
    has_triton.cache_clear()


def test_all_is_there():
    assert has_triton()
    assert lacking_for_triton() is None


@pytest.mark.parametrize("lacking", ["Triton is", "a C compiler", "headers", "7.0 or newer: number 1 has 6.1"])
def test_something_is_not(lacking, monkeypatch, tmp_path):
    if lacking == "Triton is":
        monkeypatch.setattr("spaceevo.gpu.find_spec", lambda name: None)
    elif lacking == "a C compiler":
        monkeypatch.setattr("spaceevo.gpu.shutil.which", lambda name: None)
    elif lacking == "headers":
        (tmp_path / "Python.h").unlink()
    else:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9 - 3 * device, 1))
    assert not has_triton()
    assert lacking in lacking_for_triton()


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not has_triton()


def test_another_compiler_may_be_named(monkeypatch):
    monkeypatch.setattr("spaceevo.gpu.shutil.which", lambda name: None)
    monkeypatch.setenv("CC", "/opt/bin/cc")
    assert has_triton()


@pytest.mark.parametrize("compiler", [None, "/usr/bin/gcc"])
def test_images_are_laid_out_for_the_kernels(compiler, monkeypatch):
    monkeypatch.setattr("spaceevo.gpu.shutil.which", lambda name: compiler)
    moved = []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, **options: moved.append(options["memory_format"]) or x)
    images_on(torch.zeros(1, 3, 4, 4), torch.device("cuda"))
    assert moved == [torch.channels_last if compiler else torch.contiguous_format]
