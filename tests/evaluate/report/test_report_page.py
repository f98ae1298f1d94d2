"""The HTML of reports and comparisons: its order, its text, and that it asks nothing of a network."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from report_parts import NASTY, full_report, make_audit, make_report

from mixaug.evaluate import compare
from mixaug.evaluate.report.figures import report_figures
from mixaug.evaluate.report.page import report_page
from mixaug.evaluate.results import Examples, Outcomes

_VOID = {"meta", "img", "br", "link", "input"}
# Attributes that make a browser fetch something.
_FETCHING = {"src", "href", "srcset", "data", "poster", "action", "background", "xlink:href", "ping", "formaction"}


class Page(HTMLParser):
    """The tags of a page, its text, and what it would fetch."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.fetched, self.texts, self.style = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.fetched += [value for name, value in attrs if name in _FETCHING]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        elif data.strip():
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def masked():
    report = full_report(f"full {NASTY}", masked=True)
    return report, report_page(report, report_figures(report))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    comparison = compare([full_report(f"one {NASTY}"), full_report("two", masked=True), full_report("three", worse=2)])
    return comparison, comparison.save(tmp_path_factory.mktemp("compared") / "c.html").read_text()


def test_pages_fetch_nothing(masked, compared):
    for _, text in (masked, compared):
        page = Page(text)
        assert page.open == []
        assert page.fetched and all(value.startswith("data:image/png;base64,") for value in page.fetched)
        assert not {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"} & {
            tag for tag, _ in page.tags
        }
        assert not re.search(r"url\(|@import|@font-face|https?:", page.style)
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        policy = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
        assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_all_text_is_escaped(masked, compared):
    for _, text in (masked, compared):
        assert NASTY not in text
        assert "x.example" in text
        page = Page(text)
        assert any(NASTY in piece for piece in page.texts)
        assert {tag for tag, _ in page.tags} <= {
            "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "section", "div", "span",
            "b", "small", "table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "details",
            "summary", "ul", "li",
        }  # fmt: skip


def test_what_an_audit_says_is_escaped():
    report = full_report()
    check = replace(report.audit.checks[0], label=NASTY, source=NASTY, figures={NASTY: report.clean_error})
    audit = replace(report.audit, checks=(check,), verdict=f"Not masked: {NASTY}")
    text = report_page(replace(report, audit=audit), {})
    assert NASTY not in text
    # The banner, and of the check its label, reason, figure and source; then the notice and what was left out.
    assert sum(NASTY in piece for piece in Page(text).texts) == 7


def test_the_order_of_the_page(masked):
    _, text = masked
    pieces = [
        "<h1>full", "Sequential of 1,234 parameters", 'class="banner masked"', "<b>Note.</b>", "<b>Left out</b>",
        'class="cards"', "Audit: is this robustness real?", "<h2>Figures</h2>", "Error by corruption",
        "Error by severity",
        "Accuracy by radius of the attack", "Accuracy under each attack", "Confidence and accuracy", "Flip rates",
        "Predictions that change", "Attacked images (", "Corrupted images", "Loss surface", "Class activation maps",
        "Features", "Confidence on other images", "Accuracy under occlusion", "<h2>Attacks</h2>",
        "<h2>Corruptions, error in %</h2>", "<h2>Flip rates</h2>", "<h2>Calibration</h2>", "<h2>Anomalies</h2>",
        "<h2>Occlusion</h2>", "<h2>Loss around images</h2>", "How to repeat this",
    ]  # fmt: skip
    places, start = [], 0
    for piece in pieces:
        assert piece in text[start:], piece
        start += text[start:].index(piece)
        places.append(start)
    assert places == sorted(places)


def banner_of(report):
    text = report_page(report, {})
    found = re.search(r'<section class="banner (\w+)"><span[^>]*>(.)</span><div><b>([^<]*)</b><p>([^<]*)</p>', text)
    return found and found.groups()


def test_the_banner():
    report = full_report()
    assert banner_of(report) == ("clear", "✓", "Not masked", "PGD-20 leaves 50.0%.")
    assert banner_of(replace(report, audit=make_audit(masked=True))) == (
        "masked", "✗", "Masked: this robustness is not real", "Square leaves 10.0% less.",
    )  # fmt: skip
    assert banner_of(replace(report, audit=make_audit(verdict="No verdict: 3 images are too few.")))[:3] == (
        "open", "?", "Not decided",
    )  # fmt: skip
    assert banner_of(replace(report, audit=make_audit(left=0)))[:3] == ("open", "–", "Not masked, and not robust")
    assert banner_of(replace(report, audit=None))[:3] == ("open", "?", "No audit")
    unattacked = replace(make_report().outcomes, attack_index={}, attacked={}, attack_change={}, attack_confidence={})
    assert banner_of(replace(make_report(), outcomes=unattacked)) is None


def test_the_audit_table_has_words_and_signs_the_worst_first(masked):
    _, text = masked
    assert re.findall(r'<span class="chip ([\w-]+)">(. [\w ]+)</span>', text) == [
        ("fail", "✗ fail"), ("warn", "! warn"), ("not-run", "– not run"),
    ]  # fmt: skip
    texts = Page(text).texts
    row = texts.index("Black box stronger")
    assert texts[row : row + 6] == [
        "Black box stronger", "✗ fail", "Square leaves less.", "square 50.0% [10.0, 90.0]", "0.02", "Carlini",
    ]  # fmt: skip
    assert "0 pass, 1 warn, 1 fail, 1 not run." in text


