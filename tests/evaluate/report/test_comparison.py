"""Comparisons: best marks, paired differences, masked models, and the files they write."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from report_parts import EPS, full_report, make_report, right

from mixaug.evaluate import compare
from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.evaluate.measure import Measured
from mixaug.evaluate.measures.anomaly import AnomalyScores


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
        return replace(report, measured={"lipschitz": Measured(index, torch.tensor(values))})

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


@pytest.fixture(scope="module")
def pair():
    """Two models with all parts, the second worse in all of them."""
    return compare([full_report("good"), full_report("bad", wrong=20, worse=5)])


def test_columns_are_all_headline_figures_that_both_have(pair):
    assert list(pair.columns) == [
        "clean_error", "mce", "rms", "ece", "pgd-20", "cw-20", "square", "worst_case", "flip_rate", "occlusion",
        "lipschitz", "auroc", "aupr",
    ]  # fmt: skip
    assert pair.columns["worst_case"] == "worst case of 3 attacks"
    assert pair.not_shared == []


def test_differences_of_the_parts_by_hand(pair):
    change = pair.differences[1]
    # Wrong under one attack or another: the images 0 to 17 of 40, and 0 to 22.
    assert change["worst_case"].value == pytest.approx(5 / 40)
    assert change["worst_case"].low == pytest.approx(0.125 - 1.96 * (0.125 * 0.875 / 40) ** 0.5, abs=0.025)
    # 5 more changes of 30 pairs for one of two perturbations, for each image.
    assert (change["flip_rate"].value, change["flip_rate"].low) == pytest.approx((5 / 60, 5 / 60))
    assert change["occlusion"].value == pytest.approx(5 / 20)
    assert (change["lipschitz"].value, change["lipschitz"].high) == pytest.approx((5, 5))
    assert change["auroc"].value == pytest.approx(
        pair.reports[1].anomaly.auroc.value - pair.reports[0].anomaly.auroc.value
    )
    assert change["auroc"].low < change["auroc"].value < change["auroc"].high < 0
    assert all(each.method == "paired bootstrap" for each in change.values())


def test_an_anomaly_difference_is_paired(pair):
    one, two = (report.anomaly.auroc for report in pair.reports)
    change = pair.differences[1]["auroc"]
    assert change.high - change.low < 0.3 * (two.high - two.low + one.high - one.low)


def test_higher_is_better_for_anomalies_alone(pair):
    assert [pair.best[key] for key in ("auroc", "aupr", "flip_rate", "occlusion", "worst_case")] == [[0]] * 5
    assert pair.verdict(1, "auroc") == "worse"
    assert pair.verdict(1, "flip_rate") == "worse"
    turned = compare(pair.reports[::-1])
    assert turned.best["auroc"] == [1]
    assert turned.verdict(1, "auroc") == "better"
    assert "AUROC and AUPR are no errors: higher is better." in turned.notes


def test_a_masked_model_is_never_best_under_one_attack():
    comparison = compare([full_report("honest", worse=5), full_report("tricky", masked=True)])
    assert comparison.masked == [False, True]
    for key in ("pgd-20", "cw-20", "square", "lipschitz"):
        assert comparison.values[key][1].value < comparison.values[key][0].value
        assert comparison.best[key] == [0], key
        assert comparison.verdict(1, key) == "masked"
    # Square needs no gradient: the worst case over it is trusted. So is all that is no attack.
    assert comparison.best["worst_case"] == [1]
    assert comparison.verdict(1, "worst_case") == "better"
    assert comparison.best["flip_rate"] == [1]
    assert comparison.marked_names == ["honest", "tricky †"]
    line = next(line for line in comparison.to_table().splitlines() if line.startswith("tricky  ") and "†" in line)
    assert "30.0% †" in line
    assert any(note.startswith("† Masked:") for note in comparison.notes)


def test_the_worst_case_of_gradient_attacks_is_not_trusted_either():
    attacks = ("pgd-20", "cw-20")
    comparison = compare(
        [full_report("honest", worse=5, attacks=attacks), full_report("tricky", masked=True, attacks=attacks)]
    )
    assert comparison.worst_attacks == ["pgd-20", "cw-20"]
    assert comparison.best["worst_case"] == [0]
    assert comparison.verdict(1, "worst_case") == "masked"
    masked = compare([full_report("a", masked=True, attacks=attacks), full_report("b", masked=True, attacks=attacks)])
    assert masked.best["worst_case"] == [] and masked.best["pgd-20"] == []
    assert masked.best["clean_error"] == [0, 1]


def test_a_difference_to_a_masked_reference_says_nothing():
    comparison = compare([full_report("tricky", masked=True), full_report("honest", worse=5)])
    assert comparison.verdict(1, "pgd-20") == "masked"
    assert comparison.verdict(1, "clean_error") == "no clear difference"


def test_the_worst_case_is_over_the_attacks_that_all_share():
    three, two = full_report("three"), full_report("two", attacks=("pgd-20", "cw-20"))
    comparison = compare([three, two])
    assert comparison.columns["worst_case"] == "worst case of 2 attacks"
    assert comparison.values["worst_case"][0].value == pytest.approx(15 / 40)
    assert comparison.differences[1]["worst_case"].value == 0
    assert comparison.not_shared == ["Square error"]
    # An attack that left the radius on one model is not counted for the other.
    wide = replace(
        three, outcomes=replace(three.outcomes, attack_change=three.outcomes.attack_change | {"square": 0.5})
    )
    assert compare([three, wide]).worst_attacks == ["pgd-20", "cw-20"]


@pytest.mark.parametrize(
    ("change", "column", "label"),
    [
        ({"flips": torch.arange(1, 13)}, "flip_rate", "flip rate"),
        ({"occlusion": torch.arange(1, 21)}, "occlusion", "occlusion error"),
        ({"lipschitz": torch.arange(1, 11)}, "lipschitz", "Lipschitz constant"),
        ({"ood": torch.linspace(0.2, 0.5, 21)}, "auroc", "anomaly AUROC"),
        ({"flips": None}, "flip_rate", "flip rate"),
        ({"occlusion": None}, "occlusion", "occlusion error"),
        ({"lipschitz": None}, "lipschitz", "Lipschitz constant"),
    ],
)
def test_parts_of_other_images_are_not_compared(change, column, label):
    one = full_report("one")
    ((name, value),) = change.items()
    if name == "ood":
        value = AnomalyScores(one.outcomes.confidence, value)
    elif value is not None:
        value = replace(one.measured[name], index=value)
    other = replace(one, name="other", measured=one.measured | {name: value})
    comparison = compare([one, other])
    assert column not in comparison.columns and "clean_error" in comparison.columns
    assert label in comparison.not_shared
    assert any(note.startswith("Not compared") and label in note for note in comparison.notes)
    assert column in compare([one, replace(one)]).columns


def test_another_outer_data_set_is_not_compared():
    one = full_report("one")
    other = replace(one, settings=one.settings | {"out_of_distribution_sha256": "else"})
    assert "auroc" not in compare([one, other]).columns


def test_compare_refuses_attacks_and_corruptions_of_other_images():
    one = full_report("one")
    moved = replace(one.outcomes, attack_index=one.outcomes.attack_index | {"cw-20": torch.arange(1, 41)})
    with pytest.raises(ValueError, match="reports must agree in the images of CW-20"):
        compare([one, replace(one, outcomes=moved)])
    moved = replace(one.outcomes, corruption_index=torch.arange(1, 51))
    with pytest.raises(ValueError, match="reports must agree in the corrupted images"):
        compare([one, replace(one, outcomes=moved)])


def test_figures_of_what_is_shared(tmp_path, pair):
    pair.save(tmp_path / "both.html")
    parts = {path.stem.removeprefix("both-") for path in tmp_path.glob("*.png")}
    assert parts == {
        "headline", "audit", "corruptions", "severity",
        "curve", "reliability", "flips", "occlusion", "corrupted", "surface",
    }  # fmt: skip
    one, two = pair.reports
    curve = replace(two.measured["curve"], right={EPS: right(1, 30)})
    other = replace(two, measured=two.measured | {"flips": None, "curve": curve, "occlusion": None})
    compare([one, other]).save(tmp_path / "less" / "less.html")
    parts = {path.stem.removeprefix("less-") for path in (tmp_path / "less").glob("*.png")}
    assert parts == {"headline", "audit", "corruptions", "severity", "reliability", "corrupted", "surface"}


def test_reports_without_any_shared_part_compare_on_clean_images(tmp_path):
    one = full_report("one")
    bare = replace(
        make_report("bare"),
        outcomes=replace(make_report().outcomes, attack_index={}, attacked={}, attack_change={}, attack_confidence={}),
        examples=type(one.examples)(),
    )
    comparison = compare([bare, one])
    assert list(comparison.columns) == ["clean_error", "mce", "rms", "ece"]
    assert comparison.save(tmp_path / "c.html").exists()
    assert "Under attack" not in (tmp_path / "c.html").read_text()


def test_twelve_models(tmp_path):
    reports = [full_report(f"model number {k}", wrong=5 + k, worse=k % 8, masked=k == 3) for k in range(12)]
    comparison = compare(reports)
    table = comparison.to_table()
    assert max(map(len, table.splitlines())) <= 110
    assert table.startswith("model number 0: ✓ Not masked.")
    rows = [line for line in table.splitlines() if line.startswith("model number 11 ")]
    assert len(rows) == 3 + 3 + 1  # three blocks of figures, three of differences, the loss
    for row in rows:
        assert len(re.findall(r"\d\S*", row.removeprefix("model number 11"))) >= 1
    page = comparison.save(tmp_path / "many.html").read_text()
    assert "<h1>model number 0 and 11 other models</h1>" in page
    from PIL import Image

    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width == 936 and picture.height < 2700, path.name


def test_json_of_a_comparison(pair, tmp_path):
    pair.save(tmp_path / "c.html")
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["format"] == "mixaug-comparison-2"
    assert data["higher_is_better"] == ["auroc", "aupr"]
    assert data["worst_case_attacks"] == ["pgd-20", "cw-20", "square"]
    assert [model["masked"] for model in data["models"]] == [False, False]
    assert data["models"][1]["accuracy_curve"][0]["eps"] == 0
    assert data["models"][1]["difference_to_reference"]["worst_case"]["value"] == pytest.approx(5 / 40)
