"""Every rule of the audit both ways, on outcomes made by hand: only the figures decide."""

from __future__ import annotations

import pytest
import torch
from audit_models import evidence

from mixaug.evaluate.audit.result import Check, Thresholds, right_under_all, strongest_of
from mixaug.evaluate.audit.rules import RULES, all_checks, curve, verdict_of
from mixaug.evaluate.intervals import Quantity


def check(name: str, *args: object, **changes: object) -> Check:
    return next(each for each in all_checks(evidence(*args, **changes)) if each.name == name)


def masked(**changes: object) -> bool:
    return any(each.status == "fail" and each.decides for each in all_checks(evidence(**changes)))


def test_an_honest_model_passes_every_check():
    found = {each.name: each.status for each in all_checks(evidence())}
    assert list(found) == list(RULES)
    assert {name for name, status in found.items() if status == "not run"} == {"averaged"}
    assert set(found.values()) == {"pass", "not run"}
    assert not masked()


def test_every_check_names_its_source_and_its_figures():
    for each in all_checks(evidence()):
        assert "20" in each.source and each.label
        assert each.reason.endswith(".")
        assert (each.status == "not run") == (each.figures == {})
        assert all(
            figure.n in (160, 200) and figure.low <= figure.value <= figure.high for figure in each.figures.values()
        )


def test_black_box_is_compared_with_the_strongest_gradient_attack():
    weak = {"fgsm": 160, "pgd-ce": 160, "pgd-margin": 160, "apgd-ce": 160}
    assert check("black-box", counts={**weak, "square": 110}).status == "pass"  # APGD-DLR has 100
    found = check("black-box", counts={**weak, "apgd-dlr": 150, "square": 110})
    assert found.status == "fail" and found.decides
    assert found.figures["APGD-DLR"].value == 0.75
    assert found.figures["Square"].value == 0.55
    assert found.figures["difference"].value == pytest.approx(0.2)
    assert "+20.0 points" in found.reason


@pytest.mark.parametrize("other", ["square", "spsa"])
def test_the_stronger_of_the_black_box_attacks_counts(other):
    assert check("black-box", counts={other: 60}).status == "fail"
    assert check("black-box", counts={other: 100}).status == "pass"


@pytest.mark.parametrize("name, attack", [("transfer", "transfer"), ("averaged", "averaged"), ("black-box", "square")])
def test_beyond_the_margin_and_outside_the_interval(name, attack):
    assert check(name, counts={attack: 96}).status == "pass"  # 2 points are the margin, not beyond it
    assert check(name, counts={attack: 95}).status == "fail"  # 5 of 200: the interval ends above 0
    assert check(name, counts={attack: 95}, thresholds=Thresholds(margin=0.03)).status == "pass"
    assert check(name, counts={attack: 95}).decides
    assert check(name, counts={attack: 105}).status == "pass"


def test_beyond_the_margin_inside_of_the_interval_is_a_warning():
    found = evidence()
    # 30 images are lost to Square alone, 24 to the gradient attacks alone: 3 points, and chance.
    found.right["square"] = found.right["pgd-ce"].clone()
    found.right["square"][:30] = False
    found.right["square"][100:124] = True
    each = all_checks(found)[0]
    assert each.name == "black-box" and each.status == "warn"
    assert each.figures["difference"].value == pytest.approx(0.03)
    assert each.figures["difference"].low < 0 < each.figures["difference"].high
    assert each.figures["difference"].method == "paired bootstrap"


def test_differences_are_paired():
    found = evidence()
    found.right["square"] = found.right["pgd-ce"].clone()
    found.right["square"][:8] = False  # the same images but for these: an unpaired interval would hold 0
    each = all_checks(found)[0]
    assert each.status == "fail"
    assert each.figures["difference"].low > 0.01


