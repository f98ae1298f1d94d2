"""Runs of the D-ReLU study: what they train, with which attacks they are measured, stopped and resumed."""

from __future__ import annotations

import pytest
import study_drelu
import study_drelu_page
import study_drelu_plan
import study_drelu_run
import torch

from mixaug.nn import DReLU

RADII = ("0.1", "0.5")


def study_of(tmp_path, *arguments):
    options = study_drelu.parse(
        ["--quick", "--seeds", "2", "--lambdas", "10,0.5", "--out", str(tmp_path), *arguments]
    )  # fmt: skip
    plan = study_drelu.plan_of(options)
    return options, plan, study_drelu.jobs_of(plan, options.seeds)


def test_variants_differ_only_in_what_they_are_named_for(tmp_path):
    _, plan, jobs = study_of(tmp_path)
    plain, relu, low, high = (study_drelu_run.settings_of(job, "cpu", tmp_path) for job in jobs[:4])
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
    attack = study_drelu_run.Transferred(clean, made)
    order = [3, 0, 4]
    given = clean[order].to(memory_format=torch.channels_last)
    assert torch.equal(attack(torch.nn.Identity(), given, torch.zeros(3)), made[order])
    with pytest.raises(KeyError):
        attack(torch.nn.Identity(), clean + 0.5, torch.zeros(5))


def test_noise_is_of_the_whole_radius_and_the_same_for_all():
    images = torch.full((4, 1, 5, 7), 0.5)
    first = study_drelu_run.noise(torch.nn.Identity(), images, torch.zeros(4), eps=0.1)
    torch.testing.assert_close((first - images).abs(), torch.full_like(images, 0.1))
    assert 0.2 < (first > images).float().mean() < 0.8
    assert torch.equal(first, study_drelu_run.noise(torch.nn.Flatten(), images, torch.ones(4), eps=0.1))
    assert study_drelu_run.noise(torch.nn.Identity(), images * 2, torch.zeros(4), eps=0.1).max() == 1


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
    within = {*study_drelu_plan.GRADIENT_ATTACKS, *study_drelu_plan.OTHER_ATTACKS}
    attacks = dict.fromkeys(within, darkens(lambda numbers: numbers >= 0)) | {
        "fgsm": darkens(lambda numbers: numbers % 8 != 0),
        "pgd-20": darkens(lambda numbers: numbers % 4 != 0),
        "square": darkens(lambda numbers: numbers % 4 != 1),
        "cw-l2": darkens(lambda numbers: numbers < 0),  # another radius
    }
    counts = {name: 12 if plan.sizes.n[name] == 4 else 20 for name in attacks}
    for name in study_drelu_plan.CURVES:
        for radius in plan.sizes.radii:
            at = study_drelu_run.at(name, radius)
            attacks[at], counts[at] = attacks["cw-l2"], 12
    report = study_drelu_run.evaluate_model(
        Dark(),
        (images, torch.zeros(24, dtype=torch.int64)),
        attacks=attacks,
        corruptions=None,
        audit=False,
        n_attack=counts,
    )
    found = study_drelu_run.measured(report, plan)
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
    plain = study_drelu_run.caps_of(torch.nn.Sequential(*layers), test, 5)
    assert plain["zero_gradient"]["value"] == 0 and plain["zero_gradient"]["n"] == plain["n"] == 5
    assert "quantiles" not in plain
    closed = study_drelu_run.caps_of(torch.nn.Sequential(layers[0], DReLU(4, init=0.1), layers[1]), test, 5)
    assert closed["zero_gradient"]["value"] == 1 and closed["capped_share"] == 1 and closed["capped_units"] == 1
    assert closed["quantiles"] == pytest.approx([0.1] * 5)


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
    pairs = study_drelu_run.read_pairs(plan, source)
    clean, made = pairs["transfer"]
    assert len(clean) == 8 and 0.09 < (clean - made).abs().max() < 0.1001
    assert sorted(pairs) == ["transfer", "transfer at 0.1", "transfer at 0.5"]
    assert not study_drelu_run.read_pairs(study_of(tmp_path, "--eps", "0.2")[1], source)  # made for another radius

    evaluate = study_drelu_run.evaluate_model
    monkeypatch.setattr(study_drelu_run, "evaluate_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed while it is measured: the training is kept
        study_drelu.run_locked(plan, job.variant, 0, options)
    trained = (folder / "last.pt").read_bytes()
    monkeypatch.setattr(study_drelu_run, "evaluate_model", evaluate)
    assert study_drelu.run_locked(plan, job.variant, 0, options) == 0
    assert (folder / "last.pt").read_bytes() == trained

    row = study_drelu.read_result(job, options)
    counts = {"clean": 1000, **{name: count for name, count in plan.sizes.n.items() if name != "caps"}}
    assert {key: entry["n"] for key, entry in row["figures"].items()} == counts
    assert row["settings"]["drelu_lambda"] == 10 and row["steps"] == 2 and row["training_images"] == 64
    assert 0 < row["caps"]["quantiles"][4] < 100 and len(row["caps"]["quantiles"]) == 5
    weakest = min(row["same_images"][name]["value"] for name in study_drelu_plan.GRADIENT_ATTACKS)
    assert row["same_images"]["all"]["value"] <= weakest
    lines = study_drelu_page.page(study_drelu.collect(plan, options)).splitlines()
    assert any(line.startswith("| D-ReLU head, lambda 10 | ") for line in lines)
