"""Data sets by name: the embedded images, splits, torchvision's file formats, image folders, refusals."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import runpy
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image

import mixaug.data
from mixaug import MixingSet
from mixaug.data import EMBEDDED_CLASSES, load_embedded, load_pictures, pack_pictures, unpack_pictures
from mixaug.mixing_sets import iter_pictures
from mixaug.mixing_sets.recipes import ResizedRecipe, resize
from mixaug.train import images as images_module
from mixaug.train.data import DATA_SETS, DataParts, load_data
from mixaug.train.images import (
    FolderImages,
    ImageTensors,
    ResizedImages,
    balanced_limit,
    decode,
    mean_and_std,
    stratified_split,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any attempt to fetch something fails, and the user's own data are not seen."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("MIXAUG_DATA", str(tmp_path / "data"))


def write_tree(root: Path, counts: dict[str, int], size: tuple[int, int] = (6, 6), suffix: str = ".png") -> Path:
    """A folder per class of pictures, each of one colour of its own: (class, number, 7)."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (label * 10, number, 7)).save(root / name / f"{number:03}{suffix}")
    return root


def colours(part: Any) -> set[tuple[int, ...]]:
    return {tuple(part[i][0][:, 0, 0].tolist()) for i in range(len(part))}


# --- embedded -----------------------------------------------------------------------------------------------------


def test_embedded_images_are_balanced_and_as_the_notice_says() -> None:
    data = load_embedded()
    assert data.train_images.shape == (5000, 1, 28, 28)
    assert data.test_images.shape == (1000, 1, 28, 28)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.bincount().tolist() == [500] * 10
    assert data.test_labels.bincount().tolist() == [100] * 10
    # The original training file starts with an ankle boot, two T-shirts, a dress.
    assert [EMBEDDED_CLASSES[label] for label in data.train_labels[:4].tolist()] == [
        "Ankle boot",
        "T-shirt/top",
        "T-shirt/top",
        "Dress",
    ]
    folder = Path(mixaug.data.__file__).parent
    archive = (folder / "fashion_mnist_subset.npz").read_bytes()
    notice = (folder / "NOTICE.md").read_text()
    assert hashlib.sha256(archive).hexdigest() in notice
    assert "Zalando SE" in notice
    assert "Permission is hereby granted" in notice
    assert len(archive) < 2_700_000


def test_embedded_train_and_test_share_no_image() -> None:
    data = load_embedded()
    train = {image.numpy().tobytes() for image in data.train_images}
    assert len(train) == 5000
    assert not train & {image.numpy().tobytes() for image in data.test_images}


def test_damaged_embedded_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fashion_mnist_subset.npz").write_bytes(b"PK\x03\x04 cut short")
    monkeypatch.setattr(mixaug.data, "files", lambda package: tmp_path)
    with pytest.raises(OSError, match=r"fashion_mnist_subset.npz cannot be read .*; install mixaug again"):
        load_embedded()


def write_idx(path: Path, array: np.ndarray, compress: bool) -> None:
    content = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)


def test_tool_takes_the_first_of_each_class_and_repeats_its_bytes(tmp_path: Path) -> None:
    tool = runpy.run_path(str(ROOT / "benchmarks" / "make_embedded_data.py"))
    source = tmp_path / "deep" / "originals"
    labels = {}
    for prefix, count in (("train", 6000), ("t10k", 1500)):
        labels[prefix] = (np.arange(count) * 7 % 10).astype(np.uint8)
        numbers = np.arange(count).astype(">u2").view(np.uint8).reshape(count, 1, 2)
        write_idx(source / f"{prefix}-images-idx3-ubyte.gz", numbers, compress=True)
        write_idx(source / f"{prefix}-labels-idx1-ubyte.gz", labels[prefix], compress=True)
    one = tool["make"](tmp_path, tmp_path / "one.npz")
    assert one == tool["make"](tmp_path, tmp_path / "two.npz")
    with np.load(tmp_path / "one.npz") as archive:
        # Labels repeat every ten images, so the first 500 of each class are the first 5,000.
        positions = archive["train_images"].reshape(-1, 2).copy().view(">u2").ravel()
        assert positions.tolist() == list(range(5000))
        assert np.array_equal(archive["test_labels"], labels["t10k"][:1000])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.gz is not in"):
        tool["make"](tmp_path / "nowhere", tmp_path / "three.npz")


# --- splits -------------------------------------------------------------------------------------------------------


