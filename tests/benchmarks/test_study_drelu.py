"""The D-ReLU study: its page says what its numbers say; its runs are skipped, resumed, and measured fairly."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import study_drelu
import torch
from study import measured
from study.plan import jobs_of
from study_parts import of_the_run, with_interval, write

from mixaug.nn import DReLU

RADII = ("0.1", "0.5")
HELD = ("clean", *study_drelu.GRADIENT_ATTACKS, *study_drelu.OTHER_ATTACKS)


def result(job, *, caps=None, zero=0.0, steps=4, curve=0.25, best="apgd-ce", **accuracies):
    """A result whose accuracies are 0.5 but for those that are named; ``all`` is what all attacks leave."""
    plan = job.plan
    settings = measured.settings_of(job, "cpu", Path("/home/somebody"))
    counts = {"clean": 1000, **plan.sizes.n}
    of = {key: accuracies.get(key.replace("-", "_"), 0.5) for key in {*study_drelu.ACCURACIES, *HELD, "all"}}
    held = {key: with_interval(of[key], 4) for key in (*HELD, "all")}
    known = {} if caps is None else {"quantiles": [0.0, *caps, 9.0], "capped_share": 0.25, "capped_units": 0.75}
    return {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "evaluation": plan.evaluation(),
        "attacks": {"pgd-20": {"kind": "PGD", "eps": 0.1, "steps": 20}, "transfer": {"kind": "Transferred"}},
        "figures": {key: with_interval(of[key], counts[key]) for key in study_drelu.ACCURACIES},
        "curves": {name: {radius: with_interval(curve, 4) for radius in RADII} for name in study_drelu.CURVES},
        "same_images": held,
        "masked": {
            "pgd-20": with_interval(of["pgd-20"] - of["all"], 4),
            "best": with_interval(of[best] - of["all"], 4),
        },
        "best_gradient_attack": best,
        "caps": {**known, "zero_gradient": with_interval(zero, 8), "n": 8},
        **of_the_run(steps),
    }


def study_of(tmp_path, *arguments):
    options = study_drelu.parse(
        ["--quick", "--seeds", "2", "--lambdas", "10,0.5", "--out", str(tmp_path), *arguments]
    )  # fmt: skip
    plan = study_drelu.plan_of(options)
    return options, plan, jobs_of([plan], options.seeds)


@pytest.fixture
def finished(tmp_path):
    """Two seeds. With lambda 10 PGD-20 leaves 60%, 50 more than with ReLU, and all attacks 7% on average, ReLU's 5%."""
    options, plan, jobs = study_of(tmp_path)
    plain = {"pgd_20": 0.1, "all": 0.05, "fgsm": 0.2, "clean": 0.9}
    chosen = {
        "no head": plain,
        "ReLU head": plain,
        "D-ReLU head, lambda 0.5": {**plain, "caps": (0.5, 0.75, 1.0)},
        "D-ReLU head, lambda 10": {"pgd_20": 0.6, "fgsm": 0.7, "clean": 0.8, "zero": 0.4, "caps": (0.01, 0.03, 0.1)},
    }
    for job in jobs:
        values = dict(chosen[job.variant])
        if job.variant.endswith("10"):
            values["all"] = 0.02 + 0.1 * job.seed
        write(job, options, result(job, **values))
    return options, plan, jobs


def lines_of(options, plan):
    return study_drelu.page(study_drelu.collect(plan, options)).splitlines()


