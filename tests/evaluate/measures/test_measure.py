"""A measure is one file: the page on adding one is followed literally, and every measure keeps its promises."""

import pytest
import torch
from contributing import files_of
from torch import nn

from mixaug.evaluate import Report, compare, evaluate_model, measures
from mixaug.evaluate.measures import all_measures

SETTINGS = {"attacks": None, "corruptions": None, "audit": False}


@pytest.fixture
def doubt(tmp_path, monkeypatch):
    """The page's file, in a folder beside the measures."""
    (code,) = files_of("adding-a-measure.md").values()
    (tmp_path / "doubt_of_the_page.py").write_text(code)
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
    all_measures.cache_clear()
    yield
    monkeypatch.undo()
    all_measures.cache_clear()


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(30) % 3


def test_a_measure_of_ones_own_is_in_every_part_of_the_report(doubt, tmp_path):
    pytest.importorskip("matplotlib")
    reports = [evaluate_model(model(seed), data(), **SETTINGS, measures={"doubt": 20}) for seed in (1, 2)]
    expected = 1 - reports[0].outcomes.confidence[reports[0].measured["doubt"].index]
    assert torch.allclose(reports[0].measured["doubt"].value, expected) and len(expected) == 20
    assert reports[0].figures["doubt"][1].value == pytest.approx(float(expected.mean()))
    assert "mean doubt" in reports[0].to_table() and reports[0].settings["n_doubt"] == 20
    assert set(reports[0].seconds) == {"clean", "doubt"}
    path = reports[0].save(tmp_path / "r.html")
    assert "<h2>Doubt</h2>" in path.read_text()
    again = Report.load(path.with_suffix(".json"))
    assert torch.equal(again.measured["doubt"].value, reports[0].measured["doubt"].value)
    difference = compare(reports).differences[1]["doubt"]
    change = reports[1].measured["doubt"].value.mean() - reports[0].measured["doubt"].value.mean()
    assert difference.value == pytest.approx(float(change), abs=1e-6) and difference.method == "paired bootstrap"


def test_it_is_measured_with_everything_and_resumed(doubt, tmp_path):
    settings = {"n_lipschitz": 0, "n_surface": 0, "n_flips": 0, "n_occlusion": 0, "n_features": 0, "n_maps": 0}
    settings |= SETTINGS | {"state": tmp_path / "state", "everything": True}
    one, two = (evaluate_model(model(1), data(), **settings).measured["doubt"] for _ in range(2))
    assert len(one.index) == 30 and torch.equal(one.value, two.value)


def test_a_report_from_before_a_measure_loads(doubt, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    report = evaluate_model(model(1), data(), **SETTINGS)
    kept = report.to_json()
    del kept["outcomes"]["doubt"]
    monkeypatch.setattr(Report, "to_json", lambda self: kept)
    path = report.save(tmp_path / "r.html")
    assert "doubt" not in Report.load(path.with_suffix(".json")).measured


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["occlusion"], TypeError, "measures must be a mapping from names to numbers of images, got list"),
        ({"oclusion": 3}, ValueError, "measures must be of .*; got 'oclusion'.*occlusion"),
        ({"audit": 3}, ValueError, "measures must have names of measures, got 'audit'"),
        ({"occlusion": 2.5}, TypeError, "n_occlusion must be an int"),
        ({"occlusion": 31}, ValueError, "n_occlusion must be at most the 30 images"),
    ],
)
def test_refuses_measures_that_there_are_not(given, error, message):
    with pytest.raises(error, match=message):
        evaluate_model(model(1), data(), **SETTINGS, measures=given)


def test_a_number_is_given_in_one_way():
    with pytest.raises(ValueError, match="n_occlusion must be None where measures has 'occlusion', got both"):
        evaluate_model(model(1), data(), **SETTINGS, n_occlusion=3, measures={"occlusion": 3})
    one = evaluate_model(model(1), data(), **SETTINGS, measures={"occlusion": 3})
    assert (
        one.to_json()["outcomes"] == evaluate_model(model(1), data(), **SETTINGS, n_occlusion=3).to_json()["outcomes"]
    )