def test_split_is_balanced_complete_and_repeats() -> None:
    labels = torch.tensor([0] * 20 + [1] * 50 + [2] * 1 + [3] * 2)[torch.randperm(73)]
    kept, off = stratified_split(labels, 0.1, seed=3)
    assert torch.equal(torch.cat([kept, off]).sort().values, torch.arange(73))
    assert labels[off].bincount(minlength=4).tolist() == [2, 5, 0, 1]
    assert torch.equal(off, stratified_split(labels, 0.1, seed=3)[1])
    assert not torch.equal(off, stratified_split(labels, 0.1, seed=4)[1])


def test_limit_is_balanced_nested_and_uses_up_small_classes() -> None:
    labels = torch.tensor([0] * 30 + [1] * 3 + [2] * 30)
    chosen = balanced_limit(labels, 23, seed=0)
    assert labels[chosen].bincount().tolist() == [10, 3, 10]
    assert set(balanced_limit(labels, 11, seed=0).tolist()) < set(chosen.tolist())
    assert torch.equal(chosen, chosen.sort().values)
    assert len(balanced_limit(labels, 1000, seed=0)) == 63


def test_mean_and_std_are_those_of_the_pixels() -> None:
    pictures = torch.randint(0, 256, (50, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = mean_and_std(ImageTensors(pictures, torch.zeros(50, dtype=torch.int64)))
    values = pictures.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist())
    black = ImageTensors(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert mean_and_std(black) == ((0.0,), (1 / 255,))


def test_parts_of_the_default() -> None:
    data = load_data()
    assert isinstance(data, DataParts)
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [4500, 500, 1000]
    assert [part.labels.bincount().unique().tolist() for part in parts] == [[450], [50], [100]]
    assert (data.name, data.channels, data.image_size, data.classes) == ("embedded", 1, 28, EMBEDDED_CLASSES)
    pixels = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert not pixels[0] & pixels[1]
    assert not (pixels[0] | pixels[1]) & pixels[2]
    assert data.mean == pytest.approx((data.train.images.double().mean().item() / 255,))
    again, other = load_data(), load_data(seed=1)
    assert torch.equal(again.validation.images, data.validation.images)
    assert not torch.equal(other.validation.images, data.validation.images)
    assert torch.equal(other.test.images, data.test.images)
    image, label = data.train[0]
    assert image.shape == (1, 28, 28)
    assert isinstance(label, int)


def test_limit_and_size_change_what_they_say_and_nothing_else() -> None:
    data, whole = load_data(limit=200, image_size=20, validation=0.2), load_data(validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 1000, 1000)
    assert data.train.labels.bincount().tolist() == [20] * 10
    assert data.train.images.shape[-2:] == data.test.images.shape[-2:] == (20, 20)
    assert data.image_size == 20
    assert torch.equal(data.validation.labels, whole.validation.labels)
    assert (data.test.images.double().mean() - whole.test.images.double().mean()).abs() < 1


def test_digits_have_three_parts_and_a_usable_size() -> None:
    pytest.importorskip("sklearn")
    data = load_data("digits")
    assert (data.image_size, data.channels, len(data.classes)) == (32, 1, 10)
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert 170 <= len(data.test) <= 190
    assert 170 <= len(data.validation) <= 190
    small = load_data("digits", image_size=8)
    assert small.train.images.shape[-2:] == (8, 8)
    assert small.train.images.max() == 255


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"digits needs scikit-learn: pip install 'mixaug\[train\]'"):
        load_data("digits")


# --- torchvision's data sets, in their own file formats --------------------------------------------------------------


def fake_pixels(count: int, channels: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose first pixel's channels are (number, channel + 1, ...) so that a wrong layout shows."""
    pixels = np.zeros((count, channels, side, side), dtype=np.uint8)
    pixels[:, :, 0, 0] = np.arange(count)[:, None]
    pixels[:, :, 0, 1] = np.arange(1, channels + 1)
    return pixels, (np.arange(count) % 10).astype(np.uint8)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_kinds_are_read_without_network(name: str, folder: str, tmp_path: Path) -> None:
    for prefix, count in (("train", 100), ("t10k", 20)):
        pixels, labels = fake_pixels(count, 1, 28)
        write_idx(tmp_path / folder / "raw" / f"{prefix}-images-idx3-ubyte", pixels[:, 0], compress=False)
        write_idx(tmp_path / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels, compress=False)
    data = load_data(name, root=tmp_path, download=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert data.test.images[:, 0, 0, 0].tolist() == list(range(20))
    assert data.test.labels.tolist() == [*range(10)] * 2
    assert len(data.classes) == 10
    assert data.channels == 1


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_is_read_without_network(name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    maker = CIFAR10 if name == "cifar10" else CIFAR100
    folder = tmp_path / maker.base_folder
    folder.mkdir()

    def write(file: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        return [file, hashlib.md5(data).hexdigest()]

    for attribute, count in (("train_list", 100), ("test_list", 20)):
        pixels, labels = fake_pixels(count, 3, 32)
        entry = write(attribute, {"data": pixels.reshape(count, -1), key: labels.tolist()})
        monkeypatch.setattr(maker, attribute, [entry])
    names = [f"class {label}" for label in range(10)]
    file, digest = write("meta", {maker.meta["key"]: names})
    monkeypatch.setattr(maker, "meta", {**maker.meta, "filename": file, "md5": digest})
    data = load_data(name, root=tmp_path)
    assert data.test.images.shape == (20, 3, 32, 32)
    assert data.test.images[7, :, 0, :2].tolist() == [[7, 1], [7, 2], [7, 3]]
    assert data.classes == tuple(names)
    assert data.channels == 3
    assert data.train.images.is_contiguous()


def test_svhn_is_read_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    from torchvision.datasets import SVHN

    (tmp_path / "svhn").mkdir()
    listed = {}
    for split, count in (("train", 100), ("test", 20)):
        pixels, labels = fake_pixels(count, 3, 32)
        file = tmp_path / "svhn" / f"{split}_32x32.mat"
        labels[labels == 0] = 10  # SVHN's own number for the digit 0
        scipy_io.savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": labels[:, None]})
        listed[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", listed)
    data = load_data("svhn", root=tmp_path)
    assert data.test.images[7, :, 0, :2].tolist() == [[7, 1], [7, 2], [7, 3]]
    assert data.test.labels.tolist() == [*range(10)] * 2
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("name", DATA_SETS[2:])
def test_missing_copy_says_what_to_type(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in .*type: mixaug train --data {name} --download"):
        load_data(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_is_an_oserror_that_names_the_data(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cifar10 could not be downloaded to"):
        load_data("cifar10", root=tmp_path, download=True)


# --- folders --------------------------------------------------------------------------------------------------------


def test_flat_tree_is_split_80_10_10(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": 30, "dog": 20})
    data = load_data(f"folder:{tmp_path}")
    assert [part.labels.bincount().tolist() for part in (data.train, data.validation, data.test)] == [
        [24, 16],
        [3, 2],
        [3, 2],
    ]
    seen = [colours(part) for part in (data.train, data.validation, data.test)]
    assert len(seen[0] | seen[1] | seen[2]) == 50
    assert data.classes == ("cat", "dog")
    assert (data.image_size, data.channels) == (6, 3)
    assert data.name == f"folder:{tmp_path}"
    for i in range(len(data.train)):
        image, label = data.train[i]
        assert image[0, 0, 0] == label * 10


def test_tree_with_three_parts_keeps_them(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 4, "b": 4})
    write_tree(tmp_path / "validation", {"a": 2, "b": 1})
    write_tree(tmp_path / "test", {"b": 3})
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 3, 3)
    assert data.test.labels.tolist() == [1, 1, 1]
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="one validation folder, got both val and validation"):
        load_data(f"folder:{tmp_path}")


def test_imagenet_layout_reports_on_val(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 20, "b": 20}, suffix=".JPEG")
    write_tree(tmp_path / "val", {"a": 3, "b": 3}, suffix=".JPEG")
    write_tree(tmp_path / "test", {"images": 5}, suffix=".JPEG")  # no labels
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 6)


def test_tiny_imagenet_layout(tmp_path: Path) -> None:
    write_tree(tmp_path / "train" / "n1", {"images": 10})
    write_tree(tmp_path / "train" / "n2", {"images": 10})
    write_tree(tmp_path / "val", {"images": 3})
    table = tmp_path / "val" / "val_annotations.txt"
    table.write_text("".join(f"{i:03}.png\t{name}\t0\t0\t5\t5\n" for i, name in enumerate(("n2", "n1", "n2"))))
    data = load_data(f"folder:{tmp_path}")
    assert data.test.labels.tolist() == [1, 0, 1]
    assert data.test.images[:, 1, 0, 0].tolist() == [0, 1, 2]
    table.write_text("000.png\tn9\t0\t0\t5\t5\n")
    with pytest.raises(ValueError, match=r"val_annotations.txt must name train's classes, got 'n9'"):
        load_data(f"folder:{tmp_path}")


def test_mixed_sizes_are_cut_and_resized(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": 3, "b": 3})
    picture = Image.new("RGB", (30, 10), "black")
    picture.paste((255, 255, 255), (10, 0, 20, 10))  # the centred square is white
    picture.save(tmp_path / "a" / "000.png")
    assert load_data(f"folder:{tmp_path}").image_size == 224
    # The filter reads a little beyond the cut; squeezed instead of cut, two thirds would be black.
    assert decode(tmp_path / "a" / "000.png", 5).min() > 200
    assert load_data(f"folder:{tmp_path}", image_size=5).train.images.shape[-2:] == (5, 5)


def test_kinds_of_pictures(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 9).save(tmp_path / "grey.png")
    Image.new("RGBA", (2, 2), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (2, 2), (255, 0, 0)).quantize().save(tmp_path / "palette.gif")
    Image.fromarray(np.full((2, 2), 1000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert decode(tmp_path / "grey.png")[:, 0, 0].tolist() == [9, 9, 9]
    assert decode(tmp_path / "clear.png")[:, 0, 0].tolist() == [1, 2, 3]
    assert decode(tmp_path / "palette.gif")[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(tmp_path / "deep.png")[:, 0, 0].tolist() == [3, 3, 3]  # the upper 8 of 16 bits
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg").shape == (3, 4, 2)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_one_broken_picture_is_named(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a": 100, "b": 100}, suffix=".jpg")
    broken = tmp_path / "b" / "055.jpg"
    content = {"cut": broken.read_bytes()[:-200], "empty": b"", "text": b"no picture at all"}[damage]
    broken.write_bytes(content)
    with pytest.raises(ValueError, match=r"b.055\.jpg cannot be read as a picture: "):
        load_data(f"folder:{tmp_path}")
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 0)  # on demand: named when it is reached
    data = load_data(f"folder:{tmp_path}", image_size=6, limit=2)
    everything = FolderImages([str(broken)], torch.zeros(1, dtype=torch.int64), 6)
    assert isinstance(data.train, FolderImages)
    with pytest.raises(ValueError, match=r"b.055\.jpg cannot be read"):
        everything[0]


def test_large_parts_are_read_on_demand_with_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a": 20, "b": 20}, size=(9, 7))
    kept = load_data(f"folder:{tmp_path}", image_size=5)
    grey = load_data("embedded", image_size=12, limit=50)
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 0)
    read = load_data(f"folder:{tmp_path}", image_size=5)
    assert isinstance(read.train, FolderImages)
    assert torch.equal(read.train.labels, kept.train.labels)
    assert all(torch.equal(read.train[i][0], kept.train[i][0]) for i in range(len(kept.train)))
    assert read.mean == pytest.approx(kept.mean)
    resized = load_data("embedded", image_size=12, limit=50)
    assert isinstance(resized.train, ResizedImages)
    assert len(resized.train) == 50
    assert all(torch.equal(resized.train[i][0], grey.train[i][0]) for i in range(50))


def test_on_demand_parts_work_in_loader_workers(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": 6, "b": 6})
    paths = sorted(str(path) for path in tmp_path.rglob("*.png"))
    part = FolderImages(paths, torch.tensor([0] * 6 + [1] * 6), 6)
    loader = torch.utils.data.DataLoader(part, batch_size=4, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 6 + [1] * 6
    assert batches[0][0].shape == (4, 3, 6, 6)
    assert batches[0][0].dtype == torch.uint8


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_data(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        load_data(f"folder:{tmp_path / 'file'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"at least 2 classes, got none"):
        load_data(f"folder:{tmp_path / 'empty'}")
    write_tree(tmp_path / "one", {"a": 2})
    with pytest.raises(ValueError, match=r"at least 2 classes, got only 'a'"):
        load_data(f"folder:{tmp_path / 'one'}")
    write_tree(tmp_path / "hollow", {"a": 2, "b": 0})
    with pytest.raises(ValueError, match=r"hollow.b has no pictures"):
        load_data(f"folder:{tmp_path / 'hollow'}")
    write_tree(tmp_path / "more" / "train", {"a": 2, "b": 2})
    write_tree(tmp_path / "more" / "test", {"a": 2, "c": 2})
    with pytest.raises(ValueError, match=r"test must have train's classes only, got c"):
        load_data(f"folder:{tmp_path / 'more'}")
    write_tree(tmp_path / "few", {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="too few images for a validation part"):
        load_data(f"folder:{tmp_path / 'few'}")


# --- arguments ------------------------------------------------------------------------------------------------------


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'CIFAR_10'; did you mean cifar10\? Known: embedded, .*, folder:PATH"):
        load_data("CIFAR_10")
    with pytest.raises(ValueError, match=r"for the folder of that name type folder:"):
        load_data(str(tmp_path))
    with pytest.raises(ValueError, match="path after 'folder:'"):
        load_data("folder:")
    with pytest.raises(TypeError, match="name must be a string, got int"):
        load_data(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"validation must be above 0 and at most 0\.5, got 0"):
        load_data(validation=0)
    with pytest.raises(TypeError, match="validation must be a number, got str"):
        load_data(validation="0.1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit must be from 1 to 2147483647, got 0"):
        load_data(limit=0)
    with pytest.raises(TypeError, match="image_size must be an int, got float"):
        load_data(image_size=32.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed must be an int, got None"):
        load_data(seed=None)  # type: ignore[arg-type]


def test_image_tensors_check_their_tensors() -> None:
    pixels, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"images must be uint8, got torch.float32"):
        ImageTensors(pixels.float(), labels)
    with pytest.raises(TypeError, match=r"labels must be int64, got torch.float32"):
        ImageTensors(pixels, labels.float())
    with pytest.raises(ValueError, match=r"images must have the shape \(N, C, H, W\), got \(2, 4, 4\)"):
        ImageTensors(pixels[:, 0], labels)
    with pytest.raises(ValueError, match=r"labels must have the shape \(2,\), got \(1,\)"):
        ImageTensors(pixels, labels[:1])


def test_data_folder_is_in_the_users_cache_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mixaug.train.data import data_folder

    assert data_folder() == tmp_path / "data"
    monkeypatch.delenv("MIXAUG_DATA")
    assert data_folder().parts[-2:] == ("mixaug", "data")


def test_ready_pictures_are_those_that_would_be_made() -> None:
    """The default mixing set for 32-px images comes with the package: no picture of it differs from a made one."""
    ready = load_pictures("fractals2-s256-seed0-n512-r36", (512, 3, 36, 36))
    assert ready is not None and ready.dtype == torch.uint8
    assert MixingSet.default()._recipe is not None
    assert ResizedRecipe(MixingSet.default()._recipe, 36).stem == "fractals2-s256-seed0-n512-r36"
    for start, count in ((0, 10), (250, 3), (507, 5)):
        made = torch.cat(list(iter_pictures("fractals", count, 256, 0, start=start)))
        assert torch.equal(resize(made, 36), ready[start : start + count])


def test_ready_pictures_serve_without_any_being_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path))
    monkeypatch.setattr("mixaug.mixing_sets.recipes.iter_pictures", None)
    pictures = MixingSet.fractals()
    assert pictures.resized(36).shape == (512, 3, 36, 36)
    assert [path.name for path in tmp_path.glob("*.npy")] == ["fractals2-s256-seed0-n512-r36-v2.npy"]
    with pytest.raises(TypeError, match="not callable"):  # another side has to be made
        pictures.resized(40)


@pytest.mark.parametrize("content", [b"", b"\xfd7zXZ\x00 cut short", pack_pictures(torch.zeros(1, 3, 4, 4).byte())])
def test_damaged_ready_pictures_say_what_to_do(monkeypatch, tmp_path, content) -> None:
    (tmp_path / "mine.xz").write_bytes(content)
    monkeypatch.setattr(mixaug.data, "files", lambda package: tmp_path)
    with pytest.raises(OSError, match=r"mine.xz cannot be read .*; install mixaug again"):
        load_pictures("mine", (2, 3, 4, 4))
    assert load_pictures("other", (2, 3, 4, 4)) is None


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (5, 3, 7, 9), (2, 3, 36, 36)])
def test_packed_pictures_come_back(shape) -> None:
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pictures.clone()
    assert torch.equal(unpack_pictures(pack_pictures(pictures), shape), pictures) and torch.equal(pictures, before)