def test_what_needs_robustness_is_not_run_where_there_is_none():
    counts = dict.fromkeys(("fgsm", "pgd-ce", "pgd-margin", "apgd-ce"), 80)
    nothing = {**counts, "apgd-dlr": 4, "square": 0, "transfer": 0, "noise": 0}  # one attack leaves 2%: enough
    found = {each.name: each for each in all_checks(evidence(counts=nothing))}
    skipped = {"black-box", "transfer", "noise", "averaged", "together", "large-radius", "growing-radius", "one-step"}
    assert {name for name, each in found.items() if each.status == "not run"} == skipped
    assert "2.0%" in found["black-box"].reason and "APGD-DLR" in found["black-box"].reason
    assert check("black-box", counts={**nothing, "apgd-dlr": 5}).status == "fail"
    limits = Thresholds(least_accuracy=0.03)
    assert check("black-box", counts={**nothing, "apgd-dlr": 5}, thresholds=limits).status == "not run"


def test_cross_entropy_far_weaker():
    assert check("cross-entropy", counts={"pgd-ce": 110}).status == "pass"  # 5 points: honest models differ so
    found = check("cross-entropy", counts={"pgd-ce": 114})
    assert found.status == "fail" and found.decides and found.threshold == 0.05
    assert found.figures["difference"].value == pytest.approx(0.07)
    assert check("cross-entropy", counts={"pgd-ce": 114}, thresholds=Thresholds(far=0.1)).status == "pass"
    assert check("cross-entropy", counts={"pgd-ce": 90, "pgd-margin": 120, "apgd-dlr": 120}).status == "pass"
    # Whichever other gradient attack it is.
    assert check("cross-entropy", counts={"pgd-ce": 114, "pgd-margin": 114, "apgd-dlr": 114}).status == "fail"


def test_a_flat_softmax_is_no_masking():
    assert check("cross-entropy", counts={"pgd-ce": 116}).status == "fail"
    found = check("cross-entropy", counts={"pgd-ce": 116, "pgd-stretched": 104})
    assert found.status == "pass" and "PGD-20 on stretched logits" in found.figures
    assert check("cross-entropy", counts={"pgd-ce": 116, "pgd-stretched": 116}).status == "fail"
    # It is a gradient attack like the others, but not one that shows the cross-entropy to be weak.
    assert check("cross-entropy", counts={"pgd-ce": 100, "pgd-stretched": 60}).status == "pass"
    assert check("black-box", counts={"pgd-stretched": 60, "square": 80}).status == "pass"


def test_cross_entropy_needs_its_interval_above_the_margin():
    found = evidence(n=60, counts={"clean": 50, "pgd-ce": 34, "pgd-margin": 30, "apgd-dlr": 30})
    each = next(each for each in all_checks(found) if each.name == "cross-entropy")
    assert each.figures["difference"].value > 0.05
    assert 0 < each.figures["difference"].low <= 0.02
    assert each.status == "warn"


@pytest.mark.parametrize("other", ["pgd-margin", "apgd-dlr"])
def test_cross_entropy_that_saturates_is_masking_though_nothing_is_left(other):
    counts = {"fgsm": 158, "pgd-ce": 150, "apgd-ce": 150, "pgd-margin": 150, "apgd-dlr": 150, other: 0}
    assert check("cross-entropy", counts=counts).status == "fail"
    assert check("black-box", counts=counts).status == "not run"
    assert masked(counts=counts)


def test_cross_entropy_without_robustness_is_not_run():
    counts = {"pgd-ce": 4, "pgd-margin": 0, "apgd-dlr": 0}
    assert check("cross-entropy", counts=counts).status == "not run"


def test_one_step_is_compared_with_the_strongest_of_many_steps():
    assert check("one-step", counts={"fgsm": 100}).status == "pass"
    found = check("one-step", counts={"fgsm": 80})
    assert found.status == "fail" and found.decides
    assert found.figures["difference"].value == pytest.approx(0.1)
    assert check("one-step", counts={"fgsm": 80, "apgd-dlr": 82}).status == "pass"


def test_noise_that_hurts_is_a_yardstick():
    assert check("noise").status == "pass"
    assert check("noise", counts={"noise": 101}).status == "warn"  # the attack does hardly more
    equal = check("noise", counts={"noise": 100})
    assert equal.status == "fail" and not equal.decides  # no better than noise, but noise shows nothing more
    stronger = check("noise", counts={"noise": 80})
    assert stronger.status == "fail" and stronger.decides


