"""Results of valid input stay as they were: values kept in ``golden/`` since before the checks of version 0.2.

``python tests/test_golden.py FOLDER`` writes the values of the present code; run with the old code, it made the files
(commit 25465a5). Draws, records and byte images are compared bit for bit; what goes through a convolution, a fast
Fourier transform or vectorised functions of another processor within a stated tolerance.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from paths import ROOT
from torch import Tensor, nn

from mixaug import DReLU, DynamicMixCut, IPMix, MixingSet, replace_relu
from mixaug.attacks import FGSM, PGD, SPSA
from mixaug.evaluate.corruptions import corrupt
from mixaug.evaluate.images import LabelledImages
from mixaug.losses import jensen_shannon, soft_target_cross_entropy, trades_loss
from mixaug.train.checkpoint import read_checkpoint
from mixaug.train.images import scan

GOLDEN = ROOT / "tests" / "golden"
#: Largest difference that another processor may make, by the first part of a value's name; others are equal.
TOLERANCE = {"source": 1, "corrupt": 1, "attack": 1e-5, "loss": 1e-5, "drelu": 1e-5, "adautomix": 1e-4, "run": 1e-4}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def byte_images(count: int = 5, channels: int = 3, size: tuple[int, int] = (24, 31)) -> Tensor:
    return torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=seeded(1))


def bank() -> MixingSet:
    return MixingSet.from_tensor(torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8, generator=seeded(2)))


def classifier() -> nn.Sequential:
    """A small network whose weights come from a generator, not from an initialiser."""
    g = seeded(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 22 * 29, 5))
    for parameter in model.parameters():
        parameter.data = (torch.rand(parameter.shape, generator=g) - 0.5) * 0.2
    return model.eval()


def of_ipmix() -> dict[str, Tensor]:
    out = {}
    images = byte_images()
    for structure in ("chain", "linear", "mixed_input"):
        for all_ops in (False, True):
            mix = IPMix(structure=structure, all_ops=all_ops, mixing_set=bank(), generator=seeded(4))
            params = mix.sample(images)
            name = f"{structure}, {all_ops}"
            out[name] = mix.replay(images, params)
            out |= {f"{name}, {field}": value for field, value in params.tensors().items() if field != "seed"}
    out["views"] = torch.stack(IPMix(n_views=2, self_mix=0.5, mixing_set=bank(), generator=seeded(5))(images))
    out["grey"] = IPMix(mixing_set=bank(), generator=seeded(6))(byte_images(channels=1))
    out["float"] = (IPMix(mixing_set=bank(), generator=seeded(7))(images.float() / 255) * 255).round().byte()
    picture = PIL.Image.fromarray(images[0].permute(1, 2, 0).numpy())
    out["pil"] = torch.from_numpy(np.array(IPMix(mixing_set=bank(), generator=seeded(8))(picture)))
    return out


def of_mixcut() -> dict[str, Tensor]:
    out = {}
    images, labels = byte_images(), torch.arange(5)
    cases = {
        "default": {},
        "area": {"area": (0.1, 0.3)},
        "aspect": {"square": False},
        "range": {"boxes": (1, 4), "p": 0.6},
    }
    for name, options in cases.items():
        mix = DynamicMixCut(5, generator=seeded(9), **options)
        params = mix.sample(images)
        out |= {f"{name}, {field}": value for field, value in params.tensors().items()}
        out[f"{name}, images"], out[f"{name}, targets"] = mix.replay(images, labels, params)
    views = (byte_images().flip(0), byte_images().flip(1))
    mixed, targets = DynamicMixCut(5, generator=seeded(10))({"image": images, "label": labels}, views=views).values()
    return out | {"views, images": mixed, "views, targets": targets}


def of_sources() -> dict[str, Tensor]:
    names = ("fractals", "ifs", "contours", "dead_leaves", "spectrum")
    out = {name: getattr(MixingSet, name)(3, size=32, seed=5, progress=False).pictures for name in names}
    return out | {"picks": bank().pick(6, (20, 28), generator=seeded(11)), "resized": bank().resized(23)}


def of_corruptions() -> dict[str, Tensor]:
    names = ("gaussian_noise", "defocus_blur", "fog", "frost", "elastic_transform", "jpeg_compression", "contrast")
    return {name: corrupt(byte_images(2, size=(32, 32)), name, 3, "cifar", seeded(12)) for name in names}


def of_attacks() -> dict[str, Tensor]:
    model, images, labels = classifier(), byte_images(3).float() / 255, torch.tensor([0, 3, 2])
    attacks = {
        "fgsm": FGSM(eps=8 / 255),
        "pgd": PGD(eps=8 / 255, step_size=2 / 255, steps=3, generator=seeded(13)),
        "spsa": SPSA(eps=8 / 255, steps=2, generator=seeded(14)),
    }
    return {name: attack(model, images, labels) for name, attack in attacks.items()}


def of_losses() -> dict[str, Tensor]:
    one, two, three = torch.rand(3, 4, 5, generator=seeded(15)) * 4
    targets = torch.rand(4, 5, generator=seeded(16)).softmax(1)
    return {
        "soft": soft_target_cross_entropy(one, targets),
        "jsd": jensen_shannon(one, two, three),
        "trades": trades_loss(one, two, torch.arange(4)),
    }


def of_drelu() -> dict[str, Tensor]:
    images = byte_images(3).float() / 255
    model = replace_relu(classifier(), DReLU, granularity="channel", example_input=images)
    return {"logits": model(images).detach(), "caps": next(model[1].parameters()).detach()}


def of_data() -> dict[str, Tensor]:
    """The order and labels of a folder, and the digest that a report keeps of a data set."""
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("cat", 3), ("dog", 2)):
            (Path(folder) / name / "below").mkdir(parents=True)
            for i in range(count):
                pixels = byte_images(1, size=(8, 8))[0].permute(1, 2, 0).numpy() // (i + 1)
                PIL.Image.fromarray(pixels).save(Path(folder) / name / ("below" if i else "") / f"{i}.png")
        source, _, _, classes = scan(Path(folder))
        part = source.load(8)
        digest = LabelledImages((part.images, part.labels)).sha256
    return {
        "images": part.images,
        "labels": part.labels,
        "classes": torch.tensor(list(" ".join(classes).encode())),
        "digest": torch.tensor(list(bytes.fromhex(digest))),
    }


def of_adautomix() -> dict[str, Tensor]:
    from adautomix_parts import batch, mixer_of, net

    out = mixer_of(net())(*batch())
    return {"classifier": out.classifier_loss.detach(), "generator": out.generator_loss.detach()}


GROUPS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "ipmix": of_ipmix,
    "mixcut": of_mixcut,
    "source": of_sources,
    "corrupt": of_corruptions,
    "attack": of_attacks,
    "loss": of_losses,
    "drelu": of_drelu,
    "data": of_data,
    "adautomix": of_adautomix,
}


def values() -> dict[str, Tensor]:
    """All values by name, ``"group: value"``."""
    return {f"{group}: {name}": value for group, made in GROUPS.items() for name, value in made().items()}


def old_states() -> dict[str, dict[str, object]]:
    """State dicts as they were kept: with an entry of a transform's generator, and without one."""
    return {
        "ipmix": dict(IPMix(mixing_set=bank(), generator=seeded(18)).state_dict()),
        "ipmix without": dict(IPMix(mixing_set=bank()).state_dict()),
        "mixcut": dict(DynamicMixCut(5, generator=seeded(19)).state_dict()),
        "mixcut without": dict(DynamicMixCut(5).state_dict()),
    }


