"""Reading checkpoints: every form of a state dict, and no file that runs code."""

import argparse
import os
import pickle
import sys
import types

import pytest
import torch

from spaceevo.errors import CheckpointError
from spaceevo.nn.published_file import read_checkpoint

STATE = {"stages.a.weight": torch.arange(6.0).reshape(2, 3), "stages.a.bias": torch.ones(2)}
WRAPPED = {f"module.{name}": value for name, value in STATE.items()}
MARK = "SPACEEVO_TEST_CODE_RAN"


class RunsCode:
    """Unpickled, it sets an environment variable."""

    def __reduce__(self):
        return exec, (f"import os; os.environ[{MARK!r}] = '1'",)


FORMS = {
    "state dict": STATE,
    "under model": {"model": STATE, "epoch": 3},
    "under state_dict": {"state_dict": STATE, "optimizer": {"lr": 0.1, "moments": [torch.ones(1)]}},
    "of several GPUs": {"state_dict": WRAPPED},
    "of several GPUs twice": {f"module.{name}": value for name, value in WRAPPED.items()},
    "with settings": {"state_dict": WRAPPED, "args": argparse.Namespace(seed=0, lr=types.SimpleNamespace(base=0.1))},
}


# Settings are passed over in files of PyTorch 1.6 and newer alone.
@pytest.mark.parametrize(
    ("form", "zipped"),
    [*((form, True) for form in FORMS), *((form, False) for form in FORMS if "settings" not in form)],
)
def test_every_form_is_read(tmp_path, form, zipped):
    path = tmp_path / "checkpoint.pth"
    torch.save(FORMS[form], path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_settings_of_the_release_itself_are_passed_over(tmp_path, monkeypatch):
    """Objects of its package, which is not installed where the file is read."""
    module = types.ModuleType("modules.settings")
    monkeypatch.setitem(sys.modules, "modules", types.ModuleType("modules"))
    module.Config = type("Config", (), {"__module__": "modules.settings"})
    monkeypatch.setitem(sys.modules, "modules.settings", module)
    config = module.Config()
    config.nested = [module.Config()]
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": WRAPPED, "args": config}, path)
    monkeypatch.undo()
    assert read_checkpoint(path).keys() == STATE.keys()


@pytest.mark.parametrize("form", ["zipped", "old", "bare pickle", "in the state dict"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, form):
    path = tmp_path / "checkpoint.pth"
    content = {"state_dict": STATE, "args": RunsCode()}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps({"args": RunsCode()}))
    elif form == "in the state dict":
        torch.save({"state_dict": {**STATE, "extra": RunsCode()}}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zipped")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    said = str(caught.value)
    assert "checkpoint.pth was not read" in said and "run" in said
    assert ("exec" in said) == (form != "bare pickle")
    assert "\n" not in said and said.endswith(".")
    assert MARK not in os.environ


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(tmp_path, share, zipped):
    path = tmp_path / "checkpoint.pth"
    torch.save({name: torch.rand(100, 100) for name in STATE}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    said = str(caught.value)
    assert "checkpoint.pth is truncated or no PyTorch checkpoint" in said and "\n" not in said and said.endswith(".")


def test_what_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pth"
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth does not exist"):
        read_checkpoint(path)
    path.write_text("hello, this is a page of text\n")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth"):
        read_checkpoint(path)
    for content in ({"epoch": 3}, [1, 2], torch.ones(2), {"state_dict": {}}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"checkpoint\.pth holds no state_dict"):
            read_checkpoint(path)
