"""Checkpoints: whole or refused with a reason, and never code."""

from __future__ import annotations

import pickle
import re

import pytest
import torch

from mixaug.models import ModelSpec
from mixaug.train.checkpoint import FORMAT, describe_model, load_checkpoint, read_checkpoint, write_checkpoint

SPEC = ModelSpec("lenet5", 3, 1, 16, (0.4,), (0.2,))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = SPEC.build()
    content = describe_model(
        SPEC, model, data={"name": "x"}, settings={"lr": 0.1}, epoch=2, metrics={"train_loss": 1.5}
    )
    write_checkpoint(tmp_path / "best.pt", content)
    return tmp_path / "best.pt", model


def test_the_model_comes_back_from_the_path_alone(saved):
    path, model = saved
    state = torch.get_rng_state()
    loaded, info = load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.training
    images = torch.rand(4, 1, 16, 16)
    assert torch.equal(loaded(images), model.eval()(images))
    assert info["spec"] == SPEC and info["epoch"] == 2 and info["metrics"] == {"train_loss": 1.5}
    assert set(info["versions"]) == {"mixaug", "torch"} and info["versions"]["torch"] == torch.__version__
    assert info["data"] == {"name": "x"} and info["settings"] == {"lr": 0.1} and info["path"] == str(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path / 'a.pt'}"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"must be a file such as .*best\.pt, got the folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_files_are_refused(saved, keep):
    path, _ = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=f"the checkpoint {re.escape(str(path))} is damaged"):
        load_checkpoint(path)


def test_a_flipped_bit_in_a_weight_is_noticed(saved):
    path, model = saved
    content = bytearray(path.read_bytes())
    weight = next(iter(model.parameters())).detach().numpy().tobytes()
    place = bytes(content).index(weight)
    content[place + 5] ^= 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(path)


class Trap:
    def __reduce__(self):
        return (open, ("trapped", "w"))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    if writer == "torch":
        torch.save({"model": Trap()}, "evil.pt")
    else:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="was not written by mixaug"):
        load_checkpoint("evil.pt")
    assert not (tmp_path / "trapped").exists()


def test_other_content_is_refused(saved, tmp_path):
    path, _ = saved
    content = read_checkpoint(path)
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="it must have format, spec, model, data, settings, epoch, step"):
        read_checkpoint(tmp_path / "tensor.pt")
    write_checkpoint(path, {**content, "format": FORMAT + 1})
    with pytest.raises(ValueError, match=f"has format {FORMAT + 1}, this version of mixaug reads {FORMAT}"):
        read_checkpoint(path)
    write_checkpoint(path, {**content, "spec": {**content["spec"], "num_classes": 7}})
    with pytest.raises(ValueError, match=r"its 'spec' does not fit \(num_classes must be that of the weights, got 7\)"):
        load_checkpoint(path)
    write_checkpoint(path, {**content, "spec": {**content["spec"], "image_size": 32}})
    with pytest.raises(ValueError, match="do not fit its model"):
        load_checkpoint(path)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def full(content, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"best\.pt cannot be written: No space left on device \(.* free on the disk of"):
        write_checkpoint(path, {"format": FORMAT})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]
