"""The page on adding a mixing method is followed literally: its method passes its own tests, and works everywhere."""

import importlib
import itertools
import pickle
import sys

import pytest
import torch
from contributing import files_of
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors

from mixaug import transforms


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The page's two files, where they can be imported: the method's class, and the namespace of its tests."""
    files = files_of("adding-a-mixing-method.md")
    assert list(files) == ["mixaug/transforms/resize_mix.py", "tests/transforms/test_resize_mix.py"]
    for path, code in files.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(code)
    monkeypatch.setattr(transforms, "__path__", [*transforms.__path__, str(tmp_path / "mixaug" / "transforms")])
    monkeypatch.syspath_prepend(tmp_path / "tests" / "transforms")
    yield importlib.import_module("mixaug.transforms.resize_mix"), importlib.import_module("test_resize_mix")
    for name in ("mixaug.transforms.resize_mix", "test_resize_mix"):
        sys.modules.pop(name)
    vars(transforms).pop("resize_mix")


def test_its_own_tests_pass(written):
    _, tests = written
    tests.test_labels_are_weighted_by_what_is_seen()
    for dtype, batch in itertools.product([torch.uint8, torch.float16, torch.bfloat16, torch.float32], [0, 1, 5]):
        tests.test_each_pixel_is_the_images_own_or_the_partners(dtype, batch)


def test_what_they_share_gives_it_samples_checks_states_and_workers(written):
    method, _ = written
    mix = method.ResizeMix(4, smoothing=0.1, generator=torch.Generator().manual_seed(3))
    images = torch.rand(6, 3, 8, 10).to(memory_format=torch.channels_last)
    sample = {"image": tv_tensors.Image(images), "label": torch.arange(6) % 4, "name": "kept"}
    state = mix.state_dict()
    mixed = mix(sample)
    assert isinstance(mixed["image"], tv_tensors.Image) and mixed["name"] == "kept"
    assert mixed["image"].is_contiguous(memory_format=torch.channels_last)
    assert mixed["label"].shape == (6, 4) and torch.allclose(mixed["label"].sum(1), torch.ones(6))
    mix.load_state_dict(state)
    assert torch.equal(mix(sample)["image"], mixed["image"])
    again = pickle.loads(pickle.dumps(mix))
    assert torch.equal(again(sample)["image"], mix(sample)["image"])
    assert mix(torch.rand(2, 5, 3, 8, 8), torch.arange(2))[0].shape == (2, 5, 3, 8, 8)  # clips
    loader = DataLoader(TensorDataset(images, torch.arange(6) % 4), batch_size=3)
    assert [mix(batch)[1].shape for batch in loader] == [(3, 4), (3, 4)]
    with pytest.raises(ValueError, match="scale must"):
        method.ResizeMix(4, scale=(0.5, 1.5))
    with pytest.raises(ValueError, match="label"):
        mix(images, torch.full((6,), 4))