def test_noise_that_does_not_hurt_says_nothing():
    still = dict.fromkeys(("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-dlr", "noise"), 158)
    assert check("noise", counts=still).status == "pass"


def test_all_attacks_together():
    found = evidence()
    found.right["spsa"] = torch.arange(200) >= 40  # fools 40 that the gradient attacks do not, and few others
    found.right["spsa"][160:] = False
    each = next(each for each in all_checks(found) if each.name == "together")
    assert each.status == "fail" and each.decides
    assert each.figures["all together"].value == pytest.approx(0.3)
    assert each.figures["difference"].value == pytest.approx(0.2)
    assert check("black-box", counts={}).status == "pass"


def test_all_attacks_together_is_not_run_on_a_random_model():
    assert check("together", counts={"square": 60}).status == "fail"
    found = check("together", counts={"square": 60}, changed=3)
    assert found.status == "not run" and "chance" in found.reason


def test_together_is_of_this_radius():
    right = {name: torch.tensor([True]) for name in ("clean", "pgd-ce", "square")}
    wrong = {name: torch.tensor([False]) for name in ("radius-half", "radius-double", "radius-large", "grey")}
    assert right_under_all({**right, **wrong}).tolist() == [True]
    assert right_under_all({**right, "noise": torch.tensor([False])}).tolist() == [False]


def test_large_radius():
    assert check("large-radius").status == "pass"
    warned = check("large-radius", counts={"radius-large": 20, "grey": 20})
    assert warned.status == "warn" and warned.threshold == 0.05
    found = check("large-radius", counts={"radius-large": 100})
    assert found.status == "fail" and found.decides
    assert found.figures["difference"].value == pytest.approx(0.4)
    limits = Thresholds(near_zero=0.1)
    assert check("large-radius", counts={"radius-large": 20, "grey": 20}, thresholds=limits).status == "pass"


def test_growing_radius():
    falling = check("growing-radius")
    assert falling.status == "pass"
    assert list(falling.figures) == ["at 0.05", "at 0.1", "at 0.2", "at 0.5", "rise"]
    rising = check("growing-radius", counts={"radius-double": 120})
    assert rising.status == "fail" and rising.decides
    assert rising.figures["rise"].value == pytest.approx(0.1)
    assert "0.1 to 0.2" in rising.reason
    far = check("growing-radius", counts={"radius-half": 60, "pgd-ce": 60, "radius-double": 50, "radius-large": 58})
    assert far.figures["rise"].value == pytest.approx(0.04)
    flat = check(
        "growing-radius",
        counts={**dict.fromkeys(("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-dlr"), 158), "radius-half": 159}
        | {"radius-double": 158, "radius-large": 157},
    )
    assert flat.status == "warn" and "stays" in flat.reason


def test_the_curve_takes_both_losses():
    for counts in ({"pgd-ce": 90, "pgd-margin": 120}, {"pgd-ce": 120, "pgd-margin": 90}):
        right = evidence(counts=counts).right
        found = curve(right, 0.1)
        assert list(found) == [0.05, 0.1, 0.2, 0.5]
        assert int(found[0.1].sum()) == 90
    assert list(curve({"clean": right["clean"]}, 0.1)) == []


def test_zero_gradients_warn_or_fail_but_do_not_decide():
    assert check("zero-gradients").status == "pass"
    assert check("zero-gradients", zero_margin=4, zero_ce=4).status == "pass"
    assert check("zero-gradients", zero_margin=0, zero_ce=80).status == "warn"
    assert check("zero-gradients", zero_margin=6, zero_ce=6).status == "warn"  # 3%, and the interval holds 2%
    found = check("zero-gradients", zero_margin=80, zero_ce=80)
    assert found.status == "fail" and not found.decides
    assert found.figures["no gradient"].value == 0.4
    assert not masked(zero_margin=200, zero_ce=200)
    assert check("zero-gradients", zero_margin=80, thresholds=Thresholds(zero_gradients=0.5)).status == "pass"


