"""Mixing sets by name, as ``--mixing-set`` of training and preview takes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mixaug.cli import main
from mixaug.mixing_sets import SOURCES, MixingSet
from mixaug.mixing_sets import named as _named
from mixaug.mixing_sets.named import mixing_set_of, named_parts
from mixaug.train.settings import TrainSettings
from mixaug.transforms import IPMix

TINY = ["--data", "digits", "--model", "lenet5", "--batch-size", "64", "--limit", "256", "--quiet", "--device", "cpu"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch):
    """Sources of four even pictures, each source at a level of its own."""
    for level, name in enumerate(SOURCES, 1):
        pictures = MixingSet.from_tensor(torch.full((4, 3, 16, 16), 40 * level, dtype=torch.uint8))
        monkeypatch.setitem(_named._MAKERS, name, lambda pictures=pictures: pictures)


def folder(name: str, count: int = 3, level: int = 250) -> str:
    for index in range(count):
        Path(name).mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (16, 16), (level, level, level)).save(Path(name) / f"{index}.png")
    return name


def levels(pictures: MixingSet) -> list[int]:
    return sorted(pictures.pictures[:, 0, 0, 0].tolist())


@pytest.fixture
def seen(monkeypatch) -> list[MixingSet | None]:
    """The mixing sets that IPMix is made with."""
    given: list[MixingSet | None] = []
    original = IPMix.__init__

    def noted(self, *args, mixing_set=None, **more):
        given.append(mixing_set)
        original(self, *args, mixing_set=mixing_set, **more)

    monkeypatch.setattr(IPMix, "__init__", noted)
    return given


# --- names ----------------------------------------------------------------------------------------------------------


def test_every_source_has_a_name():
    assert tuple(_named._MAKERS) == SOURCES
    for name in SOURCES:
        pictures = mixing_set_of(name)
        assert len(pictures) == 512 and pictures.size == 256
        assert repr(pictures) == repr(getattr(MixingSet, name.replace("-", "_"))())
        assert "not made yet" in repr(pictures)


def test_several_names_are_a_mixture_of_equal_parts(small):
    assert levels(mixing_set_of("fractals,ifs")) == [40] * 4 + [80] * 4
    assert levels(mixing_set_of(" dead-leaves , spectrum,contours")) == [120] * 4 + [160] * 4 + [200] * 4
    folder("mine", 2)
    assert levels(mixing_set_of("./mine,fractals")) == [40] * 2 + [250] * 2


def test_a_source_goes_before_a_folder_of_its_name(small):
    folder("ifs", 3)
    assert levels(mixing_set_of("ifs")) == [80] * 4
    assert levels(mixing_set_of("./ifs")) == [250] * 3
    assert levels(mixing_set_of(str(Path("ifs").absolute()))) == [250] * 3
    assert levels(mixing_set_of("ifs,./ifs")) == [80] * 3 + [250] * 3


def test_folders_may_have_commas_and_be_in_the_home(small, monkeypatch, tmp_path):
    assert levels(mixing_set_of(folder("black,white", 2))) == [250] * 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert levels(mixing_set_of("~/black,white")) == [250] * 2


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("fractal", "'fractal'; did you mean 'fractals'?"),
        ("", "''"),
        ("Fractals", "'Fractals'; did you mean 'fractals'?"),
        ("dead_leaves", "'dead_leaves'; did you mean 'dead-leaves'?"),
        ("fractals,moon", "'moon' in 'fractals,moon'"),
        ("fractals,", "'' in 'fractals,'"),
        ("./nowhere", "'./nowhere'"),
        ("a-file", "'a-file'"),
    ],
)
def test_other_names_are_refused(text, got):
    Path("a-file").write_text("x")
    wanted = "mixing_set must be one of fractals, ifs, contours, dead-leaves, spectrum, a folder, or several of them "
    with pytest.raises(ValueError, match=re.escape(f"{wanted}joined by commas, got {got}") + "$"):
        mixing_set_of(text)


def test_bad_input():
    with pytest.raises(ValueError, match=re.escape("mixing_set must name each of its parts once, got 'ifs,ifs'")):
        named_parts("ifs,ifs")
    with pytest.raises(TypeError, match="mixing_set must be a str, got int: 3"):
        mixing_set_of(3)
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="path must hold at least one picture"):
        mixing_set_of("empty")


# --- training -------------------------------------------------------------------------------------------------------


def test_training_uses_what_is_named_and_keeps_the_text(small, seen):
    folder("ifs")
    words = ["train", *TINY, "--method", "ipmix", "--steps", "2", "--out", "run", "--mixing-set", "fractals,./ifs"]
    assert main(words) == 0
    assert [levels(pictures) for pictures in seen] == [[40] * 3 + [250] * 3]
    assert json.loads(Path("run/settings.json").read_text())["settings"]["mixing_set"] == "fractals,./ifs"
    kept = torch.load("run/last.pt", weights_only=True)["settings"]
    assert kept["mixing_set"] == "fractals,./ifs"
    assert TrainSettings.from_dict(kept).mixing_set == "fractals,./ifs"


def test_settings_keep_a_path_a_folder():
    assert TrainSettings(mixing_set=Path("ifs")).mixing_set == "./ifs"
    assert TrainSettings(mixing_set=Path("mine/ifs")).mixing_set == "mine/ifs"
    assert TrainSettings(mixing_set="ifs").mixing_set == "ifs"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mixing-set", "moon"], "mixing_set must be one of fractals, ifs, contours, dead-leaves, spectrum, a "),
        (["--mixing-set", "fractals,moon"], "got 'moon' in 'fractals,moon'"),
        (["--method", "mixup", "--mixing-set", "ifs"], "mixing_set must be used with the method ipmix, got the method"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused_before_the_data_are_loaded(words, message, capsys, monkeypatch):
    monkeypatch.setattr("mixaug.train.data.load_data", None)
    assert main(["train", *TINY, *words, "--out", "run"]) == 2
    assert message in capsys.readouterr().err and not Path("run").exists()


def test_settings_of_a_folder_that_is_gone_can_be_read(small):
    """A checkpoint is evaluated where the pictures are not."""
    assert TrainSettings.from_dict(TrainSettings(mixing_set="/gone/pictures").to_dict()).mixing_set == "/gone/pictures"


# --- preview --------------------------------------------------------------------------------------------------------


def test_preview(small, seen, capsys):
    words = ["preview", "--data", "digits", "--rows", "2", "--columns", "1"]
    assert main([*words, "--mixing-set", "spectrum,contours", "--out", "p.png"]) == 0
    assert [levels(pictures) for pictures in seen] == [[120] * 4 + [200] * 4]
    with Image.open("p.png") as picture:
        assert picture.width > 200
    assert main([*words, "--mixing-set", "moon", "--out", "q.png"]) == 2
    assert "mixing_set must be one of fractals" in capsys.readouterr().err and not Path("q.png").exists()
    assert main([*words, "--transform", "dynamic-mixcut", "--mixing-set", "ifs"]) == 2
    assert "--mixing-set must be used with --transform ipmix, got dynamic-mixcut" in capsys.readouterr().err
