"""The adversarial study: its page says what its numbers say; its runs are skipped, resumed, refused and complete."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import study_adversarial
import torch
from study import measured
from study.page import means_of
from study.plan import Job, jobs_of
from study_parts import of_the_run, with_interval, write

from mixaug.losses import AdaptiveLoss, EpsSchedule

COUNTS = {"clean": 1000, **study_adversarial.QUICK.n}


def history(epochs=3, eps=0.1, **columns):
    """A log whose radius and alpha follow the schedules."""
    radius, criterion = EpsSchedule(eps, epochs), AdaptiveLoss()
    rows = []
    for epoch in range(epochs):
        row = {"epoch": epoch + 1, "validation_accuracy": 0.6 + 0.1 * epoch, "validation_pgd_accuracy": 0.2 * epoch}
        rows.append({**row, "radius": radius(epoch), "alpha": criterion.alpha, **columns})
        criterion.update(row["validation_accuracy"], row["validation_pgd_accuracy"])
    return rows


def result(job, *, seconds=10.0, memory=500.0, steps=4, overfitted=(), **accuracies):
    plan = job.plan
    settings = measured.settings_of(job, "cpu", Path("/home/somebody"))
    figures = {key: with_interval(accuracies.get(key, 0.5), n) for key, n in COUNTS.items()}
    held = {key: with_interval(figures[key]["value"], 4) for key in study_adversarial.ACCURACIES}
    adversary = settings.adversary
    return {
        "variant": job.variant,
        "seed": job.seed,
        "settings": settings.to_dict(),
        "adversary": None if adversary is None else vars(adversary),
        "evaluation": plan.evaluation(),
        "attacks": {"pgd-20": {"kind": "PGD", "eps": 0.1, "steps": 20}},
        "figures": figures,
        "gap": {**with_interval(accuracies.get("gap", 0.3), 8), "attack": "cw-20"},
        "confidence": with_interval(0.7, 8),
        "same_images": {**held, "all": with_interval(0.25, 4)},
        "pgd_less_autoattack": with_interval(held["pgd-20"]["value"] - held["autoattack"]["value"], 4),
        "best": {"epoch": 2, "clean": with_interval(0.5, 1000), "pgd-20": with_interval(0.4, 8)},
        "cost": {
            "epoch_seconds": seconds,
            "peak_memory": memory,
            "process_before_training": 400.0,
            "overfitted_epochs": list(overfitted),
        },
        **of_the_run(steps),
        "history": history(),
    }


def study_of(tmp_path, *arguments):
    options = study_adversarial.parse(["--quick", "--seeds", "2", "--out", str(tmp_path), *arguments])
    plan = study_adversarial.plan_of(options)
    return options, plan, jobs_of([plan], options.seeds)


@pytest.fixture
def finished(tmp_path):
    """Two seeds. Dynamic MixCut is 20 points better than PGD AT under PGD-20 and 10 worse under AutoAttack."""
    options, plan, jobs = study_of(tmp_path)
    chosen = {
        "standard": {"pgd-20": 0.0, "clean": 0.9, "gap": 0.9, "seconds": 10.0, "memory": 500.0},
        "PGD AT": {"pgd-20": 0.4, "autoattack": 0.4},
        "Dynamic MixCut": {"pgd-20": 0.6, "autoattack": 0.3},
        "hybrid": {"gap": 0.4, "seconds": 30.0, "memory": 550.0, "overfitted": (2, 3)},
    }
    for job in jobs:
        values = dict(chosen.get(job.variant, {}))
        if job.variant in ("PGD AT", "Dynamic MixCut"):
            values["pgd-20"] += 0.02 * job.seed
        write(job, options, result(job, **values))
    return options, plan, jobs


def lines_of(options, plan):
    return study_adversarial.page(study_adversarial.collect(plan, options)).splitlines()


def test_the_page_says_what_the_figures_say(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    half = "50.0 ± 0.0"
    accuracies = f"{half} | {half} | **61.0 ± 1.4** | {half} | {half} | {half} | 30.0 ± 0.0"
    assert f"| Dynamic MixCut | {accuracies} | 0.5 ± 0.0 | 10.0 ± 0.0 | 500 | 2 |" in lines
    heads = next(line for line in lines if "clean (n = 1,000)" in line)
    assert "PGD-20 (n = 8)" in heads and "AutoAttack (n = 4)" in heads and "Lipschitz (n = 4)" in heads
    assert any(line.startswith("| standard, seed 1 | 90.0 [80.0, 110.0] |") for line in lines)
    text = "\n".join(lines)
    assert "abacus, 2 cores; torch 2." in text and "python benchmarks/study_adversarial.py --seeds 2 --quick" in text
    assert "Radius 0.1 " in text and "Partial" not in text and "/home" not in text


def test_gains_are_of_the_same_seeds_and_beside_the_papers(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    same = "+0.0 ± 0.0"
    assert f"| Dynamic MixCut | {same} | {same} | +20.0 ± 0.0 | {same} | {same} | {same} | -10.0 ± 0.0 |" in lines
    assert "| Dynamic MixCut, reported | +8.1 | +22.4 | +25.8 | +38.3 | +22.5 | - | - |" in lines
    (options.out / plan.key / "pgd-at-s0" / "result.json").unlink()
    lines = lines_of(options, plan)
    assert "| Dynamic MixCut | +0.0 | +0.0 | +20.0 | +0.0 | +0.0 | +0.0 | -10.0 |" in lines


def test_what_pgd_overstates_is_shown(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    mixcut = [line for line in lines if line.startswith("| Dynamic MixCut |") and line.endswith("+31.0 ± 1.4 |")]
    assert len(mixcut) == 1 and "| 25.0 ± 0.0 |" in mixcut[0]


def test_hybrid_is_held_against_plain_training_and_its_paper(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    assert "| seconds per epoch | +200 ± 0% | +30% |" in lines
    assert "| peak memory, the whole process | +10 ± 0% | +14% |" in lines
    assert "| peak memory, what training added to the process | +50 ± 0% | +14% |" in lines
    assert "| robustness gap, plain to hybrid | 90.0 to 40.0 | 62.7 to 33.2 |" in lines
    assert any(line.startswith("| hybrid |") and line.endswith("| 2, 2 | 2, 3; 2, 3 |") for line in lines)


def test_the_log_is_checked_against_the_formulas(finished):
    options, plan, jobs = finished
    text = "\n".join(lines_of(options, plan))
    assert "over all epochs of all runs (2): below 1e-12. Seed 0:" in text
    assert "| 3 | 0.1000 | 0.2222 | 80.0 | 40.0 |" in text  # 0.2 / (0.2 + 0.7)
    job = next(job for job in jobs if job.variant == "hybrid")
    write(job, options, {**result(job), "history": history(alpha=0.5)})
    assert "(2): 0.5. Seed 0:" in "\n".join(lines_of(options, plan))  # the second epoch's should be 0


def test_a_partial_study_says_so(finished):
    options, plan, _ = finished
    for name in ("standard-s0", "standard-s1", "hybrid-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    lines = lines_of(options, plan)
    assert "**Partial: 9 of 12 runs are finished.** Missing: standard-s0, hybrid-s0, " not in "\n".join(lines)
    assert "**Partial: 9 of 12 runs are finished.** Missing: standard-s0, standard-s1, hybrid-s1." in lines
    assert not any("plain to hybrid" in line for line in lines)
    means = means_of(study_adversarial.collect(plan, options).rows, ["clean"])
    assert means["hybrid"]["clean"] == {"mean": 0.5, "sd": None, "seeds": 1}


def test_the_files_are_written(finished, tmp_path):
    options, plan, _ = finished
    study_adversarial.save_study(study_adversarial.collect(plan, options), tmp_path / "page")
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == ["study_adversarial.json", "study_adversarial.md", "study_adversarial.png"]
    assert (tmp_path / "page" / "study_adversarial.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_adversarial.json").read_text())
    assert content["means"]["Dynamic MixCut"]["pgd-20"]["mean"] == pytest.approx(0.61)
    assert len(content["results"]["hybrid"]) == 2 and "/home" not in json.dumps(content)


@pytest.mark.parametrize("kind", ["boxes", "targets"])
def test_ablations_have_a_page_of_their_own(tmp_path, kind):
    options, plan, jobs = study_of(tmp_path, "--ablation", kind)
    for job in jobs:
        write(job, options, result(job))
    study_adversarial.save_study(study_adversarial.collect(plan, options), tmp_path / "page")
    text = (tmp_path / "page" / f"study_adversarial_{kind}.md").read_text()
    assert f"](study_adversarial_{kind}.png)" in text and f"--ablation {kind}" in text and "hybrid" not in text
    lines = text.splitlines()
    if kind == "boxes":
        assert "| 6 boxes, reported | +0.1 | - | -1.4 | - | - | - | - |" in lines
        assert "| 4 boxes | 2 steps of 0.025 | a random other class | constant | 0.1 | 4 |" in lines
    else:
        assert "| boxes, targeted, reported | +8.3 | - | +23.4 | - | - | - | - |" in lines
        assert "| whole image, targeted | 2 steps of 0.025 | a random other class | constant | 0.1 | - |" in lines
        assert "| boxes, untargeted | 2 steps of 0.025 | - | constant | 0.1 | 2 |" in lines


def test_finished_runs_are_skipped_and_missing_ones_started_seed_by_seed(finished, processes, capsys):
    pytest.importorskip("pyautoattack")
    options, plan, jobs = finished
    study_adversarial.run_missing(jobs, options)
    assert processes.started == []
    for name in ("trades-s0", "standard-s1", "hybrid-s0"):
        (options.out / plan.key / name / "result.json").unlink()
    options.jobs = 1
    study_adversarial.run_missing(jobs, options)
    assert processes.started == [["TRADES", "0"], ["hybrid", "0"], ["standard", "1"]]
    assert processes.threads == {"1"}
    assert "3 of 12 runs to do" in capsys.readouterr().out


def test_the_command_makes_the_run_that_it_names(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(study_adversarial, "run_locked", lambda job, options: job)
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--out", str(tmp_path), "--one", "TRADES", "2"])
    job = study_adversarial.main()
    assert (job.variant, job.seed) == ("TRADES", 2)


@pytest.mark.slow
def test_a_run_is_stopped_resumed_and_measured(tmp_path, monkeypatch):
    pytest.importorskip("pyautoattack")
    from filelock import FileLock, Timeout

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    options, _, jobs = study_of(tmp_path, "--limit", "64")
    job = next(job for job in jobs if job.variant == "hybrid")
    folder = tmp_path / job.name
    folder.mkdir(parents=True)
    with FileLock(folder / ".study.lock"), pytest.raises(Timeout):
        study_adversarial.run_locked(job, options)

    evaluate = study_adversarial.evaluate_model
    monkeypatch.setattr(study_adversarial, "evaluate_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed while it is measured: the training is kept
        study_adversarial.run_locked(job, options)
    trained = (folder / "last.pt").read_bytes()
    monkeypatch.setattr(study_adversarial, "evaluate_model", evaluate)
    assert study_adversarial.run_locked(job, options) == 0
    assert (folder / "last.pt").read_bytes() == trained

    row = measured.read_result(job, options)
    assert {key: entry["n"] for key, entry in row["figures"].items()} == COUNTS
    assert row["settings"]["eps"] == 0.1 and row["adversary"]["eps_schedule"] == "linear"
    assert [entry["radius"] for entry in row["history"]] == pytest.approx([0.01, 0.1])
    radii, alphas = study_adversarial.formula_errors(row)
    assert max(map(abs, radii + alphas)) < 1e-12
    assert row["same_images"]["all"]["n"] == 4 and row["training_images"] == 64 and row["steps"] == 2
    weakest = min(row["same_images"][key]["value"] for key in study_adversarial.ACCURACIES)
    assert row["same_images"]["all"]["value"] <= weakest
    assert row["cost"]["epoch_seconds"] > 0 and row["cost"]["peak_memory"] >= row["cost"]["process_before_training"]


def test_an_image_counts_for_all_attacks_if_none_fools_the_model():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    names = ("fgsm", "pgd-20", "cw-20", "spsa", "square", "autoattack")
    given = []

    def noise(model, clean, labels):
        given.append(len(clean))
        return (clean + 0.3 * torch.rand(clean.shape, generator=torch.Generator().manual_seed(len(given)))).clamp(0, 1)

    report = study_adversarial.evaluate_model(
        model,
        (images, torch.arange(12) % 3),
        attacks=dict.fromkeys(names, noise),
        corruptions=None,
        audit=False,
        n_attack={name: 12 if name in ("fgsm", "pgd-20", "cw-20") else 5 for name in names},
        n_lipschitz=2,
    )
    found = study_adversarial.accuracies_of(report)
    index = report.outcomes.attack_index["autoattack"]
    held = report.outcomes.correct[index].clone()
    for name in names:
        right = report.outcomes.attacked[name]
        places = report.outcomes.attack_index[name].tolist()
        held &= torch.stack([right[places.index(at)] for at in index.tolist()])
    assert found["same_images"]["all"]["value"] == held.double().mean()
    assert found["same_images"]["pgd-20"]["n"] == 5 and found["figures"]["pgd-20"]["n"] == 12
    worst = max(report.attacks[name].gap.value for name in ("fgsm", "pgd-20", "cw-20"))
    assert found["gap"]["value"] == worst


def test_variants_differ_only_in_what_they_are_named_for():
    options = study_adversarial.parse(["--ablation", "targets"])
    plan = study_adversarial.plan_of(options)
    (targeted, plain) = (
        measured.settings_of(Job(plan, name, 0), "cpu", Path("run"))
        for name in ("boxes, targeted", "boxes, untargeted")
    )
    assert targeted.differences(plain) == ["targeted"]
    whole = measured.settings_of(
        Job(plan, "whole image, targeted", 0), "cpu", Path("run")
    )  # fmt: skip
    assert whole.differences(targeted) == ["method", "boxes", "smoothing"]  # a whole image has no boxes
    assert whole.adversary == targeted.adversary  # dynamic-mixcut's own smoothing is 0.1


def test_steps_must_be_at_least_one(capsys):
    with pytest.raises(SystemExit):
        study_adversarial.parse(["--steps", "0"])
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err


def test_what_decides_the_evaluation_is_recorded():
    plan = study_adversarial.plan_of(study_adversarial.parse(["--quick"]))
    counts = dict(study_adversarial.QUICK.n)
    assert plan.evaluation() == {"eps": 0.1, "n": counts, "directions": 2, "queries": 20}


def test_cifar_is_resnet18_in_bf16_at_its_own_radius():
    options = study_adversarial.parse(["--cifar", "pictures", "--gpu"])
    plan = study_adversarial.plan_of(options)
    settings = plan.settings("PGD AT")
    assert settings["model"] == "resnet18-cifar" and settings["amp"] == "bf16" and settings["eps"] == 8 / 255
    assert (options.seeds, options.jobs, plan.key) == (1, 1, "study_adversarial_cifar10")
    assert plan.title.endswith("on a GPU") and "eps" not in plan.settings("standard")
    assert study_adversarial.shown_arguments(options) == ["--cifar", "CIFAR10_FOLDER", "--gpu"]