def test_repeated_calls_warn():
    assert check("repeated-calls").status == "pass"
    found = check("repeated-calls", changed=200, turned=30)
    assert found.status == "warn" and "15.0%" in found.reason


def test_a_rough_surface_only_warns():
    assert check("rough-surface", cosine=0.3).status == "pass"
    found = check("rough-surface", cosine=0.1)
    assert found.status == "warn" and not found.decides
    assert isinstance(found.figures["cosine"], Quantity)
    assert check("rough-surface", cosine=0.3, thresholds=Thresholds(roughness=0.5)).status == "warn"
    assert check("rough-surface", cosine=float("nan")).status == "not run"


def test_too_few_images_that_are_right():
    counts = {"clean": 9, **dict.fromkeys(("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-dlr"), 9), "square": 0}
    assert check("black-box", counts=counts).status == "not run"
    assert "9 of the 200" in check("black-box", counts=counts).reason
    assert check("black-box", counts=counts, thresholds=Thresholds(least_images=9)).status == "fail"
    found = evidence(counts=counts)
    assert verdict_of(all_checks(found), found).startswith("No verdict")


def test_what_was_left_out_is_said():
    found = check("black-box", counts={"square": -1}, left_out={"square": "Square needs pyautoattack."})
    assert found.status == "pass" and found.reason.endswith("Square needs pyautoattack.")
    both = {"square": "Square needs pyautoattack.", "spsa": "No SPSA."}
    found = check("black-box", counts={"square": -1, "spsa": -1}, left_out=both)
    assert found.status == "not run" and found.reason == "Square needs pyautoattack. No SPSA."
    found = check("transfer", counts={"transfer": -1}, left_out={"transfer": "No surrogate was given."})
    assert found.status == "not run" and found.reason == "No surrogate was given."
    found = check("cross-entropy", counts={"apgd-dlr": -1}, left_out={"apgd-dlr": "APGD-DLR needs 3 classes."})
    assert found.status == "pass" and "APGD-DLR needs 3 classes." in found.reason


def test_the_verdict_names_the_largest_difference():
    found = evidence(counts={"square": 80, "transfer": 40})
    words = verdict_of(all_checks(found), found)
    assert words.startswith("Masked: Transfer leaves 20.0%") and "+30.0 points" in words


def test_the_verdict_of_an_honest_model_names_the_strongest_and_the_closest():
    found = evidence(counts={"apgd-dlr": 96})
    words = verdict_of(all_checks(found), found)
    assert words.startswith("Not masked") and "APGD-DLR" in words and "48.0%" in words
    assert "Square, leaves 55.0%" in words
    assert "But" not in words


def test_the_verdict_says_what_is_doubtful():
    found = evidence(zero_margin=200, zero_ce=200)
    words = verdict_of(all_checks(found), found)
    assert words.startswith("Not masked") and "But: 100.0% of the images have no gradient" in words


def test_the_verdict_without_robustness():
    found = evidence(counts={"apgd-dlr": 0, "pgd-ce": 0})
    words = verdict_of(all_checks(found), found)
    assert words == "Not masked: PGD-20 leaves 0.0% of the images: there is no robustness to lose."


def test_strongest_of():
    right = evidence(counts={"fgsm": 90, "apgd-ce": 95}).right
    assert strongest_of(right, ("pgd-ce", "apgd-ce", "fgsm")) == "fgsm"
    assert strongest_of(right, ("pgd-ce", "pgd-margin")) == "pgd-ce"
    assert strongest_of({}, ("fgsm",)) is None


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"margin": "2"}, TypeError, "margin must be a number"),
        ({"margin": -0.1}, ValueError, "margin must be from 0 to 1"),
        ({"near_zero": 2.0}, ValueError, "near_zero must be from 0 to 1"),
        ({"far": 0.01}, ValueError, "far must be margin=0.02 or more, got 0.01"),
        ({"least_images": 0}, ValueError, "least_images must be at least 1"),
        ({"least_images": 2.5}, TypeError, "least_images must be an int"),
    ],
)
def test_thresholds_are_checked(settings, error, words):
    with pytest.raises(error, match=words):
        Thresholds(**settings)
