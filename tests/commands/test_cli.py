"""The command line, each command end to end on small settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from mixaug.cli import main
from mixaug.ops.composite import box_mask

TINY = ["--data", "digits", "--model", "lenet5", "--batch-size", "64", "--limit", "256", "--quiet", "--device", "cpu"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs on digits."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("standard", "ipmix"):
        assert main(["train", *TINY, "--method", method, "--epochs", "1", "--out", str(folder / method)]) == 0
    return folder


@pytest.mark.parametrize("words", [["--help"], ["--version"], []], ids=str)
def test_help_and_version_need_no_torch(words):
    code = f"import sys; from mixaug.cli import main; print(main({words}), 'torch' in sys.modules)"
    code = code.replace("print(main(['--help'])", "\ntry: main(['--help'])\nexcept SystemExit: print(0")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.endswith("0 False\n") and "mixaug" in result.stdout, result.stderr


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name in ("python", "torch ", "torchvision", "numba", "ipmix (C++, CPU)", "cpu", "cache", "extra train"):
        assert name in out
    assert torch.__version__.split("+")[0] in out


def test_train_writes_a_run(runs):
    names = {path.name for path in (runs / "ipmix").iterdir()}
    assert {"settings.json", "log.csv", "last.pt", "best.pt"} <= names
    assert json.loads((runs / "ipmix" / "settings.json").read_text())["settings"]["method"] == "ipmix"


def test_train_into_an_existing_run_is_refused_and_resumed_when_asked(runs, capsys):
    words = ["train", *TINY, "--method", "standard", "--epochs", "1", "--out", str(runs / "standard")]
    assert main(words) == 2
    assert "resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--method", "magic"], "ipmix"),
        (["train", "--levels", "image,word"], "levels must be one of image, patch, pixel, got 'word'"),
        (["train", "--structure", "tree"], "chain, linear, mixed_input"),
        (["train", "--epochs", "0"], "epochs must be from 1 to 2147483647, got 0"),
        (["train", "--data", "cifar11"], "cifar10"),
        (["train", "--data", "folder:/nowhere"], "/nowhere"),
        (["train", "--model", "resnet-smal"], "resnet-small"),
        (["train", "--data", "cifar10", "--root", "/nowhere"], "--download"),
        (["evaluate", "missing.pt"], "missing.pt"),
        (["preview", "--rows", "0"], "--rows must be at least 1, got 0"),
        (["preview", "--boxes", "2"], "--boxes must be used with --transform dynamic-mixcut, got ipmix"),
        (["preview", "--transform", "dynamic-mixcut", "--structure", "chain"], "--structure must be used with --trans"),
        (["preview", "--transform", "dynamic-mixcut", "--boxes", "4,2"], "boxes must be a range (low, high) with low"),
        (["mixing-set", "fractals", "--count", "0", "--out", "x"], "--count must be from 1 to 10000000, got 0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and err.startswith(f"mixaug {words[0]}:")


def test_unknown_command_and_option():
    for words in (["fly"], ["info", "--fast"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mixaug.commands.info.run", interrupted)
    assert main(["info"]) == 130 and "interrupted" in capsys.readouterr().err


def test_ctrl_c_in_training_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    """A signal in the second epoch: what was trained is kept, and the run goes on from there."""
    import mixaug.train.loop as run_module

    words = ["train", *TINY, "--method", "standard", "--epochs", "2", "--out", str(tmp_path / "run")]
    original, calls = run_module.sample_crop_flip, [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 6:  # in the second epoch of four steps
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(run_module, "sample_crop_flip", counted)
    assert main(words) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(run_module, "sample_crop_flip", original)
    assert main([*words, "--resume"]) == 0


BRIEF = ["--attacks", "none", "--no-audit", "--brief", "--corruptions", "none", "--quiet", "--device", "cpu"]


def test_out_of_distribution_images_may_be_a_folder_of_pictures(runs, capsys, tmp_path):
    from PIL import Image

    for number in range(3):  # RGB and larger than the data set's: both are changed
        Image.new("RGB", (40, 36), (80 * number, 20, 200)).save(tmp_path / f"{number}.png")
    assert (
        main(["evaluate", str(runs / "standard" / "best.pt"), *BRIEF, "--ood", str(tmp_path), "--out", "f.html"]) == 0
    )
    anomaly = json.loads(Path("f.json").read_text())["figures"]["anomaly"]
    assert anomaly["auroc"]["n"] == json.loads(Path("f.json").read_text())["settings"]["n_clean"] + 3
    assert "AUROC" in capsys.readouterr().out


def test_evaluate_one_and_several(runs, capsys):
    small = ["--n-corruption", "4", "--n-attack", "5", "--n-audit", "5", "--curve", "3", "--flips", "2"]
    small += ["--occlusion", "3", "--lipschitz", "3", "--surface", "1", "--quiet", "--device", "cpu", "--eps", "51/255"]
    one = str(runs / "standard" / "best.pt")
    assert main(["evaluate", one, *small, "--ood", "embedded", "--out", "one.html"]) == 0
    out = capsys.readouterr().out
    assert "PGD-20" in out and "one.html" in out
    report = json.loads(Path("one.json").read_text())
    settings = report["settings"]
    assert settings["n_corruption"] == 4 and settings["eps"] == 0.2 and settings["device"] == "cpu"
    counts = {"n_audit": 5, "n_curve": 3, "n_flips": 2, "n_occlusion": 3, "n_lipschitz": 3, "n_surface": 1}
    assert {name: settings[name] for name in counts} == counts
    assert settings["n_attack"] == dict.fromkeys(("fgsm", "pgd-20", "cw-20", "square"), 5)
    assert report["audit"] is not None and report["figures"]["anomaly"] is not None
    assert report["left_out"] == {} and settings["n_features"] > 0 and settings["n_maps"] == 6
    html = Path("one.html").read_text()
    assert "<html" in html and "http://" not in html and "https://" not in html
    words = ["--surrogate", one, "--attacks", "pgd", "--brief", "--corruptions", "none", "--seed", "3"]
    assert main(["evaluate", one, str(runs / "ipmix" / "best.pt"), *small, *words, "--out", "both.html"]) == 0
    out = capsys.readouterr().out
    assert "standard" in out and "ipmix" in out and "<" in out
    both = json.loads(Path("both.json").read_text())
    assert "both.html" in out and [model["settings"]["seed"] for model in both["models"]] == [3, 3]
    assert not [path for path in Path().iterdir() if path.suffix == ".partial"]


def test_evaluate_leaves_out_what_it_is_told_to(runs, capsys):
    assert main(["evaluate", str(runs / "standard" / "best.pt"), *BRIEF, "--out", "brief.html"]) == 0
    report = json.loads(Path("brief.json").read_text())
    assert report["audit"] is None and report["figures"]["attacks"] == {} and report["figures"]["mce"] is None
    assert set(report["seconds"]) == {"clean"}
    out, err = capsys.readouterr()
    assert "clean error" in out and err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "report.txt"], "--out must end in .html, got report.txt"),
        (["--out", "/proc/deep/report.html"], "--out must be a folder that can be written into, got /proc/deep"),
        (["--corruptions", "cifar-c"], "--corruptions must be cifar, imagenet, none or a folder, got 'cifar-c'"),
        (["--surrogate", "missing.pt"], "missing.pt"),
        (["--ood", "cifar11"], "cifar11"),
        (["--attacks", "quick", "--eps", "0"], "eps must be above 0 for the attacks 'quick', got 0"),
        (["--attacks", "quick", "--n-attack", "0"], "n_attack must be at least 1, got 0"),
        (["--flips", "-1"], "n_flips must be at least 0, got -1"),
        (["--batch-size", "0"], "batch_size must be from 1 to 2147483647, got 0"),
    ],
)
def test_evaluate_refuses_wrong_words_before_any_work(runs, capsys, monkeypatch, words, message):
    monkeypatch.setattr("mixaug.evaluate.runner.Runner.logits", None)  # no model is called
    assert main(["evaluate", str(runs / "standard" / "best.pt"), *BRIEF, *words]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and err.startswith("mixaug evaluate:")
    assert list(Path().iterdir()) == [] and not list((runs / "standard").glob("*.partial"))


def test_evaluate_names_a_missing_library_and_its_command(runs, capsys, monkeypatch):
    one = str(runs / "standard" / "best.pt")
    monkeypatch.setattr("mixaug.evaluate.runner.Runner.logits", None)
    with monkeypatch.context() as patch:
        patch.setattr("mixaug.attacks.adapter.importlib.util.find_spec", lambda name: None)
        assert main(["evaluate", one, "--quiet", "--device", "cpu"]) == 2
    assert "pip install 'mixaug[attacks]'" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "matplotlib", None)
        assert main(["evaluate", one, *BRIEF]) == 2
    assert 'needs matplotlib, which is not installed: pip install "mixaug[train]"' in capsys.readouterr().err


def test_a_stopped_evaluation_of_two_goes_on_and_leaves_nothing_behind(runs, capsys, monkeypatch):
    from mixaug.evaluate.runner import Runner

    both = [str(runs / method / "best.pt") for method in ("standard", "ipmix")]
    words = [*BRIEF, "--corruptions", "cifar", "--n-corruption", "4", "--batch-size", "64", "--out", "both.html"]
    original, seen = Runner.logits, [0, 0]

    def counted(runner, images, what):
        seen[0] += 1
        if seen[0] == seen[1]:
            raise KeyboardInterrupt
        return original(runner, images, what)

    monkeypatch.setattr(Runner, "logits", counted)
    assert main(["evaluate", *both, *words, "--out", "whole.html"]) == 0
    whole = seen[0]
    seen[:] = [0, 3 * whole // 4]  # in the second model
    assert main(["evaluate", *both, *words]) == 130
    assert "interrupted; the same command goes on where it was" in capsys.readouterr().err
    assert len(list(Path("both.partial").iterdir())) > 75 and not Path("both.html").exists()
    seen[:] = [0, 0]
    assert main(["evaluate", *both, *words]) == 0
    assert seen[0] < whole / 2
    assert not Path("both.partial").exists() and Path("both.html").exists()
    one, other = (json.loads(Path(f"{name}.json").read_text()) for name in ("both", "whole"))
    assert [model["figures"] for model in one["models"]] == [model["figures"] for model in other["models"]]


def test_checkpoints_of_other_images_are_not_compared(runs):
    from types import SimpleNamespace

    from mixaug.commands.evaluate import check_comparable

    def candidate(name, value):
        images = torch.full((2, 1, 4, 4), value, dtype=torch.uint8)
        data = SimpleNamespace(name=name, test=(images, torch.tensor([0, 1])))
        return SimpleNamespace(data=data)

    check_comparable([candidate("a", 1), candidate("b", 1)], "test")
    with pytest.raises(ValueError, match="measured on the same images to be compared, got a and c; give one with --da"):
        check_comparable([candidate("a", 1), candidate("b", 1), candidate("c", 2)], "test")


def test_evaluate_draws_loss_surfaces_and_measures_lipschitz_constants(runs, capsys):
    words = [
        "evaluate",
        str(runs / "standard" / "best.pt"),
        "--attacks",
        "none",
        "--no-audit",
        "--brief",
        "--corruptions",
        "none",
        "--quiet",
    ]
    assert main([*words, "--lipschitz", "6", "--surface", "2", "--device", "cpu", "--out", "deep.html"]) == 0
    assert "Lipschitz" in capsys.readouterr().out
    report = json.loads(Path("deep.json").read_text())
    assert report["figures"]["lipschitz"]["n"] == 6 and report["figures"]["lipschitz"]["value"] > 0
    surfaces = report["examples"]["surfaces"]
    assert [surface["radius"] for surface in surfaces] == [0.05, 0.1, 0.15] * 2
    with Image.open("deep-surface.png") as figure:
        assert figure.width > 300
    assert main([*words, "--lipschitz", "-1"]) == 2 and "n_lipschitz" in capsys.readouterr().err


def test_evaluate_on_other_classes_is_refused(runs, capsys, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (8, 8), i).save(tmp_path / "tree" / name / f"{i}.png")
    words = ["evaluate", str(runs / "standard" / "best.pt"), "--data", f"folder:{tmp_path / 'tree'}", "--quiet"]
    assert main(words) == 2 and "2 classes" in capsys.readouterr().err


def test_corrupt_checkpoint_is_named(runs, capsys, tmp_path):
    whole = (runs / "standard" / "best.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    assert main(["evaluate", "half.pt"]) == 2 and "half.pt" in capsys.readouterr().err


def test_preview(capsys):
    assert main(["preview", "--data", "digits", "--rows", "2", "--columns", "2", "--out", "p.png"]) == 0
    picture = Image.open("p.png")
    assert picture.width > 300 and picture.height > 300 and len(picture.convert("L").getcolors(256)) > 20
    assert main(["preview", "--data", "digits", "--rows", "2", "--columns", "2", "--out", "q.png"]) == 0
    assert Path("p.png").read_bytes() == Path("q.png").read_bytes()  # same command, same picture


def test_preview_of_dynamic_mixcut(capsys, monkeypatch):
    import mixaug.commands.preview as preview

    seen = []
    original = preview.draw_grid
    monkeypatch.setattr(preview, "draw_grid", lambda *given: (seen.append(given), original(*given)))
    words = ["preview", "--data", "digits", "--transform", "dynamic-mixcut", "--rows", "3", "--columns", "2"]
    assert main([*words, "--boxes", "1,3", "--out", "p.png"]) == 0
    assert "3 images of digits, 2 variants each" in capsys.readouterr().out
    with Image.open("p.png") as picture:  # grey digits, outlines in colour
        red, green, blue = picture.convert("RGB").split()
        assert ImageChops.difference(red, blue).getbbox() is not None and green.width > 300
    ((images, names, variants, _, _),) = seen
    assert names[2].startswith("image 2: ") and len(variants) == 2
    for variant in variants:
        inside = box_mask(variant.boxes, images.shape[-2:]).expand_as(images)
        assert torch.equal(variant.images[~inside], images[~inside])
        assert not torch.equal(variant.images, images)
        assert variant.weight.tolist() == pytest.approx((~inside[:, 0]).float().mean((1, 2)).tolist())


@pytest.mark.slow
def test_demo(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("mixaug.commands.demo.N_CORRUPTION", 8)
    monkeypatch.setattr("mixaug.commands.demo.N_ATTACK", 4)
    from mixaug.train import data, loop

    load = data.load_data
    monkeypatch.setattr(data, "load_data", lambda name: load(name, limit=640))
    assert main(["demo", "--epochs", "1", "--out", "demo"]) == 0
    out = capsys.readouterr().out
    assert "Against standard training, IPMix" in out and "report.html" in out
    assert (tmp_path / "demo" / "report.html").exists()
    with monkeypatch.context() as patch:  # its own folder is made anew
        patch.setattr(loop, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["demo", "--epochs", "1", "--out", "demo"]) == 130
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["demo"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert main(["demo", "--epochs", "1", "--out", "mine"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_demo_sentence_follows_the_numbers():
    from types import SimpleNamespace

    from mixaug.commands.demo import sentence
    from mixaug.evaluate.intervals import Estimate

    def figures(mce, clean, rms):
        keys = {"mce": mce, "clean_error": clean, "rms": rms}
        return SimpleNamespace(figures={k: (k, SimpleNamespace(value=v)) for k, v in keys.items()})

    def difference(value, low, high):
        return Estimate(value, low, high, 10, "by hand")

    changes = {
        "mce": difference(-0.1, -0.12, -0.08),
        "clean_error": difference(0.0, -0.01, 0.01),
        "rms": difference(0.05, 0.02, 0.08),
    }
    comparison = SimpleNamespace(
        reports=(figures(0.4, 0.1, 0.05), figures(0.3, 0.1, 0.1)),
        names=("standard", "IPMix"),
        columns=changes,
        differences=[{}, changes],
    )
    assert sentence(comparison) == (
        "Against standard training, IPMix lowered the mean corruption error from 40.0% to 30.0%, did not clearly "
        "change the clean error (from 10.0% to 10.0%) and raised the calibration error (RMS) from 5.0% to 10.0%."
    )
