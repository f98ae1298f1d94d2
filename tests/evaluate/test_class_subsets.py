"""Folders of some of a model's classes: labels and model classes, sizes, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from mixaug.evaluate.images import ClassSubsetFolder, LabelledImages, PictureFolder
from mixaug.evaluate.subject import subject_of

IDS = [f"n{number:08}" for number in range(20)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    values = torch.randint(0, 256, (channels, size[1], size[0]), dtype=torch.uint8, generator=seeded(seed))
    v2.functional.to_pil_image(values, mode).save(path)


@pytest.fixture
def root(tmp_path):
    """Three classes of twenty, with pictures of three sizes."""
    picture(tmp_path / IDS[17] / "a.png", (40, 30), 1)
    picture(tmp_path / IDS[3] / "b.png", (64, 64), 2)
    picture(tmp_path / IDS[3] / "c.JPEG", (30, 70), 3)
    picture(tmp_path / IDS[9] / "below" / "d.webp", (33, 33), 4)
    (tmp_path / IDS[9] / "notes.txt").write_text("no picture")
    return tmp_path


def test_labels_count_the_folders_and_model_classes_say_which_they_are(root):
    folder = ClassSubsetFolder(root, IDS)
    assert folder.model_classes.tolist() == [3, 9, 17] and folder.model_classes.dtype == torch.int64
    assert folder.classes == [IDS[3], IDS[9], IDS[17]] and folder.targets == [0, 0, 1, 2]
    assert folder.class_to_idx == {IDS[3]: 0, IDS[9]: 1, IDS[17]: 2}
    assert [Path(path).name for path, _ in folder.samples] == ["b.png", "c.JPEG", "d.webp", "a.png"]
    theirs = ImageFolder(root)
    assert theirs.samples == folder.samples and theirs.classes == folder.classes
    image, label = folder[3]
    assert image.size == (40, 30) and image.mode == "RGB" and label == 2


def test_a_mapping_may_join_folders_and_name_them_as_it_likes(root):
    mapping = {IDS[17]: 1, IDS[9]: 5, IDS[3]: 1, "not there": 7}
    folder = ClassSubsetFolder(root, mapping)
    assert folder.model_classes.tolist() == [1, 5] and folder.targets == [0, 0, 1, 0]
    assert folder.classes == [IDS[3], IDS[9]]
    assert mapping == {IDS[17]: 1, IDS[9]: 5, IDS[3]: 1, "not there": 7}


def test_the_class_that_a_restricted_model_names_is_the_folders(root):
    """A model that knows each picture's class gets all right, and would not with the labels of another order."""
    folder = ClassSubsetFolder(root, IDS, image_size=16)
    data = LabelledImages(folder)
    images, labels = data.take(torch.arange(4))
    truth = {int(image.sum()): IDS.index(Path(path).relative_to(root).parts[0]) for image, (path, _) in
             zip(images, folder.samples, strict=True)}  # fmt: skip

    def model(batch: Tensor) -> Tensor:
        wanted = torch.tensor([truth[int(image.sum())] for image in batch])
        logits = torch.nn.functional.one_hot(wanted, 20).float()
        logits[:, 0] = 5  # the class that the model likes best is not among the folders
        return logits

    assert bool((model(images).argmax(1) == 0).all())
    some = subject_of(model, folder.model_classes).module
    assert torch.equal(some(images).argmax(1), labels)


@pytest.mark.parametrize("size", [16, 24, 224])
def test_pictures_of_all_sizes_get_one_as_torchvision_makes_it(root, size):
    folder = ClassSubsetFolder(root, IDS, image_size=size)
    usual = v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)])
    assert round(224 * 256 / 224) == 256
    data = LabelledImages(folder)
    images, labels = data.take(torch.arange(4))
    assert images.shape == (4, 3, size, size) and images.dtype == torch.uint8 and labels.tolist() == [0, 0, 1, 2]
    for image, (path, _) in zip(images, folder.samples, strict=True):
        with Image.open(path) as opened:
            assert torch.equal(image, v2.functional.pil_to_tensor(usual(opened.convert("RGB"))))
    with pytest.raises(ValueError, match="dataset must hold images of one size"):
        LabelledImages(ClassSubsetFolder(root, IDS))