def test_the_page_says_what_the_figures_say(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    half = "50.0 ± 0.0"
    expected = f"80.0 ± 0.0 | **70.0 ± 0.0** | **60.0 ± 0.0** | {' | '.join([half] * 8)} | 7.0 ± 7.1"
    assert f"| D-ReLU head, lambda 10 | {expected} | 0.03 ± 0 | 25.0 ± 0.0 | 2 |" in lines
    heads = next(line for line in lines if "clean (n = 1,000)" in line)
    assert "PGD-20 (n = 8)" in heads and "AutoAttack (n = 4)" in heads and "all attacks (n = 4)" in heads
    assert any(line.startswith("| ReLU head, seed 1 | 90.0 [80.0, 110.0] | 20.0 [10.0, 40.0] |") for line in lines)
    text = "\n".join(lines)
    assert "abacus, 2 cores; torch 2." in text and "256 training images, 2 epochs, 4 optimiser steps for all" in text
    assert "python benchmarks/study_drelu.py --lambdas 0.5,10 --seeds 2 --quick" in text
    assert "Radius 0.1 " in text and "Partial" not in text and "/home" not in text
    assert "- PGD-20: eps 0.1, steps 20" in lines and "- transfer" not in text


def test_what_one_attack_overstates_is_shown(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    masked = [line for line in lines if line.endswith("| 7.0 ± 7.1 | +53.0 ± 7.1 | +43.0 ± 7.1 | APGD-CE |")]
    assert len(masked) == 1 and masked[0].startswith("| D-ReLU head, lambda 10 |")
    assert any(line.endswith("| 5.0 ± 0.0 | +5.0 ± 0.0 | +45.0 ± 0.0 | APGD-CE |") for line in lines)
    same = "+10.0 ± 0.0 | +20.0 ± 0.0 | +10.0 ± 0.0 | 25.0 ± 0.0 | 25.0 ± 0.0"
    assert f"| D-ReLU head, lambda 10 | 40.0 ± 0.0 | {same} |" in lines


def test_caps_and_radii_have_their_tables(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    caps = "0 ± 0 | 0.5 ± 0 | 0.75 ± 0 | 1 ± 0 | 9 ± 0 | 25.0 ± 0.0 | 75.0 ± 0.0 | 0.0 ± 0.0 | 4, 4"
    assert f"| D-ReLU head, lambda 0.5 | {caps} |" in lines
    assert not any(line.startswith("| ReLU head | 0 ± 0") for line in lines)
    assert lines.count("| ReLU head | 25.0 ± 0.0 | 25.0 ± 0.0 |") == 3
    assert [line for line in lines if line.startswith("### ")] == [
        "### PGD-20",
        "### Square, 5 queries",
        "### transfer",
    ]


def test_the_reading_is_two_sentences_of_the_figures(finished):
    options, plan, _ = finished
    first, second = study_drelu.reading(study_drelu.collect(plan, options))
    assert first.startswith(
        "With lambda 10 the model seems robust, 70.0% under FGSM (20.0%), 60.0% under PGD-20 (10.0%)"
    )
    assert "leaves 7.0 ± 7.1% of the same 4 images (5.0 ± 0.0%)" in first
    assert first.endswith("of the 50.0 points gained under PGD-20, none is left beyond the spread of the seeds.")
    assert second.startswith(
        "The difference is gradient masking: 40.0% of the test images have a gradient that is exactly zero"
    )
    assert "by 43.0 points, and the clean accuracy is 80.0% (90.0%)." in second


@pytest.mark.parametrize(
    ("left", "pgd", "verdict"),
    [
        (0.55, 0.6, "of the 50.0 points gained under PGD-20, 50.0 are left."),
        (0.35, 0.6, "of the 50.0 points gained under PGD-20, 30.0 are left."),
        (0.05, 0.1, "there is no gain to speak of, under PGD-20 neither."),
    ],
)
def test_the_reading_follows_the_figures(finished, left, pgd, verdict):
    options, plan, jobs = finished
    for job in jobs:
        if "lambda" in job.variant:
            write(job, options, result(job, pgd_20=pgd, all=left, caps=(1.0, 2.0, 3.0), apgd_ce=left))
    first, second = study_drelu.reading(study_drelu.collect(plan, options))
    assert first.endswith(verdict)
    assert second.startswith("Masking does not show: 0.0% of the test images") and "by 0.0 points" in second


def test_a_partial_study_says_so(finished):
    options, plan, _ = finished
    for name in ("relu-head-s0", "relu-head-s1", "d-relu-head-lambda-10-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    study = study_drelu.collect(plan, options)
    assert study_drelu.reading(study) == []
    text = study_drelu.page(study)
    assert (
        "**Partial: 5 of 8 runs are finished.** Missing: relu-head-s0, relu-head-s1, d-relu-head-lambda-10-s1." in text
    )
    means = study_drelu.content_of(study)["means"]["D-ReLU head, lambda 10"]
    assert means["pgd-20"] == {"mean": 0.6, "sd": None, "seeds": 1}
    assert means["pgd-20 less all"]["mean"] == pytest.approx(0.58)
    study_drelu.save_study(study, options.out / "page")  # the figure of what there is
    assert (options.out / "page" / "study_drelu.png").exists()


def test_the_files_are_written(finished, tmp_path):
    options, plan, _ = finished
    study_drelu.save_study(study_drelu.collect(plan, options), tmp_path / "page")
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == ["study_drelu.json", "study_drelu.md", "study_drelu.png"]
    assert (tmp_path / "page" / "study_drelu.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_drelu.json").read_text())
    assert len(content["results"]["D-ReLU head, lambda 0.5"]) == 2 and "/home" not in json.dumps(content)
    assert len(content["reading"]) == 2


def test_missing_runs_are_started_after_the_models_they_need(finished, processes, capsys):
    pytest.importorskip("pyautoattack")
    options, plan, _ = finished
    options.jobs = 1
    study_drelu.run_missing(plan, options)
    assert processes.started == []
    for name in ("no-head-s1", "relu-head-s1", "d-relu-head-lambda-10-s0"):
        (options.out / plan.key / name / "result.json").unlink()
    study_drelu.run_missing(plan, options)
    first = [["source", "1"], ["source", "2"]]
    assert processes.started == [*first, ["D-ReLU head, lambda 10", "0"], ["no head", "1"], ["ReLU head", "1"]]
    assert "3 of 8 runs to do" in capsys.readouterr().out
    processes.started.clear()
    options.only = "lambda-10"
    folder = options.out / plan.key / "no-head-s1"
    torch.save(
        {"evaluation": plan.evaluation(), "pairs": {"transfer": (torch.zeros(1), torch.zeros(1))}},
        folder / "transfer.pt",
    )
    study_drelu.run_missing(plan, options)
    assert processes.started == [["D-ReLU head, lambda 10", "0"]]


def test_a_plateau_ends_runs_after_different_steps(tmp_path):
    options, plan, jobs = study_of(tmp_path, "--recipe", "paper")
    for job in jobs:
        write(job, options, result(job, steps=3 + job.seed, caps=(1.0, 2.0, 3.0) if "lambda" in job.variant else None))
    text = "\n".join(lines_of(options, plan))
    assert "at most 2 epochs, 3 to 4 optimiser steps" in text and "Adam, lr 0.001, halved after 5 epochs" in text
    assert "](study_drelu_paper.png)" in text and "--recipe paper" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--features", "0"],
        ["--lambdas", "1,-1"],
        ["--lambdas", "nan"],
    ],
)
def test_wrong_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        study_drelu.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_variants_differ_only_in_what_they_are_named_for(tmp_path):
    _, plan, jobs = study_of(tmp_path)
    plain, relu, low, high = (measured.settings_of(job, "cpu", tmp_path) for job in jobs[:4])
    assert [job.variant for job in jobs[:2]] == ["no head", "ReLU head"]
    assert relu.differences(plain) == ["placement", "extra_features"]
    assert set(low.differences(relu)) == {"activation", "drelu_init", "drelu_lambda", "drelu_m_lr"} - {
        name for name in ("drelu_init", "drelu_m_lr") if getattr(low, name) == getattr(relu, name)
    }
    assert low.differences(high) == ["drelu_lambda"] and (low.drelu_lambda, high.drelu_lambda) == (0.5, 10)
    assert plan.baseline == "ReLU head" and plan.source(1).name == "study_drelu/no-head-s2"


def test_placements_recipes_and_methods_have_pages_of_their_own():
    options = study_drelu.parse(["--placement", "all", "--method", "pgd", "--drelu-init", "2"])
    plan = study_drelu.plan_of(options)
    assert plan.key == "study_drelu_all_pgd" and plan.baseline == "no head" and len(plan.variants) == 6
    assert plan.title == "D-ReLU: accuracy against lambda, in all ReLUs, method pgd, at CPU scale"
    settings = plan.settings("D-ReLU all, lambda 0.3")
    assert settings["eps"] == 0.1 and settings["drelu_init"] == 2 and "extra_features" not in settings
    assert "drelu_init" not in plan.settings("no head")
    arguments = ["--placement", "all", "--method", "pgd", "--drelu-init", "2.0"]
    assert study_drelu.shown_arguments(options) == arguments
    stem = study_drelu.plan_of(study_drelu.parse(["--placement", "stem"]))
    assert stem.key == "study_drelu_stem" and stem.settings("ReLU stem")["extra_features"] == 16
    assert "eps" not in stem.settings("ReLU stem")  # standard training has none


def test_what_decides_the_evaluation_is_recorded(tmp_path):
    _, plan, _ = study_of(tmp_path)
    assert plan.evaluation() == {
        "eps": 0.1, "n": dict(plan.sizes.n), "queries": 20, "steps": 2, "l2": plan.l2, "l2_steps": 2, "l2_weights": 1,
        "radii": [0.1, 0.5], "n_curve": 4, "curve_queries": 5,
    }  # fmt: skip


def test_cifar_is_resnet18_in_bf16_at_the_papers_radius():
    options = study_drelu.parse(["--cifar", "pictures", "--gpu"])
    plan = study_drelu.plan_of(options)
    settings = plan.settings("ReLU head")
    assert settings["model"] == "resnet18-cifar" and settings["amp"] == "bf16" and plan.eps == 0.01
    assert (options.seeds, options.jobs, plan.key) == (1, 1, "study_drelu_cifar10")
    assert plan.l2 == pytest.approx(0.01 * 3072**0.5)
    assert study_drelu.shown_arguments(options) == ["--cifar", "CIFAR10_FOLDER", "--gpu"]


def test_transferred_images_are_looked_up_by_the_image():
    torch.manual_seed(0)
    clean, made = torch.rand(5, 1, 3, 4), torch.rand(5, 1, 3, 4)
    attack = study_drelu.Transferred(clean, made)
    order = [3, 0, 4]
    given = clean[order].to(memory_format=torch.channels_last)
    assert torch.equal(attack(torch.nn.Identity(), given, torch.zeros(3)), made[order])
    with pytest.raises(KeyError):
        attack(torch.nn.Identity(), clean + 0.5, torch.zeros(5))


def test_noise_is_of_the_whole_radius_and_the_same_for_all():
    images = torch.full((4, 1, 5, 7), 0.5)
    first = study_drelu.noise(torch.nn.Identity(), images, torch.zeros(4), eps=0.1)
    torch.testing.assert_close((first - images).abs(), torch.full_like(images, 0.1))
    assert 0.2 < (first > images).float().mean() < 0.8
    assert torch.equal(first, study_drelu.noise(torch.nn.Flatten(), images, torch.ones(4), eps=0.1))
    assert study_drelu.noise(torch.nn.Identity(), images * 2, torch.zeros(4), eps=0.1).max() == 1


class Dark(torch.nn.Module):
    """Says class 0 of an image whose first pixel is bright."""

    def forward(self, images):
        bright = images[:, 0, 0, 0]
        return torch.stack([bright, 0.5 - bright], 1)


def darkens(kept):
    """An attack that fools Dark on the images whose number, their second pixel, is not kept."""

    def attack(model, images, labels):
        numbers = (images[:, 0, 0, 1] * 255).round()
        images = images.clone()
        images[~kept(numbers), 0, 0, 0] = 0
        return images

    return attack


def test_all_attacks_are_of_the_same_images_and_radius(tmp_path):
    _, plan, _ = study_of(tmp_path)
    images = torch.full((24, 1, 2, 3), 255, dtype=torch.uint8)
    images[:, 0, 0, 1] = torch.arange(24)
    within = {*study_drelu.GRADIENT_ATTACKS, *study_drelu.OTHER_ATTACKS}
    attacks = dict.fromkeys(within, darkens(lambda numbers: numbers >= 0)) | {
        "fgsm": darkens(lambda numbers: numbers % 8 != 0),
        "pgd-20": darkens(lambda numbers: numbers % 4 != 0),
        "square": darkens(lambda numbers: numbers % 4 != 1),
        "cw-l2": darkens(lambda numbers: numbers < 0),  # another radius
    }
    counts = {name: 12 if plan.sizes.n[name] == 4 else 20 for name in attacks}
    for name in study_drelu.CURVES:
        for radius in plan.sizes.radii:
            at = study_drelu.at(name, radius)
            attacks[at], counts[at] = attacks["cw-l2"], 12
    report = study_drelu.evaluate_model(
        Dark(),
        (images, torch.zeros(24, dtype=torch.int64)),
        attacks=attacks,
        corruptions=None,
        audit=False,
        n_attack=counts,
    )
    found = study_drelu.accuracies_of(report, plan)
    rest = report.outcomes.attack_index["autoattack"] % 4
    left, under_pgd = (rest > 1).double().mean(), (rest > 0).double().mean()
    assert 0 < left < under_pgd < 1
    assert {entry["n"] for entry in found["same_images"].values()} == {12} and "cw-l2" not in found["same_images"]
    assert found["same_images"]["all"]["value"] == left and found["same_images"]["pgd-20"]["value"] == under_pgd
    assert found["best_gradient_attack"] == "pgd-20"
    assert found["masked"]["best"]["value"] == pytest.approx(float(under_pgd - left))
    assert found["figures"]["fgsm"]["n"] == 20 and set(found["figures"]) == {"clean", *within, "cw-l2"}
    assert set(found["curves"]["square"]) == set(RADII) and found["curves"]["square"]["0.5"]["value"] == 0


def test_images_without_a_gradient_are_counted_with_and_without_caps():
    test = (torch.full((6, 1, 2, 2), 200, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))
    layers = [torch.nn.Flatten(), torch.nn.Linear(4, 3)]
    plain = study_drelu.caps_of(torch.nn.Sequential(*layers), test, 5)
    assert plain["zero_gradient"]["value"] == 0 and plain["zero_gradient"]["n"] == plain["n"] == 5
    assert "quantiles" not in plain
    closed = study_drelu.caps_of(torch.nn.Sequential(layers[0], DReLU(4, init=0.1), layers[1]), test, 5)
    assert closed["zero_gradient"]["value"] == 1 and closed["capped_share"] == 1 and closed["capped_units"] == 1
    assert closed["quantiles"] == pytest.approx([0.1] * 5)


@pytest.mark.parametrize("named", [("ReLU head", 2), ("source", 1)])
def test_the_command_makes_the_run_that_it_names(tmp_path, processes, monkeypatch, named):
    monkeypatch.setattr(study_drelu, "run_locked", lambda plan, name, seed, options: (name, seed))
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path), "--one", *map(str, named)])
    assert study_drelu.main() == named