def cells(text, title):
    """The rows of the table below a heading, text by text."""
    table = text[text.index(f"<h2>{title}</h2>") :]
    table = table[: table.index("</table>") + 8]
    return [
        [" ".join(Page(cell).texts) for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", table)
    ]


def test_the_attack_table(masked):
    rows = cells(masked[1], "Attacks")
    assert rows[1][:3] == ["PGD-20", "75.0 59.8–85.8", "70.0 54.6–81.9"]
    assert rows[-1] == [
        "worst case of 3", "75.0 59.8–85.8", "55.0 39.8–69.3", "45.0 30.7–60.2", "20.0 7.5–32.5", "–", "–", "40",
    ]  # fmt: skip
    assert [row[0] for row in rows[1:]] == ["PGD-20", "CW-20", "Square", "worst case of 3"]


def test_the_tables_of_the_other_parts(masked):
    report, text = masked
    rates = cells(text, "Flip rates")
    assert [row[0] for row in rates] == ["perturbation", "rotate", "gaussian noise", "mean"]
    assert rates[1][1].startswith("5.0 ") and rates[1][2] == "12"
    assert cells(text, "Anomalies")[1] == ["AUROC", f"{100 * report.anomaly.auroc.value:.1f} 62.0–84.0"]
    assert cells(text, "Occlusion")[0] == ["hidden", "0%", "40%", "80%", "mean"]
    assert cells(text, "Occlusion")[1][1].startswith("90.0 ")
    assert "A score that knows nothing has an AUROC of 50% and an AUPR of 16.7%" in text
    radii = [row for row in re.findall(r"<tr.*?</tr>", text) if '<th scope="col">radius</th>' in row]
    assert len(radii) == 1 and "8/255" in radii[0] and "32/255" in radii[0]


def test_the_strongest_attack_is_shown_and_the_others_open_on_a_touch(masked):
    report, text = masked
    assert report.robustness_gap[0] == "square"
    start = text.index('<details class="more">')
    assert "Attacked images (Square)" in text[:start]
    later = text[start : text.index("</details>", start)]
    assert "Attacked images (PGD-20)" in later and "Attacked images (CW-20)" in later
    assert "Attacked images (PGD-20)" not in text[:start]


def test_the_difference_is_shown_with_its_factor(masked):
    report = masked[0]
    figure = report_figures(report)["adversarial-square"]
    assert "no pixel changes by more than 8.0 of 255 grey levels" in figure.caption


def test_cards(masked):
    labels = re.findall(r'class="label">([^<]*)</span><b>([^<]*)</b>', masked[1])
    assert ("worst case of 3 attacks", "45.0%") in labels
    assert [label for label, _ in labels] == [
        "clean error", "mCE (15)", "RMS calibration error", "ECE", "worst case of 3 attacks", "flip rate",
        "occlusion error", "Lipschitz constant", "anomaly AUROC", "anomaly AUPR",
    ]  # fmt: skip
    assert masked[1].count("<span>higher is better</span>") == 2


def test_a_report_of_clean_images_alone(tmp_path):
    outcomes = Outcomes(torch.tensor([True, False]), torch.tensor([0.9, 0.6]), torch.empty(0), {}, {}, {}, {})
    report = replace(make_report(), outcomes=outcomes, examples=Examples())
    text = report.save(tmp_path / "r.html").read_text()
    assert "2 clean images." in text
    for absent in ("Attacks", "Corruptions", "Flip", "Anomal", "Occlusion", "Audit", "banner masked", "Loss"):
        assert absent not in re.sub(r"<style>.*?</style>", "", text, flags=re.S), absent
    assert [path.name for path in tmp_path.glob("*.png")] == ["r-reliability.png"]


def test_settings_hashes_and_times_are_on_the_page(masked):
    report, text = masked
    rows = text[text.index("How to repeat this") :]
    for value in (
        "weights sha256",
        report.settings["weights_sha256"].split()[0],
        "seconds: clean",
        "kind: Square; steps: 20",
    ):
        assert value in rows


def test_a_comparison_says_who_is_masked_and_marks_its_attacks(compared):
    _, text = compared
    assert re.findall(r'<span class="chip ([\w-]+)">(. [\w ]+)</span>', text) == [
        ("pass", "✓ not masked"), ("fail", "✗ masked"), ("pass", "✓ not masked"),
    ]  # fmt: skip
    main, attack = cells(text, "Main figures"), cells(text, "Under attack, error")
    assert attack[0] == ["model", "PGD-20 error", "CW-20 error", "Square error", "worst case of 3 attacks"]
    assert attack[2][1] == "30.0%\u00a0† 18.1–45.4"
    assert attack[1][1] == "30.0%\u00a0< 18.1–45.4"
    assert attack[3][1] == "35.0% 22.1–50.5"
    assert attack[2][4].startswith("45.0%\u00a0<")
    assert main[0][0] == "model" and "anomaly AUROC" in main[0] and "PGD-20 error" not in main[0]
    assert main[-1][0] == "n"
    differences = re.findall(r'<td class="distrusted">[^<]*<small>[^<]*</small><small>masked</small>', text)
    assert len(differences) == 4  # three attacks and the Lipschitz constant of the one masked model
    assert "† Masked: the model hides its gradients" in text


def test_what_all_models_share_is_written_once_in_the_settings(compared):
    _, text = compared
    rows = text[text.index("How to repeat this") :]
    assert re.search(r'<th scope="row">seed</th><td colspan="3">0</td>', rows)
    assert len(re.findall(r"<td>w", rows)) == 3  # the hashes of the weights differ
