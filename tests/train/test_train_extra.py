"""Training mixed with further pictures: which images an epoch takes, and folders that fit or do not."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from train_parts import fit, parts, settings

import mixaug.train.loop as loop
from mixaug.train.batches import batches
from mixaug.train.data import DataParts, load_data
from mixaug.train.extra import mixed_order, with_extra
from mixaug.train.images import ImageTensors, MixedPart, in_memory


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("extra", [5, 60, 500])
def test_an_epoch_has_its_share(share, extra):
    order = mixed_order(100, extra, share, seed=3, epoch=2)
    assert len(order) == 100
    from_extra = order[order >= 100]
    assert len(from_extra) == round(share * 100)
    assert int(order.max()) < 100 + extra
    own = order[order < 100]
    assert len(own.unique()) == len(own)
    # As even as can be: none is taken twice before each was taken once.
    counts = (from_extra - 100).bincount(minlength=extra)
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(order, mixed_order(100, extra, share, seed=3, epoch=2))
    assert not torch.equal(order, mixed_order(100, extra, share, seed=3, epoch=3))
    assert not torch.equal(order, mixed_order(100, extra, share, seed=4, epoch=2))


def part(count: int, channels: int, value: int, label: int) -> ImageTensors:
    images = torch.full((count, channels, 4, 4), value, dtype=torch.uint8)
    return ImageTensors(images, torch.full((count,), label))


def test_one_part_of_two():
    mixed = MixedPart(part(3, 1, 10, 0), part(2, 3, 20, 1), labels=[2, 1])
    assert len(mixed) == 3
    ((images, labels),) = batches(mixed, torch.tensor([0, 3, 4]), 3)
    assert images.shape == (3, 1, 4, 4)  # grey as its own images
    assert images[:, 0, 0, 0].tolist() == [10, 20, 20]
    assert labels.tolist() == [0, 1, 1]
    for position in range(5):
        image, label = mixed[position]
        assert torch.equal(image, in_memory(mixed)[0][position])
        assert label == int(in_memory(mixed)[1][position])


class OnDemand(torch.utils.data.Dataset):
    def __init__(self, part):
        self.part, self.labels = part, part.labels

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        return self.part[index]


def test_parts_that_are_read_on_demand():
    mixed = MixedPart(OnDemand(part(3, 1, 10, 0)), part(2, 3, 20, 1), labels=[2, 1])
    assert in_memory(mixed) is None
    ((images, labels),) = batches(mixed, torch.tensor([4, 0]), 2)
    assert images[:, 0, 0, 0].tolist() == [20, 10]
    assert labels.tolist() == [1, 0]


def stripes():
    made = vars(parts())
    return DataParts(**{**made, "train": ImageTensors(made["train"].images, made["train"].labels)})


def folder(root, classes, value=200):
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (value, value, value)).save(root / name / f"{number}.png")
    return root


def test_a_run_with_generated_pictures(tmp_path, monkeypatch):
    place = folder(tmp_path / "generated", ["columns", "rows"])
    seen, of_generated = [], []
    original = loop.Run._optimise

    def optimise(self, images, labels):
        seen.append((images[:, 0] == 200).flatten(1).all(1))
        of_generated.append(labels[seen[-1]])
        return original(self, images, labels)

    monkeypatch.setattr(loop.Run, "_optimise", optimise)
    data = stripes()
    result = fit(settings(tmp_path / "run", epochs=2, extra_data=place, extra_share=0.25), data)
    shares = torch.cat(seen).float().view(2, -1).mean(1)
    assert shares.tolist() == [0.25, 0.25]
    assert set(torch.cat(of_generated).tolist()) == {0, 1}  # rows and columns, as the data set numbers them
    assert [row["step"] for row in result.history] == [3, 6]  # epochs keep their size


def test_folders_that_do_not_fit(tmp_path):
    data = stripes()
    folder(tmp_path / "other", ["rows", "spirals"])
    with pytest.raises(ValueError, match=r"extra_data must have folders of the data set's classes .* got spirals"):
        with_extra(data, str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError):
        with_extra(data, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("where", ["test", "val", "linked", "the tree itself"])
def test_pictures_that_are_held_out_are_no_extra_ones(tmp_path, where):
    root = tmp_path / "data"
    for number, part in enumerate(("train", "val", "test")):
        folder(root / part, ["columns", "rows"], value=number)
    place = root / where
    if where == "linked":
        place = folder(tmp_path / "own", ["columns", "rows"])
        (place / "rows" / "again.png").symlink_to(root / "test" / "rows" / "0.png")
    elif where == "the tree itself":
        place = root = root / "train"
    data = load_data(f"folder:{root}")
    with pytest.raises(ValueError, match=r"extra_data must not have pictures of the validation or test part.*\.png"):
        with_extra(data, str(place))
    assert with_extra(data, str(folder(tmp_path / "new", ["rows", "columns"]))).train.extra_count == 8
