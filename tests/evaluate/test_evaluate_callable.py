"""Any callable is a model: what needs no gradient is the same, what needs one is left out and said to be."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from evaluate_parts import BARE, labelled, net, pictures, timeless
from torch import nn

from mixaug.attacks import FGSM, PGD, SPSA, Square
from mixaug.evaluate import Report, evaluate_model

pytest.importorskip("pyautoattack")
pytest.importorskip("matplotlib")

#: All that needs no gradient.
BLIND = {
    "attacks": [SPSA(0.1, steps=2, samples=4), Square(0.1, queries=10)],
    "corruption_names": ["brightness", "jpeg_compression"],
    "n_flips": 2,
    "n_occlusion": 4,
}
#: What is asked for beside it.
SEEING = {"n_curve": 3, "n_lipschitz": 3, "n_surface": 1, "n_features": 4, "n_maps": 2, "audit": True, "n_audit": 5}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return net().eval()


@pytest.fixture(scope="module")
def data(model):
    return labelled(model, pictures())


@functools.cache
def onnx_session(model, batch=None):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (torch.zeros(batch or 2, 3, 8, 8),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    return runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


def scripted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out, but there are models of it
        return torch.jit.freeze(torch.jit.trace(model, torch.zeros(2, 3, 8, 8)))


def by_hand(model):
    """A function of numpy alone."""
    weights = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}

    def predict(images):
        windows = np.lib.stride_tricks.sliding_window_view(images.numpy().astype(np.float64), (3, 3), axis=(2, 3))
        x = np.einsum("bchwij,ocij->bohw", windows, weights["0.weight"]) + weights["0.bias"][:, None, None]
        x = (x - weights["1.running_mean"][:, None, None]) / np.sqrt(weights["1.running_var"] + 1e-5)[:, None, None]
        x = np.maximum(x * weights["1.weight"][:, None, None] + weights["1.bias"][:, None, None], 0)
        return x.reshape(len(x), -1) @ weights["5.weight"].T + weights["5.bias"]

    return predict


def flips_of(report):
    return report.measured["flips"].value.flips


KINDS = {
    "function": lambda model: lambda images: model(images),
    "numpy": by_hand,
    "array": lambda model: lambda images: model(images).numpy(),
    "method": lambda model: model.forward,
    "inference mode": lambda model: torch.inference_mode()(lambda images: model(images)),
    "traced": scripted,
    "onnx": onnx_session,
    "onnx of 5 images": lambda model: onnx_session(model, 5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_no_gradient_is_the_same_for_any_callable(model, data, kind):
    expected = evaluate_model(model, data, **BLIND, audit=False, batch_size=7)
    report = evaluate_model(KINDS[kind](model), data, **BLIND, audit=False, batch_size=7)
    one, other = expected.outcomes, report.outcomes
    assert torch.equal(one.correct, other.correct) and 0 < int(one.correct.sum()) < 12
    assert torch.allclose(one.confidence, other.confidence, atol=1e-5)
    for name in BLIND["corruption_names"]:
        assert torch.equal(one.corrupted[name], other.corrupted[name])
    assert list(one.attacked) == list(other.attacked) == ["spsa", "square"]
    for name in one.attacked:
        assert torch.equal(one.attacked[name], other.attacked[name])
    assert {name: counts.tolist() for name, counts in flips_of(expected).items()} == {
        name: counts.tolist() for name, counts in flips_of(report).items()
    }
    hidden = [each.measured["occlusion"].value.correct for each in (expected, report)]
    assert torch.equal(*hidden)
    assert report.left_out == {}
    assert report.settings["num_classes"] == 3


@pytest.mark.parametrize("kind", ["function", "onnx"])
@pytest.mark.parametrize("attacks", ["pgd", "quick", "standard", "own"])
def test_what_needs_a_gradient_is_left_out_with_the_reason(model, data, kind, attacks, tmp_path):
    given = {
        "own": {"mine": PGD(0.1, 0.03, 2), "square": Square(0.1, queries=5), "other": lambda m, x, y: 1 - x},
    }.get(attacks, attacks)
    counts = {"n_attack": {"pgd-20": 3}} if attacks == "pgd" else {"n_attack": 3}
    report = evaluate_model(KINDS[kind](model), data, attacks=given, corruptions=None, eps=0.2, **SEEING, **counts)
    reason = {
        "function": "a model that is no torch.nn.Module gives no gradients",
        "onnx": "an ONNX Runtime session gives no gradients",
    }[kind]
    run = {"pgd": [], "quick": ["square"], "standard": ["spsa", "square"], "own": ["square", "other"]}[attacks]
    left = {
        "pgd": ["pgd-20"],
        "quick": ["fgsm", "pgd-20", "cw-20"],
        "standard": ["fgsm", "pgd-20", "pgd-100", "cw-20", "cw-l2", "apgd-ce", "apgd-dlr"],
        "own": ["mine"],
    }[attacks]
    assert list(report.attacks) == run
    parts = {"curve", "lipschitz", "surface", "audit"}
    assert {part for part, why in report.left_out.items() if why == reason} == {*left, *parts}
    layers = "cannot be looked into" if kind == "onnx" else "no layers that can be looked into"
    assert set(report.left_out) == {*left, *parts, "features", "maps"}
    assert layers in report.left_out["features"] and layers in report.left_out["maps"]
    assert report.audit is None and report.lipschitz is None and "curve" not in report.measured
    table = " ".join(report.to_table().split())
    for part, why in report.left_out.items():
        assert f"Left out, {part}: {why}" in table
    assert report.settings["weights_sha256"] is None and report.settings["parameters"] == 0
    assert report.settings["model"] == ("ONNX Runtime session" if kind == "onnx" else "function")
    page = report.save(tmp_path / "report.html")
    assert reason in page.read_text()
    assert Report.load(tmp_path / "report.json").left_out == report.left_out


def test_a_module_that_cuts_its_gradient_off_is_audited_and_its_attacks_are_left_out(model, data):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            return self.inner(images.detach())

    class Detour(Detached):
        def forward(self, images):
            return self.inner(torch.from_numpy(images.numpy()))

    class Switched(Detached):
        def forward(self, images):
            with torch.no_grad():
                return self.inner(images)

    cut = "logits are cut off from the images"
    for kind, words in ((Detached, cut), (Switched, cut), (Detour, "Can't call numpy")):
        report = evaluate_model(kind(), data, corruptions=None, eps=0.2, n_audit=5, n_attack=4)
        assert list(report.attacks) == ["square"]
        assert set(report.left_out) == {"fgsm", "pgd-20", "cw-20", "curve"}
        assert all(words in reason for reason in report.left_out.values())
        assert report.audit is not None


def test_torchscript_has_gradients_but_no_layers_to_look_into(model, data):
    settings = {"attacks": [FGSM(0.05), PGD(0.05, 0.02, 3)], "corruptions": None, "eps": 0.05, **SEEING}
    expected, report = (evaluate_model(each, data, **settings) for each in (model, scripted(model)))
    assert set(report.left_out) == {"features", "maps"} and expected.left_out == {}
    assert "TorchScript" in report.left_out["maps"]
    for name in expected.outcomes.attacked:
        assert torch.equal(expected.outcomes.attacked[name], report.outcomes.attacked[name])
    assert report.lipschitz.value == pytest.approx(expected.lipschitz.value, rel=1e-3)
    assert report.audit.masked == expected.audit.masked
    assert len(report.measured["curve"].right) == 5


def test_a_model_that_writes_to_its_images_is_measured_like_one_that_does_not(model, data):
    class Rude(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            logits = self.inner(images)
            if not images.requires_grad:
                images.zero_()
            return logits

    images = data[0].float() / 255
    settings = {
        "attacks": {"x": lambda m, x, y: (x + 0.1).clamp(0, 1)}, "corruption_names": ["fog"], "audit": False
    }  # fmt: skip
    one, other = (evaluate_model(each, (images, data[1]), **settings) for each in (model, Rude()))
    assert other.to_json()["outcomes"] == one.to_json()["outcomes"] and one.outcomes.attack_change["x"] > 0.09
    assert other.to_json()["examples"] == one.to_json()["examples"]
    assert torch.equal(images, data[0].float() / 255)


def test_finished_pieces_of_functions_are_told_apart_by_what_the_functions_say(model, data, tmp_path):
    calls = []

    def predict(images):
        calls.append(len(images))
        return model(images)

    def other(images):
        return -model(images)

    settings = {**BLIND, "audit": False, "state": tmp_path}
    first = evaluate_model(predict, data, **settings)
    all_calls = sum(calls)
    calls.clear()
    again = evaluate_model(predict, data, **settings)
    assert timeless(again) == timeless(first)
    assert sum(calls) <= 12 + 2 * 12 < all_calls  # the probe, and the normalised images
    opposite = evaluate_model(other, data, **settings)
    assert torch.equal(opposite.outcomes.correct, evaluate_model(other, data, **BARE).outcomes.correct)
    assert not torch.equal(opposite.outcomes.correct, first.outcomes.correct)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda images: images.flatten(1).argmax(1), r"logits of shape \(12, classes\).*got torch.float32 of shape"),
        (lambda images: (torch.zeros(len(images), 3), None), "got tuple of 2; wrap the model"),
        (lambda images: None, "got NoneType"),
        (lambda images: torch.zeros(1, 3), r"got torch.float32 of shape \(1, 3\)"),
        (lambda images: {"logits": torch.zeros(len(images), 3)}, "got dict"),
        (lambda images: torch.zeros(len(images), 1), "model must give logits of 2 classes or more, got 1"),
    ],
)
def test_what_gives_no_logits_is_refused(data, answer, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(answer, data, **BARE)


def test_what_is_no_model_is_refused(data):
    for what, got in ((3, "int"), ("resnet", "str"), (nn.Linear, "the class Linear"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"model must be a torch.nn.Module, an ONNX Runtime .*, got {got}"):
            evaluate_model(what, data)


def test_a_session_with_two_inputs_is_refused(data):
    class Session:
        def get_inputs(self):
            return [1, 2]

        def run(self, names, given):
            raise NotImplementedError

    with pytest.raises(TypeError, match="model must take one input, the session takes 2; wrap it in a function"):
        evaluate_model(Session(), data)
