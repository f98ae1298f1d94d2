"""Corrupted sets: ours are whole, repeatable and go on after a kill; published folders and trees are read as they are;
what is wrong with a folder is said by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mixaug.evaluate.corruptions import CORRUPTIONS, corrupt
from mixaug.evaluate.corruptions import sets as corrupted_sets
from mixaug.evaluate.corruptions.sets import ABOUT, CorruptedSet, save_corrupted
from mixaug.evaluate.seeds import seed_of


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 3, 12, 10), dtype=torch.uint8, generator=generator)
    return images, torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5])


def by_hand(images, name, severity, preset, seed):
    return corrupt(images, name, severity, preset, torch.Generator().manual_seed(seed_of(seed, name, severity, 0)))


# ---------------------------------------------------------------- ours


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_set_is_what_corrupt_makes(data, tmp_path, channels):
    images, labels = data[0][:, :channels].contiguous(), data[1]
    folder = save_corrupted((images, labels), tmp_path / "new" / "set", names=["contrast", "gaussian_noise"], seed=4)
    made = CorruptedSet(folder)
    assert (made.kind, made.names, made.severities) == ("saved", ("gaussian_noise", "contrast"), (1, 2, 3, 4, 5))
    assert len(made) == 9 and made.labels().equal(labels) and made.image_shape == (channels, 12, 10)
    index = torch.tensor([7, 0, 7])
    for name in made.names:
        for severity in (1, 4):
            got, of = made.take(name, severity, index)
            assert got.dtype == torch.uint8 and got.equal(by_hand(images, name, severity, "cifar", 4)[index])
            assert of.equal(labels[index]) and of.dtype == torch.int64
    stored = np.load(folder / "contrast.npy")
    assert stored.shape == ((45, 12, 10, 3) if channels == 3 else (45, 12, 10)) and stored.dtype == np.uint8
    assert np.load(folder / "labels.npy").tolist() == labels.tolist() * 5
    assert sorted(path.name for path in folder.iterdir()) == [
        "contrast.npy", ABOUT, "gaussian_noise.npy", "labels.npy",
    ]  # fmt: skip


def test_severities_subsets_and_presets(data, tmp_path):
    chosen = torch.tensor([8, 2])
    save_corrupted(data, tmp_path, names=["fog"], severities=[5, 2], index=chosen, preset="imagenet", seed=1)
    made = CorruptedSet(tmp_path)
    assert made.severities == (2, 5) and made.labels().tolist() == [5, 4]
    got, _ = made.take("fog", 5, torch.arange(2))
    assert got.equal(by_hand(data[0][chosen], "fog", 5, "imagenet", 1))
    with pytest.raises(ValueError, match=r"severity must be one of \[2, 5\]"):
        made.take("fog", 1, torch.arange(2))


def test_blocks_have_their_own_seeds_and_places(data, tmp_path, monkeypatch):
    monkeypatch.setattr(corrupted_sets, "BLOCK", 4)
    save_corrupted(data, tmp_path, names=["gaussian_noise"], severities=[3])
    got, _ = CorruptedSet(tmp_path).take("gaussian_noise", 3, torch.arange(9))
    for block, images in enumerate(data[0].split(4)):
        generator = torch.Generator().manual_seed(seed_of(0, "gaussian_noise", 3, block))
        assert got[4 * block : 4 * block + 4].equal(corrupt(images, "gaussian_noise", 3, generator=generator))


def test_a_killed_run_goes_on(data, tmp_path, monkeypatch):
    names = ["gaussian_noise", "fog", "contrast"]
    calls = []

    def dies(images, name, severity, preset, generator):
        calls.append((name, severity))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return corrupt(images, name, severity, preset, generator)

    monkeypatch.setattr(corrupted_sets, "corrupt", dies)
    with pytest.raises(KeyboardInterrupt):
        save_corrupted(data, tmp_path, names=names)
    assert (tmp_path / "gaussian_noise.npy").exists() and not (tmp_path / "fog.npy").exists()
    with pytest.raises(ValueError, match="unfinished, fog, contrast missing: run save_corrupted again"):
        CorruptedSet(tmp_path)
    before = (tmp_path / "gaussian_noise.npy").stat().st_mtime_ns
    told: list[str] = []
    save_corrupted(data, tmp_path, names=names, progress=told.append)
    assert told == names and {name for name, _ in calls[8:]} == {"fog", "contrast"}
    assert (tmp_path / "gaussian_noise.npy").stat().st_mtime_ns == before
    got, _ = CorruptedSet(tmp_path).take("fog", 2, torch.arange(9))
    assert got.equal(by_hand(data[0], "fog", 2, "cifar", 0))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_more_can_be_added_but_not_another_set(data, tmp_path):
    save_corrupted(data, tmp_path, names=["fog"])
    save_corrupted(data, tmp_path, names=["contrast"])
    assert CorruptedSet(tmp_path).names == ("fog", "contrast")
    for changed, word in (({"seed": 1}, "seed 0 in place of 1"), ({"preset": "imagenet"}, "preset"),
                          ({"severities": [1]}, "severities"), ({"index": torch.arange(3)}, "images 9")):  # fmt: skip
        with pytest.raises(ValueError, match=f"folder must be empty or hold the same set, .*{word}"):
            save_corrupted(data, tmp_path, names=["fog"], **changed)
    with pytest.raises(ValueError, match="clean_sha256"):
        save_corrupted((255 - data[0], data[1]), tmp_path, names=["fog"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"names": ["rain"]}, ValueError, "names must be one of gaussian_noise.*got 'rain'"),
        ({"names": []}, ValueError, "one or more"),
        ({"names": ["fog", "fog"]}, ValueError, "different"),
        ({"names": "fog"}, TypeError, "names must be a sequence of names, got str: 'fog'"),
        ({"severities": [0]}, ValueError, "severities must be of 1, 2, 3, 4, 5; got 0"),
        ({"preset": "mnist"}, ValueError, "preset must be one of cifar, imagenet, got 'mnist'"),
        ({"index": torch.tensor([9])}, IndexError, "index must be in 0 to 8, got 9 to 9"),
        ({"index": torch.tensor([0.5])}, TypeError, "index must be an integer tensor, got torch.float32"),
        ({"index": torch.tensor([], dtype=torch.int64)}, ValueError, "1 image or more"),
    ],
)
def test_bad_settings_write_nothing(data, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        save_corrupted(data, tmp_path / "x", **settings)
    assert not (tmp_path / "x").exists()


def test_bad_data_and_folders(data, tmp_path):
    with pytest.raises(ValueError, match="names must not have 'saturate' for grey images"):
        save_corrupted((data[0][:, :1], data[1]), tmp_path, names=["saturate"])
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        save_corrupted((data[0][:, :2], data[1]), tmp_path)
    np.save(tmp_path / "fog.npy", np.zeros(3))
    with pytest.raises(ValueError, match="npy files of another origin"):
        save_corrupted(data, tmp_path, names=["fog"])


# ---------------------------------------------------------------- published CIFAR-C


def cifar_c(folder, count=4, side=6, grey=False, label_dtype=np.uint8):
    """A folder as it is published: every image tells its row."""
    folder.mkdir(exist_ok=True)
    rows = np.arange(5 * count, dtype=np.uint8)
    for number, name in enumerate(("fog", "spatter")):
        images = np.zeros((5 * count, side, side) if grey else (5 * count, side, side, 3), np.uint8)
        images += (rows + 100 * number).reshape(-1, *[1] * (images.ndim - 1))
        if not grey:
            images[..., 2] += 50
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile(np.arange(count), 5).astype(label_dtype))
    return folder


@pytest.mark.parametrize("label_dtype", [np.uint8, np.int64])
def test_published_cifar_c(tmp_path, label_dtype):
    made = CorruptedSet(cifar_c(tmp_path, label_dtype=label_dtype))
    assert (made.kind, made.names, len(made), made.image_shape) == ("cifar-c", ("fog", "spatter"), 4, (3, 6, 6))
    images, labels = made.take("spatter", 3, torch.tensor([2, 0]))
    assert images[:, 0, 5, 0].tolist() == [110, 108] and images[:, 2, 0, 5].tolist() == [160, 158]
    assert labels.tolist() == [2, 0] and labels.dtype == torch.int64
    images += 1  # the file is not written to
    assert made.take("spatter", 3, torch.tensor([2]))[0][0, 0, 0, 0] == 110
    assert made.take("fog", 1, torch.empty(0, dtype=torch.int64))[0].shape == (0, 3, 6, 6)
    about = made.description()
    assert about["kind"] == "cifar-c" and about["images"] == 4 and len(about["labels_sha256"]) == 64
    assert "made" not in about and json.dumps(about)


def test_published_grey_and_short_labels(tmp_path):
    folder = cifar_c(tmp_path, grey=True)
    np.save(folder / "labels.npy", np.arange(4))
    made = CorruptedSet(folder)
    assert made.image_shape == (1, 6, 6) and made.labels().tolist() == [0, 1, 2, 3]
    assert made.take("fog", 5, torch.tensor([3]))[0].unique().tolist() == [19]


def test_files_are_mapped_not_read(tmp_path):
    made = CorruptedSet(cifar_c(tmp_path))
    assert all(isinstance(array, np.memmap) for array in made._source._arrays.values())


def broken(folder, what):
    if what == "float":
        np.save(folder / "fog.npy", np.zeros((20, 6, 6, 3), np.float32))
    elif what == "rows":
        np.save(folder / "fog.npy", np.zeros((19, 6, 6, 3), np.uint8))
    elif what == "sizes":
        np.save(folder / "spatter.npy", np.zeros((20, 7, 6, 3), np.uint8))
    elif what == "fewer":
        np.save(folder / "spatter.npy", np.zeros((15, 6, 6, 3), np.uint8))
    elif what == "channels":
        np.save(folder / "fog.npy", np.zeros((20, 6, 6, 4), np.uint8))
    elif what == "cut":
        (folder / "fog.npy").write_bytes((folder / "fog.npy").read_bytes()[:300])
    elif what == "rubbish":
        (folder / "fog.npy").write_bytes(b"not an array")
    elif what == "no labels":
        (folder / "labels.npy").unlink()
    elif what == "label count":
        np.save(folder / "labels.npy", np.zeros(7, np.int64))
    elif what == "label kind":
        np.save(folder / "labels.npy", np.zeros(20))
    else:
        np.save(folder / "labels.npy", np.arange(20))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("float", "fog.npy must be uint8, got float32"),
        ("rows", "fog.npy must hold the same number of images for 5 severities, got 19"),
        ("sizes", r"spatter.npy must have the shape of fog.npy, \(20, 6, 6, 3\), got \(20, 7, 6, 3\)"),
        ("fewer", r"spatter.npy must have the shape of fog.npy.*\(15, 6, 6, 3\)"),
        ("channels", r"fog.npy must have shape \(S N, H, W, 3\) or \(S N, H, W\), got \(20, 6, 6, 4\)"),
        ("cut", "fog.npy cannot be read as .npy"),
        ("rubbish", "fog.npy cannot be read as .npy"),
        ("no labels", "labels.npy is missing"),
        ("label count", r"labels.npy' must hold 20 labels \(or 4\), got 7|labels.npy must hold 20 labels"),
        ("label kind", "labels.npy must hold integers"),
        ("label order", "must repeat the same 4 labels for each severity"),
    ],
)
def test_broken_folders(tmp_path, what, message):
    broken(cifar_c(tmp_path), what)
    with pytest.raises(ValueError, match=message):
        CorruptedSet(tmp_path)


def test_bad_requests(tmp_path):
    made = CorruptedSet(cifar_c(tmp_path))
    one = torch.tensor([0])
    with pytest.raises(ValueError, match=r"name \(in .*\) must be one of fog, spatter, got 'snow'"):
        made.take("snow", 1, one)
    with pytest.raises(ValueError, match=r"severity must be one of \[1, 2, 3, 4, 5\] in .*, got 6"):
        made.take("fog", 6, one)
    with pytest.raises(IndexError, match="index must be in 0 to 3, got -1 to 4"):
        made.take("fog", 1, torch.tensor([-1, 4]))
    with pytest.raises(TypeError, match="index must be an integer tensor, got list"):
        made.take("fog", 1, [0])
    with pytest.raises(ValueError, match=r"index must have shape \(n,\), got \(1, 1\)"):
        made.take("fog", 1, one[None])
    with pytest.raises(FileNotFoundError, match=r"path must be a folder with a corrupted set, found none at .*nowhere"):
        CorruptedSet(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="classes must be None"):
        CorruptedSet(tmp_path, classes={"a": 0})


def test_a_foreign_description_is_refused(data, tmp_path):
    save_corrupted(data, tmp_path, names=["fog"])
    (tmp_path / ABOUT).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="must have format 1"):
        CorruptedSet(tmp_path)
    (tmp_path / ABOUT).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        CorruptedSet(tmp_path)


# ---------------------------------------------------------------- published ImageNet-C


def imagenet_c(folder, grouped, side=8):
    """Two corruptions, severities 1 to 5, two classes with three and two images; grey levels tell which is which."""
    groups = {"fog": "weather", "spatter": "extra"}
    for name, group in groups.items():
        for severity in range(1, 6):
            for label, count in (("n01", 3), ("n02", 2)):
                inner = folder / (group if grouped else "") / name / str(severity) / label
                inner.mkdir(parents=True)
                for i in range(count):
                    level = 40 * severity + 10 * i + 3 * (label == "n02")
                    Image.new("RGB", (side, side), (level, level, level)).save(inner / f"v{i}.JPEG", quality=100)
    return folder


@pytest.mark.parametrize("grouped", [False, True])
def test_published_imagenet_c(tmp_path, grouped):
    made = CorruptedSet(imagenet_c(tmp_path, grouped))
    assert (made.kind, made.names, len(made)) == ("imagenet-c", ("fog", "spatter"), 5)
    assert made.image_shape == (3, 8, 8) and made.labels().tolist() == [0, 0, 0, 1, 1]
    images, labels = made.take("spatter", 4, torch.tensor([4, 1]))
    assert (images[:, :, 0, 0].int() - torch.tensor([[173] * 3, [170] * 3])).abs().max() <= 1
    assert labels.tolist() == [1, 0] and images.dtype == torch.uint8
    named = CorruptedSet(tmp_path, classes={"n01": 7, "n02": 2, "n03": 1})
    assert named.take("fog", 1, torch.tensor([0, 4]))[1].tolist() == [7, 2]
    assert named.description()["labels_sha256"] != made.description()["labels_sha256"]


def test_broken_trees(tmp_path):
    folder = imagenet_c(tmp_path / "a", grouped=False)
    with pytest.raises(ValueError, match=r"classes must give a label for each .* missing 'n02'"):
        CorruptedSet(folder, classes={"n01": 0})
    (folder / "fog" / "2" / "n01" / "v1.JPEG").unlink()
    made = CorruptedSet(folder)
    with pytest.raises(ValueError, match="2 must hold the 5 images of fog/1 by the same names, got 4"):
        made.take("fog", 2, torch.tensor([0]))
    Image.new("RGB", (9, 8)).save(folder / "fog" / "3" / "n02" / "v0.JPEG")
    with pytest.raises(ValueError, match=r"images must have one size, got \(3, 8, 9\) in .*v0.JPEG and \(3, 8, 8\)"):
        made.take("fog", 3, torch.tensor([0, 3]))
    (folder / "fog" / "4" / "n02" / "v0.JPEG").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"v0.JPEG cannot be read as a picture"):
        made.take("fog", 4, torch.tensor([3]))
    (folder / "spatter" / "5").rename(folder / "spatter" / "six")
    with pytest.raises(ValueError, match="5 is missing: fog has severity 5"):
        CorruptedSet(folder)
    (folder / "spatter" / "six").rename(folder / "spatter" / "5")
    (folder / "spatter" / "5" / "n02").rename(folder / "spatter" / "5" / "n09")
    with pytest.raises(ValueError, match="must have the 2 classes of"):
        CorruptedSet(folder)
    with pytest.raises(ValueError, match=r"must hold NAME.npy files or NAME/SEVERITY/CLASS folders"):
        CorruptedSet(folder / "fog")
    empty = tmp_path / "b"
    (empty / CORRUPTIONS[0] / "1" / "n01").mkdir(parents=True)
    with pytest.raises(ValueError, match="must hold images in folders of classes, got none"):
        CorruptedSet(empty)
