"""The grid of audits: every status told by colour and by a mark, and a word of the verdict."""

from __future__ import annotations

import io

import pytest
from audit_models import Blocks, Reversed, blocks_data, evidence
from PIL import Image

from mixaug.evaluate.audit import Audit, Thresholds, audit_images
from mixaug.evaluate.audit.result import SHORT, STYLE, audit_grid, cell_text, verdict_word
from mixaug.evaluate.audit.rules import RULES, all_checks, verdict_of

pytest.importorskip("matplotlib")


def made(**changes: object) -> Audit:
    found = evidence(**changes)
    checks = all_checks(found)
    return Audit(checks, verdict_of(checks, found), 0.1, found.right, {}, found.measures, {}, Thresholds())


def cells(**changes: object) -> dict[str, str]:
    return {check.name: cell_text(check) for check in made(**changes).checks}


def test_what_a_cell_says():
    found = cells(counts={"square": 80}, cosine=0.5)
    assert found["black-box"] == "x +10"
    assert found["transfer"] == "-20"
    assert found["averaged"] == "-"
    assert found["zero-gradients"] == "0%" and found["rough-surface"] == "0.50"
    assert found["growing-radius"] == "-10"
    assert cells(zero_ce=40)["zero-gradients"] == "! 20%"
    assert cells(counts={"radius-large": 30, "grey": 30})["large-radius"] == "! 15%"
    assert cells(counts={"square": 100})["black-box"] == "+0"
    assert cells(zero_margin=50)["zero-gradients"] == "x 25%"


def test_the_word_of_the_verdict():
    assert verdict_word(made())[0] == "not masked"
    assert verdict_word(made(counts={"square": 80}))[0] == "masked"
    assert verdict_word(made(counts={"clean": 3}))[0] == "no verdict"


def test_every_check_and_status_has_its_style():
    assert set(SHORT) == set(RULES)
    assert len({colour for colour, _ in STYLE.values()}) == 4


def test_the_picture():
    images, labels = blocks_data(12)
    audits = {"honest": made(), "masked": made(counts={"square": 80})}
    audits["run"] = audit_images(Reversed(Blocks()), images, labels, 0.1, square_queries=5)
    figure = audit_grid(audits)
    picture = Image.open(io.BytesIO(figure.png)).convert("RGB")
    assert picture.width == 936 and picture.height > 300
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    for name in ("pass", "fail", "not run"):
        wanted = STYLE[name][0]
        assert tuple(int(wanted[at : at + 2], 16) for at in (1, 3, 5)) in colours
    assert "check" in figure.caption
    assert audit_grid(audits).png == figure.png


def test_no_audits_are_an_error():
    with pytest.raises(ValueError, match="audits must hold one or more"):
        audit_grid({})
