"""A killed evaluation goes on where it was, and never takes a piece of another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluate_parts import Counting, labelled, net, pictures, timeless
from paths import HELPERS
from torch import nn

from mixaug.attacks import FGSM, PGD
from mixaug.evaluate import clear_state, evaluate_model

pytest.importorskip("sklearn")

#: Every kind of piece, few of each.
PARTS = {
    "attacks": [FGSM(0.03), PGD(0.03, 0.01, 3)],
    "corruption_names": ["brightness", "contrast"],
    "audit": False,
    "eps": 0.03,
    "n_curve": 3,
    "n_lipschitz": 3,
    "n_surface": 1,
    "n_occlusion": 3,
    "n_features": 4,
    "n_maps": 2,
    "batch_size": 5,
}
SCRIPT = """
import os, signal, sys
import torch
sys.path[:0] = sys.argv[1].split(os.pathsep)
from evaluate_parts import labelled, net, pictures
from test_evaluate_state import PARTS
from mixaug.evaluate import evaluate_model

torch.set_num_threads(int(sys.argv[3]))
model = net()
data = labelled(model, pictures())
calls = []

def count(module, images):
    calls.append(len(images))
    if len(calls) == 60:
        os.kill(os.getpid(), signal.SIGKILL)

model.register_forward_pre_hook(count)
evaluate_model(model, data, state=sys.argv[2], **PARTS)
print("not killed")
"""


@pytest.fixture
def data():
    return labelled(net(), pictures())


def test_a_killed_process_goes_on_where_it_was(tmp_path, data):
    words = [f"{HELPERS}{os.pathsep}{Path(__file__).parent}", str(tmp_path / "state"), str(torch.get_num_threads())]
    killed = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL and killed.stdout == "", killed.stderr
    assert len(os.listdir(tmp_path / "state")) > 5
    whole, again = net(), net()
    calls: dict[nn.Module, int] = {whole: 0, again: 0}
    for model in calls:
        model.register_forward_pre_hook(lambda module, images: calls.__setitem__(module, calls[module] + 1))
    expected = evaluate_model(whole, data, **PARTS)
    report = evaluate_model(again, data, state=tmp_path / "state", **PARTS)
    assert timeless(report) == timeless(expected)
    # Beside the piece that was broken only the looks before the work are done twice.
    assert calls[whole] - 60 < calls[again] < calls[whole] - 40


@pytest.mark.parametrize("at", [1, 6, 12, 33, 75])
def test_an_evaluation_that_failed_goes_on_where_it_was(tmp_path, data, at):
    whole = Counting(net())
    expected = timeless(evaluate_model(whole, data, **PARTS))
    broken = Counting(net(), fail_at=at)
    modes = [part.training for part in broken.modules()]
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(broken, data, state=tmp_path, **PARTS)
    assert [part.training for part in broken.modules()] == modes
    again = Counting(net())
    assert timeless(evaluate_model(again, data, state=tmp_path, **PARTS)) == expected
    done = Counting(net())
    assert timeless(evaluate_model(done, data, state=tmp_path, **PARTS)) == expected
    # What a call looks at before it knows what it has: the probe, the gradient, the normalised images.
    looks = done.images
    assert looks == 12 + 2 + 2 * 12
    assert whole.images - broken.images <= again.images <= whole.images
    if at > 12:
        assert again.images < whole.images


def test_finished_pieces_are_not_computed_again_and_their_time_is_kept(tmp_path, data):
    first = evaluate_model(net(), data, state=tmp_path, **PARTS | {"audit": True, "n_flips": 2, "n_audit": 4})
    model = Counting(net())
    again = evaluate_model(model.model, data, state=tmp_path, **PARTS | {"audit": True, "n_flips": 2, "n_audit": 4})
    assert timeless(again) == timeless(first)
    hooks = [0]
    counted = net()
    counted.register_forward_pre_hook(lambda *given: hooks.__setitem__(0, hooks[0] + 1))
    evaluate_model(counted, data, state=tmp_path, **PARTS | {"audit": True, "n_flips": 2, "n_audit": 4})
    # The first images in 3 batches, a gradient, 2 x 3 normalised ones, and what the audit asks before its pieces.
    assert hooks[0] <= 3 + 1 + 2 * 3 + 3
    assert set(again.seconds) == set(first.seconds)
    for path in tmp_path.iterdir():  # as if each had taken 100 seconds
        torch.save(torch.load(path) | {"seconds it took": torch.tensor(100.0)}, path)
    slow = evaluate_model(net(), data, state=tmp_path, **PARTS | {"audit": True, "n_flips": 2, "n_audit": 4})
    assert timeless(slow) == timeless(first)
    pieces = {"clean": 3, "corruptions": 10, "fgsm": 3, "curve": 5, "flips": 10, "occlusion": 1, "surfaces": 1}
    assert {part: round(slow.seconds[part], -2) for part in pieces} == {
        part: 100 * count for part, count in pieces.items()
    }


def heavier(model):
    model[5].weight.data[0] += 0.5
    return model


class Inverted(nn.Module):
    """Another behaviour of the same weights."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.sign = 1

    def forward(self, images):
        return self.sign * self.inner(images)


