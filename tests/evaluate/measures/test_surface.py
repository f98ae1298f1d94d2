"""Loss surfaces: points by hand, directions, what is refused, and that they survive a report."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from mixaug.attacks import PGD
from mixaug.evaluate import Report, compare, evaluate_model, loss_surface
from mixaug.evaluate.images import fingerprint
from mixaug.evaluate.labels import interval_text
from mixaug.evaluate.measures.surface import (
    LossSurface,
    SurfacePlane,
    loss_rises,
    plane_losses,
    sample_plane,
    surface_figure,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)
    )


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 8, 8, generator=seeded(seed))


@torch.no_grad()
def loss_of(model: nn.Module, image: torch.Tensor, label: int) -> float:
    return float(-model(image[None]).log_softmax(1)[0, label])


def test_every_point_is_the_loss_of_its_own_image():
    model, image, label = small_model().eval(), picture(), 2
    plane = sample_plane(model, image, label, PGD(0.1, 0.03, 5, generator=seeded(1)), seeded(2))
    offsets = torch.linspace(-0.1, 0.1, 5)
    got = plane_losses(model, image, label, plane, offsets, batch_size=7)
    for i, b in enumerate(offsets):
        for j, a in enumerate(offsets):
            point = (image + a * plane.attack + b * plane.across).clamp(0, 1)
            want = loss_of(model, point, label)
            assert float(got[i, j]) == pytest.approx(want, abs=1e-5)


def test_the_attacks_end_is_its_adversarial_image():
    model, image = small_model().eval(), 0.25 + picture() / 2  # no clipping
    attacked = []

    def attack(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        attacked.append(PGD(0.1, 0.025, 20, generator=seeded(1))(model, images, labels))
        return attacked[0]

    surface = loss_surface(model, image, 1, 0.1, points=9, attack=attack, generator=seeded(2))
    assert surface.offsets.tolist() == pytest.approx([0.025 * k for k in range(-4, 5)])
    assert float(surface.losses[4, 8]) == pytest.approx(loss_of(model, attacked[0][0], 1), abs=1e-4)
    assert float(surface.losses[4, 4]) == pytest.approx(loss_of(model, image, 1), abs=1e-5)
    assert surface.losses[4, 8] > surface.losses[4, 4] > surface.losses[4, 0]


def test_the_directions_are_orthogonal_and_of_one_size():
    plane = sample_plane(small_model().eval(), picture(), 0, PGD(0.05, generator=seeded()), seeded(3))
    assert abs(float((plane.attack * plane.across).sum())) < 1e-3
    assert float(plane.attack.abs().max()) == pytest.approx(1) and float(plane.across.abs().max()) == pytest.approx(1)
    other = sample_plane(small_model().eval(), picture(), 0, PGD(0.05, generator=seeded()), seeded(4))
    assert torch.equal(plane.attack, other.attack) and not torch.equal(plane.across, other.across)


def test_same_seed_same_surface_and_the_model_is_left_alone():
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two, other = (loss_surface(model, picture(), 0, 0.1, points=5, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one.losses, two.losses) and not torch.equal(one.losses, other.losses)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_no_pixel_leaves_the_range():
    seen = []

    class Watching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((images.min().item(), images.max().item()))
            return images.flatten(1)[:, :3] * 5

    loss_surface(Watching(), torch.cat([torch.zeros(1, 2, 4), torch.ones(1, 2, 4)]), 0, 0.2, points=5)
    assert min(low for low, _ in seen) >= 0 and max(high for _, high in seen) <= 1


def test_refused():
    model, image = small_model(), picture()
    for arguments, error, message in [
        ((model, image[None], 0), ValueError, r"image must have shape \(C, H, W\), got \(1, 3, 8, 8\)"),
        ((model, (image * 255).byte(), 0), TypeError, r"image must be a floating point tensor"),
        ((model, image * 3, 0), ValueError, r"image must lie in \[0, 1\], got values from"),
        ((model, image * float("nan"), 0), ValueError, r"image must lie in \[0, 1\]"),
        ((model, image, 0, 0.0), ValueError, "radius must be above 0 and at most 1, got 0.0"),
        ((model, image, 0, 1.5), ValueError, "radius must be"),
        ((lambda x: x, image, 0), TypeError, r"torch\.nn\.Module, got function; wrap it in a"),
    ]:
        with pytest.raises(error, match=message):
            loss_surface(*arguments)
    with pytest.raises(ValueError, match="points must be odd, so that the image itself is on the grid, got 4"):
        loss_surface(model, image, 0, points=4)
    with pytest.raises(ValueError, match="attack must move the image"):
        loss_surface(model, image, 0, attack=lambda model, images, labels: images)


def test_logits_that_are_not_finite_are_reported():
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :2] / 0.0

    plane = SurfacePlane(torch.ones(1, 2, 2), torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]))
    with pytest.raises(FloatingPointError, match="not finite on its loss surface"):
        plane_losses(Broken(), torch.full((1, 2, 2), 0.5), 0, plane, torch.tensor([-0.1, 0.0, 0.1]))


def test_a_report_keeps_its_surfaces(tmp_path):
    pytest.importorskip("matplotlib")
    model = small_model()
    data = torch.rand(6, 3, 8, 8, generator=seeded()), torch.arange(6) % 3
    before = fingerprint(model.state_dict())
    report = evaluate_model(model, data, attacks=None, corruptions=None, audit=False, n_surface=2, seed=3)
    assert fingerprint(model.state_dict()) == before
    surfaces = report.measured["surface"]
    assert [surface.radius for surface in surfaces] == pytest.approx([0.05, 0.1, 0.15] * 2)
    assert len({surface.index for surface in surfaces}) == 2
    assert [surface.label for surface in surfaces] == [surface.index % 3 for surface in surfaces]
    path = report.save(tmp_path / "r.html")
    loaded = Report.load(path.with_suffix(".json"))
    for kept, surface in zip(loaded.measured["surface"], surfaces, strict=True):
        assert torch.allclose(kept.losses, surface.losses, atol=1e-4) and kept.index == surface.index
    assert (tmp_path / "r-surface.png").exists() and "Loss surface" in path.read_text()


def test_rises_by_hand():
    offsets = torch.tensor([-0.1, 0.0, 0.1])
    one = LossSurface(torch.tensor([[9.0, 2, 9], [5, 1, 4], [9, 6, 9]]), offsets, 0.1, 0, index=1)
    two = LossSurface(torch.tensor([[9.0, 1, 9], [5, 1, 2], [9, 0, 9]]), offsets, 0.1, 0, index=2)
    assert (one.attack_rise, one.random_rise) == (3, 3) and (two.attack_rise, two.random_rise) == (1, -0.5)
    far = LossSurface(one.losses * 2, offsets * 2, 0.2, 0, index=1)
    rises = loss_rises([one, far, two])
    assert list(rises) == [0.1, 0.2]
    assert (rises[0.1].attack.value, rises[0.1].random.value, rises[0.1].attack.n) == (2, 1.25, 2)
    assert (rises[0.1].attack.low, rises[0.1].attack.high) == (1, 3)
    assert (rises[0.2].attack.value, rises[0.2].attack.n) == (6, 1)


def test_the_rises_are_in_table_page_and_json(tmp_path):
    pytest.importorskip("matplotlib")
    data = torch.rand(4, 3, 8, 8, generator=seeded()), torch.arange(4) % 3
    report = evaluate_model(small_model(), data, attacks=None, corruptions=None, audit=False, n_surface=3)
    of = [surface for surface in report.measured["surface"] if surface.radius == 0.1]
    want = sum(surface.attack_rise for surface in of) / 3
    assert report.loss_rises[0.1].attack.value == pytest.approx(want, rel=1e-5) and want > 0
    line = next(line for line in report.to_table().splitlines() if line.startswith("0.1 "))
    assert report.loss_rises[0.1].attack.text in line and line.endswith(" 3")
    path = report.save(tmp_path / "r.html")
    assert report.loss_rises[0.1].random.text in path.read_text()
    figures = json.loads(path.with_suffix(".json").read_text())["figures"]
    assert figures["loss_rise"]["0.1"]["attack"]["value"] == pytest.approx(want, rel=1e-5)
    assert Report.load(path.with_suffix(".json")).loss_rises == report.loss_rises
    without = evaluate_model(small_model(), data, attacks=None, corruptions=None, audit=False)
    assert without.loss_rises == {} and "rise" not in without.to_table()


def test_models_are_compared_on_the_same_surfaces(tmp_path):
    pytest.importorskip("matplotlib")
    data = torch.rand(4, 3, 8, 8, generator=seeded()), torch.arange(4) % 3
    steep, smooth = small_model(), small_model()
    with torch.no_grad():
        steep[5].weight *= 20
    settings = {"attacks": None, "corruptions": None, "audit": False}
    reports = [evaluate_model(model, data, **settings, n_surface=2) for model in (steep, smooth)]
    comparison = compare(reports, ["steep", "smooth"])
    assert "surface" in [measure.name for measure, _ in comparison.shared]
    lines = [line.split() for line in comparison.to_table().splitlines()]
    start = next(i for i, line in enumerate(lines) if line[:2] == ["rise", "of"])
    for line, name, report in zip(lines[start + 2 : start + 4], ("steep", "smooth"), reports, strict=True):
        assert line == [name, *(rise.attack.text for rise in report.loss_rises.values())]
    path = comparison.save(tmp_path / "c.html")
    assert (tmp_path / "c-surface.png").exists() and "Rise of the loss along the attack" in path.read_text()
    models = json.loads(path.with_suffix(".json").read_text())["models"]
    rises = [model["loss_rise"]["0.15"]["attack"]["value"] for model in models]
    assert rises == [report.loss_rises[0.15].attack.value for report in reports] and rises[0] > 3 * rises[1]
    # Other images, or none: no surfaces side by side.
    for count in (0, 1):
        other = evaluate_model(smooth, data, **settings, n_surface=count)
        assert "surface" not in [measure.name for measure, _ in compare([reports[0], other]).shared]
        assert "rise of" not in compare([reports[0], other]).to_table()


def test_one_image_has_no_interval():
    offsets = torch.tensor([-0.1, 0.0, 0.1])
    rises = loss_rises([LossSurface(torch.eye(3), offsets, 0.1, 0, index=index) for index in (1, 2)])
    assert interval_text(rises[0.1].attack) == "-1.00 to -1.00"
    assert interval_text(loss_rises([LossSurface(torch.eye(3), offsets, 0.1, 0)])[0.1].attack) == "not known"


def test_figure_refuses_images_with_other_radii():
    pytest.importorskip("matplotlib")
    one = LossSurface(torch.zeros(3, 3), torch.tensor([-0.1, 0.0, 0.1]), 0.1, 0, index=1)
    with pytest.raises(ValueError, match="at the same radii"):
        surface_figure([one, LossSurface(one.losses, one.offsets, 0.2, 0, index=2)])
    with pytest.raises(ValueError, match="at the same radii, got the radii"):
        surface_figure([])