@pytest.mark.slow
def test_a_run_is_stopped_resumed_and_measured(tmp_path, monkeypatch):
    pytest.importorskip("pyautoattack")
    from filelock import FileLock, Timeout

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    options, plan, jobs = study_of(tmp_path, "--limit", "64")
    job = next(job for job in jobs if job.variant == "D-ReLU head, lambda 10")
    folder, source = tmp_path / job.name, tmp_path / plan.source(0).name
    folder.mkdir(parents=True)
    with FileLock(folder / ".study.lock"), pytest.raises(Timeout):
        study_drelu.run_locked(plan, job.variant, 0, options)
    with pytest.raises(RuntimeError, match="no-head-s1 must have its transferred images first"):
        study_drelu.run_locked(plan, job.variant, 0, options)

    assert study_drelu.run_locked(plan, "source", 1, options) == 0
    pairs = study_drelu.read_pairs(plan, source)
    clean, made = pairs["transfer"]
    assert len(clean) == 8 and 0.09 < (clean - made).abs().max() < 0.1001
    assert sorted(pairs) == ["transfer", "transfer at 0.1", "transfer at 0.5"]
    assert not study_drelu.read_pairs(study_of(tmp_path, "--eps", "0.2")[1], source)  # made for another radius

    evaluate = study_drelu.evaluate_model
    monkeypatch.setattr(study_drelu, "evaluate_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed while it is measured: the training is kept
        study_drelu.run_locked(plan, job.variant, 0, options)
    trained = (folder / "last.pt").read_bytes()
    monkeypatch.setattr(study_drelu, "evaluate_model", evaluate)
    assert study_drelu.run_locked(plan, job.variant, 0, options) == 0
    assert (folder / "last.pt").read_bytes() == trained

    row = measured.read_result(job, options)
    counts = {"clean": 1000, **{name: count for name, count in plan.sizes.n.items() if name != "caps"}}
    assert {key: entry["n"] for key, entry in row["figures"].items()} == counts
    assert row["settings"]["drelu_lambda"] == 10 and row["steps"] == 2 and row["training_images"] == 64
    assert 0 < row["caps"]["quantiles"][4] < 100 and len(row["caps"]["quantiles"]) == 5
    weakest = min(row["same_images"][name]["value"] for name in study_drelu.GRADIENT_ATTACKS)
    assert row["same_images"]["all"]["value"] <= weakest
    lines = study_drelu.page(study_drelu.collect(plan, options)).splitlines()
    assert any(line.startswith("| D-ReLU head, lambda 10 | ") for line in lines)
