"""Reports: their figures, tables, JSON and the files they write."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from report_parts import full_report, make_audit, make_report

from mixaug.evaluate import Report, compare
from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.evaluate.results import Examples, Outcomes


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report("a & b")


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    assert report.save(path) == path
    return path.parent


def test_figures(report):
    assert report.clean_error.value == pytest.approx(0.1)
    assert report.attacks["pgd-20"].error.value == pytest.approx(0.75)
    assert report.attacks["pgd-20"].accuracy.value == pytest.approx(0.25)
    assert report.attacks["pgd-20"].clean_accuracy.value == pytest.approx(0.75)
    assert report.corruption_errors["fog"][4].value == pytest.approx(24 / 50)
    assert report.corruption_means["fog"].value == pytest.approx(22 / 50)
    assert report.severity_means[0].value == pytest.approx(20 / 50)
    assert report.mce is not None
    assert report.mce.value == pytest.approx(22 / 50)
    assert report.mce.method == "bootstrap"
    for _, figure in report.figures.values():
        assert figure.low <= figure.value <= figure.high


def test_the_mean_over_images_has_the_bootstrap_interval_of_its_images(report):
    # 20 images always fail, 4 sometimes, 26 never: about the interval of a share of 0.44 of 50 images
    assert report.mce is not None
    assert report.mce.low == pytest.approx(0.44 - 1.96 * 0.0692, abs=0.02)
    assert report.mce.high == pytest.approx(0.44 + 1.96 * 0.0692, abs=0.02)


def test_table_has_each_figure_with_interval_and_n(report):
    table = report.to_table()
    lines = {line.split("  ")[0].strip(): line for line in table.splitlines()}
    assert re.search(r"10\.0%\s+5\.5 to 17\.4\s+100$", lines["clean error"])
    assert re.search(r"75\.0%\s+59\.8 to 85\.8\s+40$", lines["PGD-20 error"])
    assert lines["mCE (15)"].endswith("50")
    assert re.search(r"40\.0\s+42\.0\s+44\.0\s+46\.0\s+48\.0\s+44\.0$", lines["frost*"])
    assert "frost: our own texture" in table


def test_missing_corruptions_are_named_and_counted():
    report = make_report(names=CORRUPTIONS[:12])
    table = report.to_table()
    assert "mean corruption error (12 of 15)" in table
    assert f"Not measured: {', '.join(CORRUPTIONS[12:])}" in table
    assert "mCE" not in table


def test_without_corruptions_and_attacks():
    full = make_report()
    empty = torch.empty(0, dtype=torch.int64)
    outcomes = Outcomes(full.outcomes.correct, full.outcomes.confidence, empty, {}, {}, {}, {})
    report = replace(full, outcomes=outcomes, examples=Examples())
    assert report.mce is None
    assert report.attacks == {}
    assert list(report.figures) == ["clean_error", "rms", "ece"]
    assert "corruption" not in report.to_table()


def test_relative_mce_is_for_imagenet_only(report):
    assert report.mce_alexnet is None
    imagenet = replace(report, settings=report.settings | {"preset": "imagenet", "num_classes": 1000})
    references = (88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7)
    assert imagenet.mce_alexnet == pytest.approx(sum(44 / reference for reference in references) / 15)
    assert "relative to AlexNet" in imagenet.to_table()


def test_the_page_is_one_file_that_needs_no_network(folder):
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?://|//[a-z]|@import|url\(|<script|<link", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert page.count("data:image/png;base64,") == 6
    assert "a &amp; b" in page
    assert "<b>cat</b>" not in page  # what users name is escaped
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_the_files_beside_the_page(folder):
    names = sorted(path.name for path in folder.iterdir())
    parts = ["adversarial-pgd-20", "attacks", "corrupted", "corruptions", "reliability", "severity"]
    assert names == sorted(["report.html", "report.json", *(f"report-{part}.png" for part in parts)])
    assert all((folder / f"report-{part}.png").read_bytes().startswith(b"\x89PNG") for part in parts)


def test_json_round_trip(report, folder):
    loaded = Report.load(folder / "report.json")
    assert loaded.to_json() == report.to_json()
    assert loaded.clean_error == report.clean_error
    assert loaded.to_table() == report.to_table()
    assert torch.equal(loaded.examples.adversarial[0].clean, report.examples.adversarial[0].clean)
    data = json.loads((folder / "report.json").read_text())
    assert data["figures"]["clean_error"]["n"] == 100
    assert data["figures"]["corruptions_ours"] == ["frost"]
    assert data["settings"]["weights_sha256"] == "wa & b"


def test_saving_twice_writes_the_same_bytes(report, folder, tmp_path):
    report.save(tmp_path / "report.html")
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_bad_files_and_paths(report, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.html, got"):
        report.save(tmp_path / "report.pdf")
    for text, message in [
        ("{", "it is not JSON"),
        ("[]", "its format must be 'mixaug-report-3', got 'list'"),
        ('{"format": "other"}', "got 'other'"),
        ('{"format": "mixaug-report-3", "name": "x"}', "'outcomes' is missing"),
    ]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            Report.load(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        Report.load(tmp_path / "none.json")


def test_nothing_half_written_when_a_file_cannot_be_written(report, tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *_, **__: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        report.save(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    assert not list(tmp_path.glob(".*"))


def test_names_the_extra_when_matplotlib_is_missing(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixaug\[train\]"'):
        report.save(tmp_path / "report.html")


PARTS = {
    "flips": lambda report: report.measured["flips"].value.flips["rotate"],
    "flip example": lambda report: report.measured["flips"].value.examples[0].images,
    "curve": lambda report: torch.stack(list(report.measured["curve"].right.values())),
    "radii": lambda report: torch.tensor(list(report.measured["curve"].right)),
    "occlusion": lambda report: report.measured["occlusion"].value.correct,
    "anomaly": lambda report: report.measured["ood"].confidence_out,
    "lipschitz": lambda report: report.measured["lipschitz"].value,
    "label map": lambda report: report.measured["maps"][0].label_map,
    "image of the map": lambda report: report.measured["maps"][0].image,
    "features": lambda report: report.measured["features"].points,
    "surface": lambda report: report.measured["surface"][1].losses,
    "audit": lambda report: report.audit.right["square"],
    "audit's measures": lambda report: report.audit.measures["zero-ce"],
}


@pytest.fixture(scope="module")
def full_round_trip(tmp_path_factory):
    report = full_report("full", masked=True)
    path = tmp_path_factory.mktemp("full") / "report.html"
    report.save(path)
    return report, Report.load(path.with_suffix(".json")), path


@pytest.mark.parametrize("part", PARTS)
def test_each_part_survives_the_json(full_round_trip, part):
    before, after = (PARTS[part](report) for report in full_round_trip[:2])
    assert after.dtype == before.dtype and after.shape == before.shape
    assert torch.equal(after, before)


def test_a_report_with_all_parts_survives_the_json(full_round_trip):
    before, after, _ = full_round_trip
    assert after.to_json() == before.to_json()
    assert after.to_table() == before.to_table()
    assert after.audit.masked and after.audit.checks == before.audit.checks
    assert after.left_out == before.left_out and after.notices == before.notices
    assert after.measured["occlusion"].value.ratios == (0.0, 0.4, 0.8)
    assert after.worst_case == before.worst_case


def test_json_has_all_that_repeats_the_evaluation(full_round_trip):
    data = json.loads(full_round_trip[2].with_suffix(".json").read_text())
    assert data["settings"]["seed"] == 0
    assert data["settings"]["weights_sha256"] == "wfull"
    assert data["settings"]["attacks"]["square"] == {"kind": "Square", "steps": 20}
    assert data["seconds"] == {"clean": 0.1}
    assert data["environment"] == {"torch": "2"}
    assert data["figures"]["worst_case"]["attacks"] == ["pgd-20", "cw-20", "square"]
    assert data["audit"]["masked"] is True


def test_the_environment_names_every_package_that_figures_depend_on(monkeypatch):
    from importlib import metadata

    from mixaug.evaluate.subject import environment

    found = environment(torch.device("cpu"))
    assert found["numpy"] == metadata.version("numpy")
    assert found["torch"] == torch.__version__
    assert {"mixaug", "torchvision", "pillow", "kornia", "pyautoattack", "scikit-learn", "python"} <= set(found)

    def absent(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", absent)
    assert environment(torch.device("cpu"))["kornia"] == "not installed"


def test_the_table_starts_with_the_verdict_and_keeps_to_110_columns():
    table = full_report("m" * 90, masked=True).to_table()
    lines = table.splitlines()
    assert lines[2] == "✗ Masked: this robustness is not real. Square leaves 10.0% less."
    assert max(map(len, lines)) <= 110
    # A long name of an attack, and a long note.
    long = make_report(names=CORRUPTIONS[:3])
    outcomes = {
        field: {"attack" * 20: getattr(long.outcomes, field)["pgd-20"]}
        for field in ("attack_index", "attacked", "attack_change", "attack_confidence")
    }
    long = replace(long, outcomes=replace(long.outcomes, **outcomes))
    assert max(map(len, long.to_table().splitlines())) <= 110
    long = replace(long, settings=long.settings | {"attacks": {}})
    assert max(map(len, compare([long, long]).to_table().splitlines())) <= 110
    assert "✗ fail: Black box stronger. Square leaves less." in lines
    assert "– not run: Transfer stronger" in lines
    assert any(line.startswith("Note: The model expects normalised input") for line in lines)
    assert any(line.startswith("Left out, n other: no gradient") for line in lines)
    order = [table.index(text) for text in ("✗ Masked", "figure ", "attack ", "error in %", "perturbation", "rise of")]
    assert order == sorted(order)


def test_the_attack_table_has_the_worst_case_as_its_last_row():
    report = full_report()
    lines = report.to_table().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("attack "))
    assert re.split(r"  +", lines[start + 2])[:2] == ["PGD-20", "75.0%"]
    # 12, 14 and 16 of 40 are wrong from the images 0, 1 and 2 on: 18 are wrong under one of them.
    assert re.split(r"  +", lines[start + 5]) == [
        "worst case of 3",
        "75.0%",
        "55.0%",
        "39.8 to 69.3",
        "45.0%",
        "+20.0",
        "40",
    ]
    assert lines[start + 6] == ""


def test_a_verdict_without_robustness_is_no_green_tick():
    plain = replace(full_report(), audit=make_audit(left=0, verdict="Not masked: there is no robustness to lose."))
    assert "– Not masked, and not robust. There is no robustness to lose." in plain.to_table()
    undecided = replace(full_report(), audit=make_audit(verdict="No verdict: 3 images are too few."))
    assert "? Not decided. 3 images are too few." in undecided.to_table()
    assert "✓ Not masked. PGD-20 leaves 50.0%." in full_report().to_table()


def test_single_attacks_are_no_headline_beside_their_worst_case():
    table = full_report().to_table()
    assert "worst case of 3 attacks" in table and "CW-20 error" not in table
    assert "PGD-20 error" in make_report().to_table()
