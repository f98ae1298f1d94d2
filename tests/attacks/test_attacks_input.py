"""Attacks on bad input: settings, batches, targets, models in the wrong mode or with the wrong output."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from attack_reference import ATTACKS, CLASSES, Counting, batch, each_attack, generator, small_model
from torch import nn

from mixaug._model_state import training_attack
from mixaug.attacks import CWL2, FGSM, KLPGD, PGD, SPSA, CWLinf, FeatureScatter

#: Radii and steps that are too large in l-infinity and not in l2.
LARGE = (8, 1.5, 300, 2.0)
SETTINGS = [
    ({"eps": -0.1}, ValueError, "eps must be (from 0 to 1|finite and at least 0), got -0.1"),
    ({"eps": float("nan")}, ValueError, "eps must be"),
    ({"eps": 8}, ValueError, r"eps must be from 0 to 1, got 8; did you mean 8/255\?$"),
    ({"eps": 1.5}, ValueError, r"eps must be from 0 to 1, got 1\.5$"),
    ({"eps": 300}, ValueError, r"got 300$"),
    ({"step_size": 2.0}, ValueError, r"got 2\.0; did you mean 2/255\?$"),
    ({"eps": "8/255"}, TypeError, "eps must be a number, got str"),
    ({"eps": True}, TypeError, "eps must be a number, got bool"),
    ({"step_size": 0}, ValueError, "step_size must be (finite and )?above 0"),
    ({"step_size": -1}, ValueError, "step_size must be (finite and )?above 0"),
    ({"steps": -1}, ValueError, "steps must be from 0 to 2147483647, got -1"),
    ({"steps": 2.0}, TypeError, "steps must be an int, got float"),
    ({"targeted": 1}, TypeError, "targeted must be True or False"),
    ({"random_start": None}, TypeError, "random_start must be True or False"),
    ({"generator": 3}, TypeError, "generator must be a torch.Generator or None, got int: 3"),
    ({"norm": "l1"}, ValueError, "norm must be one of linf, l2, got 'l1'"),
    ({"objective": "ce"}, TypeError, "objective must be a function"),
    ({"early_stop": 1}, TypeError, "early_stop must be True or False"),
    ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647, got 0"),
    ({"batch_norm": "frozen"}, ValueError, "batch_norm must be one of still, moves, got 'frozen'"),
    ({"samples": 0}, ValueError, "samples must be from 1 to 2147483647, got 0"),
    ({"delta": 0}, ValueError, "delta must be above 0"),
    ({"start": -1}, ValueError, "start must be finite and at least 0"),
    ({"regularisation": 0.0}, ValueError, "regularisation must be finite and above 0"),
    ({"rounds": 0}, ValueError, "rounds must be from 1 to"),
    ({"confidence": -1}, ValueError, "confidence must be finite and at least 0, got -1"),
    ({"search_steps": 0}, ValueError, "search_steps must be from 1 to"),
    ({"initial_const": 0}, ValueError, "initial_const must be finite and above 0"),
    ({"abort_early": 0}, TypeError, "abort_early must be True or False"),
]


@pytest.mark.parametrize("kind", [FGSM, PGD, CWLinf, KLPGD, FeatureScatter, SPSA, CWL2])
def test_refuses_wrong_settings(kind):
    fields = {field.name for field in dataclasses.fields(kind)}
    tried = 0
    for wrong, error, message in SETTINGS:
        name = next(iter(wrong))
        if name not in fields or (kind is CWL2 and (name == "steps" or wrong.get(name, 0) in LARGE)):
            continue
        with pytest.raises(error, match=message):
            kind(**wrong)
        tried += 1
    assert tried >= 7


def test_limits_of_settings_that_depend_on_others():
    assert PGD(eps=3.0, step_size=2.0, norm="l2").eps == 3
    with pytest.raises(ValueError, match="step_size must be above 0 and at most 1"):
        PGD(eps=0.1, step_size=2.0)
    assert torch.equal(PGD(eps=0, step_size=0)(small_model(), *batch()), batch()[0])
    assert FGSM(eps=0).name == "fgsm"
    with pytest.raises(ValueError, match="steps must be from 1 to 2147483647, got 0"):
        CWL2(steps=0)
    with pytest.raises(TypeError, match="eps must be a number, got str"):
        CWL2(eps="big")


def batch_cases():
    images, labels = batch()
    soft = nn.functional.one_hot(labels, CLASSES).float()
    bad_row = soft.clone()
    bad_row[2] = 0.1
    elsewhere = torch.empty(6, dtype=torch.int64, device="meta")
    model = small_model()
    return [
        (("model", images, labels), TypeError, "model must be a torch.nn.Module, got str$"),
        (
            (lambda images: model(images), images, labels),
            TypeError,
            "model must be a torch.nn.Module, got function; wrap it in a torch.nn.Module",
        ),
        ((model, [1], labels), TypeError, "images must be a tensor, got list"),
        ((model, (images * 255).byte(), labels), TypeError, "divide uint8 images by 255"),
        ((model, images[0], labels), ValueError, r"images must have shape \(B, C, H, W\)"),
        ((model, images, labels.float()), TypeError, "labels must be an int64 tensor.*got torch.float32 of shape"),
        ((model, images, labels.int()), TypeError, "labels must be an int64 tensor.*got torch.int32"),
        ((model, images, [0] * 6), TypeError, "labels must be an int64 tensor, got list"),
        ((model, images, labels[:5]), ValueError, r"labels must have shape \(6,\)"),
        ((model, images, labels[:, None]), ValueError, r"labels must have shape \(6,\)"),
        ((model, images, elsewhere), ValueError, "labels must be on the images' device cpu, got meta"),
        ((model, images * 4 - 2, labels), ValueError, "got values from .*; normalise inside the model, as its first"),
        ((model, images * float("nan"), labels), ValueError, r"images must lie in \[0, 1\]"),
        ((model, images, labels - 9), ValueError, "labels must be 0 or more"),
        ((model, images, labels + 9), ValueError, "labels must lie below the model's 5 classes"),
        ((model, images, bad_row), ValueError, "rows that sum to 1; got a least value of 0 and sums from 0.5 to 1"),
        ((model, images, 2 * soft - 1 / CLASSES), ValueError, "0 or more, with rows that sum to 1"),
        ((model, images, soft * float("nan")), ValueError, "rows that sum to 1"),
        ((model, images, soft[:, :1] * 0 + 1), ValueError, "labels must have the model's 5 columns"),
        ((nn.Flatten(0).eval(), images, labels), ValueError, "model must return logits of shape"),
    ]


@pytest.mark.parametrize("number", range(len(batch_cases())))
def test_refuses_wrong_batches(number):
    arguments, error, message = batch_cases()[number]
    for attack in (PGD(), KLPGD(), FeatureScatter()):
        with pytest.raises(error, match=message):
            attack(*arguments)


def test_refuses_wrong_targets():
    model = small_model()
    images, labels = batch()
    targeted = PGD(targeted=True)
    cases = [
        (PGD(), labels, labels, ValueError, "targets need targeted=True, got them for pgd-10"),
        (KLPGD(), labels, labels, ValueError, "targets need targeted=True"),
        (targeted, labels, labels.float(), TypeError, "targets must be an int64 tensor, got torch.float32"),
        (targeted, labels, [0] * 6, TypeError, "targets must be an int64 tensor, got list"),
        (targeted, labels, labels[:3], ValueError, r"targets must have shape \(6,\)"),
        (targeted, labels, labels.to("meta"), ValueError, "targets must be on the images' device cpu, got meta"),
        (targeted, labels, labels - 9, ValueError, "targets must be 0 or more"),
        (targeted, labels, labels + 9, ValueError, "targets must lie below the model's 5 classes"),
    ]
    for attack, given_labels, targets, error, message in cases:
        with pytest.raises(error, match=message):
            attack(model, images, given_labels, targets=targets)
    soft = nn.functional.one_hot(labels, CLASSES).float()
    with pytest.raises(ValueError, match="needs labels that are class indices, got probabilities"):
        targeted(model, images, soft)
    assert torch.isfinite(targeted(model, images, soft, targets=labels)).all()
    one_class = nn.Sequential(nn.Flatten(), nn.Linear(240, 1)).eval()
    with pytest.raises(ValueError, match="2 classes or more"):
        targeted(one_class, images, labels * 0)


@pytest.mark.parametrize("name", ["cw", "cw-l2", "spsa"])
def test_the_margin_needs_class_indices_and_two_classes(name):
    images, labels = batch()
    attack = dataclasses.replace(ATTACKS[name](None), targeted=False)
    with pytest.raises(TypeError, match="margin needs class indices"):
        attack(small_model(), images, nn.functional.one_hot(labels, CLASSES).float())
    with pytest.raises(ValueError, match="margin needs 2 classes or more, got logits of 1"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(240, 1)).eval(), images, labels * 0)


def test_a_model_in_training_mode_is_said_once():
    images, labels = batch()
    model = small_model().train()
    with pytest.warns(UserWarning, match=r"model is in training mode; .* call model.eval\(\)"):
        PGD(steps=1)(model, images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(steps=1)(model, images, labels)  # again the same model
        PGD(steps=1)(small_model(), images, labels)
        for attack in (KLPGD(steps=1), FeatureScatter()):  # adversaries of training
            attack(small_model().train(), images, labels)
        with training_attack():
            PGD(steps=1)(small_model().train(), images, labels)
    with pytest.warns(UserWarning, match="training mode"):
        FGSM()(small_model().train(), images, labels)


@each_attack()
def test_logits_that_are_not_finite_are_reported(make):
    size = (15, 15)
    images, labels = batch(size=size)
    for bad in (float("nan"), float("inf")):
        model = Counting(small_model(size), lambda logits, bad=bad: logits * bad).eval()
        with pytest.raises(FloatingPointError, match=r"not finite at (step|forward pass) 1 of"):
            make(generator())(model, images, labels)


def test_the_report_names_the_step_and_waits_for_the_last_one():
    model = Counting(small_model(), lambda logits: logits * float("nan"), at=3).eval()
    with pytest.raises(FloatingPointError, match="logits or gradient were not finite at step 3 of 5"):
        PGD(steps=5)(model, *batch())
    assert len(model.sizes) == 5


def test_a_gradient_that_is_not_finite_is_reported():
    class Root(nn.Module):
        def forward(self, images):
            return (images - images).flatten(1).sqrt()  # finite logits, 0/0 as gradient

    with pytest.raises(FloatingPointError, match="step 1 of 1"):
        FGSM()(Root().eval(), *batch())


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, images):
        return self.function(images)


@each_attack()
def test_a_model_that_does_not_return_logits_is_named(make):
    size = (15, 15)
    images, labels = batch(size=size)
    logits = small_model(size)(images).detach()
    cases = [
        (lambda x: (logits, x), "got tuple of 2; wrap the model"),
        (lambda x: [logits], "got list of 1; wrap the model"),
        (lambda x: {"logits": logits}, "got dict"),
        (lambda x: None, "got NoneType"),
        (lambda x: logits[0], r"got torch.float32 of shape \(5,\)"),
        (lambda x: logits[:5], r"got torch.float32 of shape \(5, 5\)"),
        (lambda x: logits.long(), r"got torch.int64 of shape \(6, 5\)"),
    ]
    for function, message in cases:
        with pytest.raises(ValueError, match=f"model must return logits.*{message}"):
            make(None)(Returns(function), images, labels)


@pytest.mark.parametrize("make", [PGD, FGSM, CWLinf, CWL2, FeatureScatter, KLPGD])
def test_a_model_that_is_cut_off_from_the_images_is_named(make):
    model = small_model()
    images, labels = batch()
    for function in (lambda x: model(x).detach(), lambda x: model(images)):
        with pytest.raises(ValueError, match="cut off from"):
            make()(Returns(function), images, labels)


def test_images_off_by_rounding_are_clipped_before_the_attack():
    images, labels = batch()
    off = images.clone()
    off[0, 0, 0, 0], off[1, 0, 0, 0] = -3e-8, 1 + 1e-3
    adversarial = PGD(eps=0.1, steps=2, random_start=False)(small_model(), off, labels)
    inside = PGD(eps=0.1, steps=2, random_start=False)(small_model(), off.clamp(0, 1), labels)
    assert torch.equal(adversarial, inside)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    off[1, 0, 0, 0] = 1.004
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got values from .* to 1\.00399995; normalise"):
        PGD()(small_model(), off, labels)


def test_an_infinite_radius_is_refused():
    for kind in (FGSM, PGD, KLPGD, FeatureScatter, CWL2):
        given = {} if kind is CWL2 else {"norm": "l2"}
        with pytest.raises(ValueError, match="eps must be finite and at least 0, got inf"):
            kind(eps=float("inf"), **given)