def test_a_transform_of_ones_own_and_grey_pictures(root):
    halved = ClassSubsetFolder(root, IDS, v2.Compose([v2.Resize((8, 8)), v2.ToImage()]))
    assert halved[0][0].shape == (3, 8, 8)
    grey = ClassSubsetFolder(root, IDS, image_size=8, channels=1)
    assert grey[0][0].mode == "L" and LabelledImages(grey).take(torch.arange(4))[0].shape == (4, 1, 8, 8)


def test_pictures_with_a_palette_or_transparency_become_colour(tmp_path):
    picture(tmp_path / "one" / "a.png", (6, 6), mode="RGBA")
    picture(tmp_path / "one" / "b.png", (6, 6), mode="L")
    folder = ClassSubsetFolder(tmp_path, ["one"])
    assert [image.mode for image, _ in folder] == ["RGB", "RGB"]


def test_extensions(root):
    folder = ClassSubsetFolder(root, IDS, extensions=(".png", ".webp"))
    assert folder.targets == [0, 1, 2]
    with pytest.raises(FileNotFoundError, match=IDS[9]):
        ClassSubsetFolder(root, IDS, extensions=(".png",))


def test_refuses_folders_that_do_not_fit(root, tmp_path_factory):
    picture(root / "extra" / "a.png")
    with pytest.raises(ValueError, match="root must hold folders of the model's 20 classes alone, got 'extra'; give"):
        ClassSubsetFolder(root, IDS)
    picture(root / "more" / "a.png")
    with pytest.raises(ValueError, match="got 'extra' and 1 more; give a mapping"):
        ClassSubsetFolder(root, IDS)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=f"root must hold a folder for each class, got none in {empty}"):
        ClassSubsetFolder(empty, IDS)
    (empty / IDS[4]).mkdir()
    with pytest.raises(FileNotFoundError, match=IDS[4]):
        ClassSubsetFolder(empty, IDS)
    with pytest.raises(ValueError, match="root must be a folder, got '/nowhere/at/all'"):
        ClassSubsetFolder("/nowhere/at/all", IDS)


def test_refuses_bad_classes_and_settings(root):
    for classes, error, message in [
        ("n01", TypeError, "classes must be names in the order of the model's logits, or a mapping, got str"),
        (3, TypeError, "or a mapping, got int"),
        (["a", "b", "a"], ValueError, "classes must be different names, got 'a' twice"),
        ({IDS[3]: -1}, ValueError, rf"classes\['{IDS[3]}'\] must be at least 0, got -1"),
        ({IDS[3]: "1"}, TypeError, rf"classes\['{IDS[3]}'\] must be an int, got str"),
        ({3: 1}, TypeError, "classes must map names of folders to indices, got 3"),
    ]:
        with pytest.raises(error, match=message):
            ClassSubsetFolder(root, classes)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        ClassSubsetFolder(root, IDS, channels=4)
    with pytest.raises(ValueError, match="image_size must be from 1 to 16384, got 0"):
        ClassSubsetFolder(root, IDS, image_size=0)
    with pytest.raises(ValueError, match="image_size must be None where a transform is given"):
        ClassSubsetFolder(root, IDS, v2.ToImage(), image_size=8)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_a_picture_that_cannot_be_read_is_named(root, damage):
    path = root / IDS[17] / "a.png"
    content = {"text": b"this is no picture", "cut": path.read_bytes()[:200], "empty": b""}[damage]
    path.write_bytes(content)
    folder = ClassSubsetFolder(root, IDS, image_size=8)
    assert folder[0][1] == 0
    with pytest.raises(ValueError, match=f"{path} cannot be read as a picture"):
        folder[3]


def test_all_pictures_of_a_folder_without_classes(root):
    picture(root / "e.png", (50, 50), 5)
    folder = PictureFolder(root, image_size=12)
    names = sorted(Path(path).name for path, _ in folder.samples)
    assert names == ["a.png", "b.png", "c.JPEG", "d.webp", "e.png"]
    assert folder.targets == [0] * 5 and LabelledImages(folder).take(torch.arange(5))[0].shape == (5, 3, 12, 12)
    assert not hasattr(folder, "model_classes")
    with pytest.raises(FileNotFoundError, match=rf"root must hold pictures \(\.gif\), got none in {root}"):
        PictureFolder(root, extensions=(".gif",))
    with pytest.raises(ValueError, match="root must be a folder"):
        PictureFolder(root / "nothing")