@pytest.mark.parametrize("group", GROUPS)
def test_results_are_those_of_before(group):
    kept = torch.load(GOLDEN / "values.pt", weights_only=True)
    made = {f"{group}: {name}": value for name, value in GROUPS[group]().items()}
    assert set(made) == {name for name in kept if name.startswith(f"{group}: ")}
    for name, value in made.items():
        assert (value.dtype, value.shape) == (kept[name].dtype, kept[name].shape), name
        if group in TOLERANCE:
            assert (value.double() - kept[name].double()).abs().max() <= TOLERANCE[group], name
        else:
            assert value.equal(kept[name]), name


@pytest.mark.parametrize("name", ["ipmix", "ipmix without", "mixcut", "mixcut without"])
def test_a_state_kept_before_loads_strictly_and_goes_on_where_it_was(name):
    kept = torch.load(GOLDEN / "states.pt", weights_only=True)[name]

    def make(generator):
        return (
            IPMix(mixing_set=bank(), generator=generator) if "ipmix" in name else DynamicMixCut(5, generator=generator)
        )

    make(None).load_state_dict(kept, strict=True)
    there = make(seeded(0))
    there.load_state_dict(kept, strict=True)
    seed = {"ipmix": 18, "mixcut": 19}.get(name, 0)
    wanted = make(seeded(seed)).sample(byte_images()).tensors()
    assert all(value.equal(wanted[field]) for field, value in there.sample(byte_images()).tensors().items())


def test_a_checkpoint_kept_before_is_read_and_resumed(tmp_path):
    from train_parts import fit, settings

    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "run", folder)
    before = read_checkpoint(folder / "last.pt")
    fit(settings(folder, epochs=2), resume=True)
    after = read_checkpoint(folder / "last.pt")
    finished = torch.load(GOLDEN / "finished.pt", weights_only=True)
    assert before["epoch"] < after["epoch"]
    for name, value in finished.items():
        assert (after["model"][name] - value).abs().max() <= TOLERANCE["run"], name


def write(folder: Path) -> None:
    from train_parts import fit, settings, stop_after

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(values(), folder / "values.pt")
    torch.save(old_states(), folder / "states.pt")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        fit(settings(folder / "run", epochs=2))
    with tempfile.TemporaryDirectory() as other:
        fit(settings(Path(other) / "run", epochs=2))
        torch.save(read_checkpoint(Path(other) / "run" / "last.pt")["model"], folder / "finished.pt")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
