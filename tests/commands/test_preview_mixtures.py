"""``mixaug preview --transform adautomix``: what is drawn is what the checkpoint's generator makes of the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mixaug import AdAutoMix, GeneratedMix
from mixaug.adautomix import figure
from mixaug.cli import main
from mixaug.evaluate import class_activation_maps
from mixaug.models import ModelSpec
from mixaug.train.data import load_data

DIGITS = tuple("0123456789")


def save(path: Path, channels: int = 1, classes: tuple[str, ...] | None = DIGITS, own: bool = False) -> Path:
    spec = ModelSpec("resnet-small", len(classes or DIGITS), channels, 32, (0.3,) * channels, (0.3,) * channels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixer = AdAutoMix(spec.build(), spec.num_classes, n_mix=2, example_input=torch.rand(2, channels, 32, 32))
    with torch.no_grad():
        mixer.generator.project.weight *= 8
    mixer.save(path, spec=None if own else spec, classes=classes)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run") / "generator.pt")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(checkpoint: Path | str, *words: str) -> list[str]:
    return ["preview", "--data", "digits", "--transform", "adautomix", "--checkpoint", str(checkpoint), *words]


def test_mixtures_of_two_to_five_images(checkpoint, capsys, monkeypatch):
    seen = []
    original = figure.draw_blocks
    monkeypatch.setattr(figure, "draw_blocks", lambda *given: (seen.append(given), original(*given)))
    assert main(command(checkpoint, "--columns", "3", "--out", "p.png", "--seed", "4")) == 0
    assert capsys.readouterr().out == "p.png: mixtures of 2 to 5 images of digits, 3 each\n"
    ((rows, out, heading),) = seen
    assert str(out) == "p.png" and "digits by generator.pt, trained with 2" in heading
    with Image.open("p.png") as picture:
        assert picture.width > 1000 and picture.height > 1000
    assert [[len(mixture.sources) for mixture in row] for row in rows] == [[n] * 3 for n in (2, 3, 4, 5)]
    mix, data = GeneratedMix.from_checkpoint(checkpoint), load_data("digits")
    known = {image.numpy().tobytes(): data.classes[int(label)] for image, label in data.train}
    for row in rows:
        for first, mixture in zip(rows[0], row, strict=True):
            assert torch.equal(mixture.sources[0], first.sources[0])
            assert mixture.names == [known[image.numpy().tobytes()] for image in mixture.sources]
            assert len({image.numpy().tobytes() for image in mixture.sources}) == len(mixture.sources)
            shares = mixture.masks[:, None]
            torch.testing.assert_close(shares.sum(0), torch.ones(1, 32, 32))
            wanted = (shares * mixture.sources.float()).sum(0)
            assert mixture.mixed.dtype == torch.uint8 and (mixture.mixed.float() - wanted).abs().max() < 0.501
            assert float(mixture.ratios.sum()) == pytest.approx(1)
            classes = [DIGITS.index(name) for name in mixture.names]
            maps = class_activation_maps(mix.teacher.model, mixture.mixed[None], [classes])[0]
            torch.testing.assert_close(mixture.maps, maps)
        assert len({float(mixture.ratios[0]) for mixture in row}) == 3  # draws of their own


def test_the_same_command_gives_the_same_picture(checkpoint, capsys):
    for name, seed, columns in (("p.png", "0", 2), ("q.png", "0", 2), ("r.png", "1", 1)):
        words = ["--columns", "1"] if columns == 1 else []  # two by default
        assert main(command(checkpoint, "--out", name, "--seed", seed, *words)) == 0
        assert capsys.readouterr().out == f"{name}: mixtures of 2 to 5 images of digits, {columns} each\n"
    first, second, other = (Path(name).read_bytes() for name in ("p.png", "q.png", "r.png"))
    assert first == second and first != other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--transform", "adautomix"], "--checkpoint must be given with --transform adautomix: generator.pt of a run"),
        (["--checkpoint", "a.pt"], "--checkpoint must be used with --transform adautomix, got ipmix"),
        (["--transform", "dynamic-mixcut", "--checkpoint", "a.pt"], "with --transform adautomix, got dynamic-mixcut"),
        (["--transform", "adautomix", "--rows", "3"], "--rows must be used with --transform ipmix or dynamic-mixcut, "),
        (["--transform", "adautomix", "--boxes", "2"], "--boxes must be used with --transform dynamic-mixcut, got ada"),
        (["--transform", "adautomix", "--columns", "0"], "--columns must be at least 1, got 0"),
        (["--transform", "adautomix", "--checkpoint", "a.pt"], "no generator at a.pt"),
    ],
)
def test_wrong_options_are_one_line(words, message, capsys):
    assert main(["preview", "--data", "digits", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("mixaug preview:") and err.count("\n") == 1
    assert not list(Path().glob("*.png"))


def test_data_that_does_not_fit_the_checkpoint(capsys, tmp_path):
    for made, message in (
        ({"channels": 3}, "--data must have the checkpoint's 3 channels, got digits with 1"),
        (
            {"classes": ("cat", "dog", "eel")},
            "--data must have the checkpoint's 3 classes (cat, dog, eel, ...), got digits with 10 (0, 1, 2, ...)",
        ),
        ({"classes": DIGITS[::-1]}, "--data must have the checkpoint's 10 classes (9, 8, 7, ...), got digits with 10"),
        ({"own": True}, "--checkpoint must be of a model that mixaug builds, got one of a model of the user's own"),
    ):
        assert main(command(save(tmp_path / "other.pt", **made))) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err and err.count("\n") == 1
    assert not Path("preview.png").exists()


def test_more_columns_than_images(checkpoint, capsys):
    count = len(load_data("digits").train)
    assert main(command(checkpoint, "--columns", str(count))) == 2
    assert f"--columns must be at most {count // 5} for {count} images, got {count}" in capsys.readouterr().err
