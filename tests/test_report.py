"""Reports and comparisons: their figures, marks and intervals, and the files they write."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from mixaug.evaluate import Report, compare
from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.evaluate.outcomes import AdversarialExample, CorruptedExample, Examples, Outcomes


def make_report(name="model", wrong=10, n=100, attacked_wrong=30, corrupted_wrong=20, names=CORRUPTIONS, shift=0):
    """A report whose errors are known: the first ``wrong`` images (from ``shift``) are wrong."""

    def right(count, total):
        bits = torch.ones(total, dtype=torch.bool)
        bits[shift : shift + count] = False
        return bits

    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)
    grey = picture[:1]
    outcomes = Outcomes(
        correct=right(wrong, n),
        confidence=torch.linspace(0.4, 1.0, n),
        corruption_index=torch.arange(50),
        corrupted={name: torch.stack([right(corrupted_wrong + s, 50) for s in range(5)]) for name in names},
        attack_index={"pgd-20": torch.arange(40)},
        attacked={"pgd-20": right(attacked_wrong, 40)},
        attack_change={"pgd-20": 8 / 255},
        attack_confidence={"pgd-20": torch.full((40,), 0.75)},
    )
    settings = {
        "data_sha256": "d",
        "weights_sha256": "w" + name,
        "seed": 0,
        "preset": "cifar",
        "corruptions": list(names),
        "n_clean": n,
        "n_corruption": 50,
        "n_attack": {"pgd-20": 40},
        "eps": 8 / 255,
        "attacks": {"pgd-20": {"kind": "PGD", "steps": 20}},
    }
    examples = Examples(
        [CorruptedExample(name, 3, grey, 0, 1, 0.5) for name in names],
        [AdversarialExample("pgd-20", picture, 255 - picture, 0, 0, 0.9, 1, 0.8)],
    )
    return Report(name, outcomes, settings, {"torch": "2"}, {"clean": 0.1}, ["<b>cat</b>", "dog"], examples)


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


def test_best_marks():
    comparison = compare(
        [make_report("one", wrong=10, attacked_wrong=30), make_report("two", wrong=12, attacked_wrong=9)]
    )
    assert comparison.best["clean_error"] == [0]
    assert comparison.best["pgd-20"] == [1]
    assert comparison.best["mce"] == [0, 1]  # a tie marks both
    one, two = (line for line in comparison.to_table().splitlines() if re.match(r"(one|two)  .*%", line))
    assert "10.0% <" in one
    assert "75.0% <" not in one
    assert "12.0% <" not in two
    assert "22.5% <" in two


def test_differences_by_hand():
    comparison = compare([make_report("plain", wrong=30), make_report("better", wrong=10)])
    reference, difference = comparison.differences
    assert reference == {}
    change = difference["clean_error"]
    assert change.value == pytest.approx(-0.2)
    # 20 of 100 images turned right, none wrong: sd of the mean change is sqrt(0.2 * 0.8 / 100) = 0.04
    assert change.low == pytest.approx(-0.2 - 1.96 * 0.04, abs=0.011)
    assert change.high == pytest.approx(-0.2 + 1.96 * 0.04, abs=0.011)
    assert change.excludes_zero
    assert difference["mce"].value == 0
    assert not difference["mce"].excludes_zero
    assert "better" in comparison.to_table()
    assert "no clear difference" in comparison.to_table()


def test_pairing_by_image_narrows_the_interval():
    same = compare([make_report("a", wrong=30), make_report("b", wrong=31)]).differences[1]["clean_error"]
    other = compare([make_report("a", wrong=30), make_report("b", wrong=31, shift=50)]).differences[1]["clean_error"]
    assert same.value == pytest.approx(other.value)
    assert same.high - same.low < 0.25 * (other.high - other.low)


def test_a_report_against_itself_differs_by_nothing():
    report = make_report()
    assert all(
        value.value == value.low == value.high == 0
        for value in compare([report, replace(report)]).differences[1].values()
    )


def test_comparison_files(tmp_path):
    comparison = compare(
        [make_report(name, wrong, names=CORRUPTIONS[:3]) for name, wrong in (("one", 10), ("two", 15), ("two", 5))]
    )
    assert comparison.names == ("one", "two (2)", "two (3)")
    page = comparison.save(tmp_path / "compare.html").read_text()
    assert not re.search(r"https?://|<script|<link", page)
    assert page.count("data:image/png;base64,") == 5
    data = json.loads((tmp_path / "compare.json").read_text())
    assert data["best"]["clean_error"] == ["two (3)"]
    assert data["models"][1]["difference_to_reference"]["clean_error"]["value"] == pytest.approx(0.05)
    assert len(list(tmp_path.glob("compare-*.png"))) == 5


def test_lipschitz_constants_are_compared_image_by_image_in_their_own_unit(tmp_path):
    def with_constants(name, values):
        report = make_report(name)
        index = torch.arange(len(values))
        return replace(report, outcomes=replace(report.outcomes, lipschitz_index=index, lipschitz=torch.tensor(values)))

    base = [40.0 + i for i in range(20)]
    comparison = compare([with_constants("steep", base), with_constants("smooth", [value - 30 for value in base])])
    difference = comparison.differences[1]["lipschitz"]
    assert (difference.change, difference.value, difference.low, difference.high) == ("-30.0", -30, -30, -30)
    assert comparison.best["lipschitz"] == [1]
    table = comparison.to_table()
    assert re.search(r"^steep .* 49\.5$", table, re.M) and re.search(r"^smooth .* 19\.5 <$", table, re.M)
    assert "in points; the Lipschitz constant in its own unit" in table
    assert "All figures in % are errors" in table
    page = comparison.save(tmp_path / "c.html").read_text()
    assert "<td>49.5<small>" in page and "4950" not in page
    # Other images: no paired difference, and no column.
    other = with_constants("other", base[:10])
    assert "lipschitz" not in compare([comparison.reports[0], other]).columns
    assert "own unit" not in compare([comparison.reports[0], other]).to_table()


def test_compare_refuses():
    one = make_report("one")
    with pytest.raises(ValueError, match="reports must be 2 or more, got 1"):
        compare([one])
    with pytest.raises(TypeError, match="reports must be Report objects, got str"):
        compare([one, "two"])
    with pytest.raises(ValueError, match="names must be one for each of the 2 reports, got 1"):
        compare([one, one], ["x"])
    for key, value in [("data_sha256", "other"), ("seed", 1), ("corruptions", ["fog"])]:
        with pytest.raises(ValueError, match=f"reports must agree in {key}"):
            compare([one, replace(one, settings=one.settings | {key: value})])
    other = replace(one, settings=one.settings | {"attacks": {"pgd-20": {"kind": "PGD", "steps": 21}}})
    with pytest.raises(ValueError, match="settings of the attack 'pgd-20'"):
        compare([one, other])