@pytest.mark.parametrize(
    "change", ["weights", "behaviour", "seed", "labels", "pixel", "eps", "batch_size", "steps", "image count", "preset"]
)
def test_pieces_of_another_evaluation_are_not_taken(tmp_path, data, change):
    model = Inverted(net())
    images, labels = data
    given = dict(PARTS)
    evaluate_model(model, (images, labels), state=tmp_path, **given)
    if change == "weights":
        heavier(model.inner)
    elif change == "behaviour":
        model.sign = -1
    elif change == "seed":
        given["seed"] = 1
    elif change == "labels":
        labels = labels.roll(1)
    elif change == "pixel":
        images = images.clone()
        images[-1, 0, 0, 0] += 1
    elif change == "eps":
        given["eps"] = 0.06
    elif change == "batch_size":
        given["batch_size"] = 4
    elif change == "steps":
        given["attacks"] = [FGSM(0.03), PGD(0.03, 0.011, 3)]
    elif change == "image count":
        given |= {"n_attack": 6, "n_corruption": 6, "n_curve": 2, "n_lipschitz": 2, "n_occlusion": 4, "n_maps": 1}
    else:
        given["corruptions"] = "imagenet"
    expected = evaluate_model(model, (images, labels), **given)
    assert timeless(evaluate_model(model, (images, labels), state=tmp_path, **given)) == timeless(expected)


def test_weights_alone_tell_models_apart_where_the_first_images_do_not(tmp_path):
    """Two models that differ on bright images only, of which there are none among the first sixteen."""

    class Bright(nn.Module):
        def __init__(self, bright):
            super().__init__()
            self.bright = nn.Parameter(torch.tensor(bright))

        def forward(self, images):
            mean = images.mean((1, 2, 3))
            return torch.stack([mean * 0, torch.where(mean > 0.5, self.bright, -1.0)], 1)

    images = torch.cat([torch.zeros(16, 1, 4, 4), torch.ones(4, 1, 4, 4)])
    labels = torch.zeros(20, dtype=torch.int64)
    settings = {"attacks": None, "corruptions": None, "audit": False, "state": tmp_path}
    assert evaluate_model(Bright(-1.0), (images, labels), **settings).clean_error.value == 0
    assert evaluate_model(Bright(1.0), (images, labels), **settings).clean_error.value == 0.2


def test_a_damaged_piece_is_computed_again(tmp_path, data):
    expected = timeless(evaluate_model(net(), data, state=tmp_path, **PARTS))
    names = sorted(path.name for path in tmp_path.iterdir())
    for number, name in enumerate(names):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if number % 2 else whole[:-200] + b"\0" * 200)
    assert timeless(evaluate_model(net(), data, state=tmp_path, **PARTS)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    clear_state(tmp_path)
    assert not tmp_path.exists()


def towards(value):
    return lambda logits, labels: value * logits[:, 0]


@pytest.mark.parametrize("kind", ["function", "own objective", "own generator"])
def test_attacks_that_their_settings_do_not_tell_apart_are_run_again(tmp_path, data, kind):
    model = net()
    calls = []

    def attack(given, images, labels):
        calls.append(len(images))
        return (images + 0.05 * len(calls)).clamp(0, 1)

    def report(number):
        attacks = {
            "function": {"x": attack},
            "own objective": {"x": PGD(0.3, 0.1, 2, objective=towards(number))},
            "own generator": {"x": PGD(0.3, 0.1, 2, generator=torch.Generator().manual_seed(number))},
        }[kind]
        return evaluate_model(model, data, attacks=attacks, corruptions=None, audit=False, state=tmp_path)

    one, two = report(1), report(-1 if kind == "own objective" else 2)
    assert not torch.equal(one.outcomes.attack_confidence["x"], two.outcomes.attack_confidence["x"])
    assert len(calls) == (2 if kind == "function" else 0)


def test_a_corrupted_set_with_other_pictures_is_another_one(tmp_path, data):
    import numpy as np

    from mixaug.evaluate import CorruptedSet, save_corrupted

    folder = save_corrupted(data, tmp_path / "set", names=["brightness"])
    settings = {"attacks": None, "audit": False, "state": tmp_path / "state"}
    one = evaluate_model(net(), data, corruptions=CorruptedSet(folder), **settings)
    made = evaluate_model(net(), data, corruption_names=["brightness"], attacks=None, audit=False)
    assert torch.equal(one.outcomes.corrupted["brightness"], made.outcomes.corrupted["brightness"])
    stored = np.load(folder / "brightness.npy")
    np.save(folder / "brightness.npy", np.zeros_like(stored))
    black = evaluate_model(net(), data, corruptions=CorruptedSet(folder), **settings)
    assert len(set(black.outcomes.corrupted["brightness"].sum(1).tolist())) == 1
    assert not torch.equal(black.outcomes.corrupted["brightness"], one.outcomes.corrupted["brightness"])


def test_a_folder_that_cannot_be_written_into_is_refused_before_any_work(data):
    model = Counting(net())
    with pytest.raises(ValueError, match="state must be a folder that can be written into, got /proc/state"):
        evaluate_model(model, data, state="/proc/state")
    with pytest.raises(TypeError, match="state must be a path, got int"):
        evaluate_model(model, data, state=3)
    assert model.calls == 0


def test_a_model_that_draws_random_numbers_repeats_also_after_a_kill(tmp_path, data):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, images):
            return self.inner((images + 0.2 * torch.randn_like(images)).clamp(0, 1))

    expected = timeless(evaluate_model(Noisy(), data, **PARTS))
    torch.rand(7)  # the caller's own numbers play no part
    assert timeless(evaluate_model(Noisy(), data, **PARTS)) == expected

    stops, calls = Noisy(), []

    def count(module, images):
        calls.append(len(images))
        if len(calls) == 40:
            raise KeyboardInterrupt

    stops.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(stops, data, state=tmp_path, **PARTS)
    assert len(os.listdir(tmp_path)) > 3
    again = evaluate_model(Noisy(), data, state=tmp_path, **PARTS)
    assert timeless(again) == expected
