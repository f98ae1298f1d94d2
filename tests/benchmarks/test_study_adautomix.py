"""The AdAutoMix study's page says what its figures say: goals, tables, what is missing, the files."""

from __future__ import annotations

import json
import sys

import pytest
import study_adautomix
import study_adautomix_figure
import study_adautomix_page
from study_adautomix_parts import result, study_of, write


@pytest.fixture
def finished(tmp_path):
    """Two seeds. AdAutoMix has 30 and 34% top-1 error; it is better than Mixup, and better calibrated by chance."""
    options, plan, jobs = study_of(tmp_path)
    ours = {"clean": (0.30, 0.34), "ece": (0.10, 0.16), "fgsm": (0.4, 0.4)}
    rivals = {
        "Mixup": {"clean": (0.40, 0.42), "ece": (0.12, 0.16)},
        "CutMix": {"clean": (0.25, 0.34), "ece": (0.10, 0.16)},
    }
    for job in jobs:
        chosen = ours if job.variant == "AdAutoMix" else rivals.get(job.variant, {})
        errors = {key: values[job.seed] for key, values in chosen.items()}
        write(job, options, result(job, **errors))
    return options, plan, jobs


def lines_of(options, plan):
    return study_adautomix_page.page(study_adautomix.collect(plan, options)).splitlines()


def before_parts(lines):
    """The page down to the first of its parts."""
    return lines[: next(i for i, line in enumerate(lines) if line.startswith("## "))]


def starting(lines, start):
    """The only line that begins so."""
    (line,) = (line for line in lines if line.startswith(start))
    return line


def part_of(lines, heading):
    """The rows of the table below a heading."""
    after = lines[lines.index(f"## {heading}") + 1 :]
    end = next((i for i, line in enumerate(after) if line.startswith("## ")), len(after))
    return [line for line in after[:end] if line.startswith("| ")]


def test_the_page_says_what_the_figures_say(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    half = "50.0 ± 0.0"
    first = before_parts(lines)
    row = f"| 32.0 ± 2.8 | **13.0 ± 4.2** | {half} | **40.0 ± 0.0** | {half} | {half} | 2 |"
    assert f"| AdAutoMix {row}" in first
    assert starting(first, "| CutMix |").startswith("| CutMix | **29.5 ± 6.4** | **13.0 ± 4.2** |")
    assert starting(first, "| standard |").endswith(f"{half} | {half} | 2 |")
    assert part_of(lines, "Ablation")[1].startswith("| AdAutoMix | **32.0 ± 2.8** |")
    heads = next(line for line in lines if "top-1 error (n = 1,000)" in line)
    assert "FGSM error (n = 8)" in heads and "corruption error (n = 4)" in heads
    whole = "| AdAutoMix, seed 1 | 34.0 [24.0, 54.0] | 16.0 [6.0, 36.0] | 50.0 [40.0, 70.0] | 40.0 [30.0, 60.0] |"
    assert starting(lines, "| AdAutoMix, seed 1 |").startswith(whole)
    assert "| AdAutoMix | 70.0 ± 0.0 | 75.0 ± 0.0 | 2, 2 |" in lines


def test_the_page_says_how_it_was_made(finished):
    options, plan, jobs = finished
    text = "\n".join(lines_of(options, plan))
    assert text.startswith("# AdAutoMix at CPU scale\n")
    assert "Fashion-MNIST, the subset in the package: 250 training images, 1 epochs, 3 optimiser steps for all" in text
    assert "batch 100, lr 0.1 on a cosine, weight decay 0.0001" in text
    assert "generator's SGD has lr 0.1; the teacher's momentum starts at 0.99." in text
    assert "standard deviation over 2 seeds" in text and "FGSM: eps 0.03137." in text
    assert "    python benchmarks/study_adautomix.py --seeds 2 --quick\n" in text
    assert "abacus, 2 cores; torch 2." in text and f": {len(jobs)} process minutes" in text
    assert "](study_adautomix.png)" in text and "Partial" not in text and "/home" not in text


def test_goals_are_met_missed_or_within_the_spread(finished):
    options, plan, jobs = finished
    goals = [line for line in lines_of(options, plan) if " lower than " in line]
    assert goals == [
        "- top-1 error lower than Mixup's: -9.0 ± 1.4 points, met.",
        "- ECE lower than Mixup's: -1.0 ± 1.4 points, met, within the spread of the seeds.",
        "- top-1 error lower than CutMix's: +2.5 ± 3.5 points, not met.",
        "- ECE lower than CutMix's: +0.0 ± 0.0 points, not met.",
    ]
    (options.out / plan.key / "mixup-s0" / "result.json").unlink()  # the differences are of the seeds that both have
    for job in jobs:
        if job.variant == "CutMix":
            (options.out / job.name / "result.json").unlink()
    goals = [line for line in lines_of(options, plan) if " lower than " in line]
    assert goals == [
        "- top-1 error lower than Mixup's: -8.0 points, met.",
        "- ECE lower than Mixup's: +0.0 points, not met.",
    ]


def test_each_part_has_its_table_beside_the_method(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    names = {
        heading: [line.split(" | ")[0].removeprefix("| ") for line in part_of(lines, heading)[1:]]
        for heading in ("Cheaper settings", "Ablation", "Number of images in a mixture")
    }
    assert names["Cheaper settings"] == [
        "AdAutoMix", "shared draws", "generator every 4 steps, on half", "the same, terms on a quarter",
    ]  # fmt: skip
    assert names["Ablation"][0] == "AdAutoMix" and names["Ablation"][-1] == "none of the four"
    assert len(names["Ablation"]) == 6
    assert names["Number of images in a mixture"] == ["standard", "N = 2", "AdAutoMix", "N = 4", "N = 5"]
    assert "N = 1 is standard training, N = 3 is AdAutoMix as above." in lines
    numbers = part_of(lines, "Number of images in a mixture")
    assert starting(numbers, "| N = 5 |").endswith("| 50.0 ± 0.0 | 2 |")


def test_the_players_are_those_of_the_runs_with_a_generator(finished):
    options, plan, jobs = finished
    for job in jobs:
        if job.variant == "AdAutoMix":
            losses = (2.1 + 0.2 * job.seed, 2.6, 0.3)
            write(job, options, result(job, losses=losses, skipped=job.seed * 2.0))
        if job.variant == "without the similarity":
            write(job, options, result(job, losses=(2.0, 2.0, None)))
    lines = lines_of(options, plan)
    rows = part_of(lines, "The players in the last epoch")
    assert "| AdAutoMix | 2.200 ± 0.141 | 2.600 ± 0.000 | 0.300 ± 0.000 |" in rows
    assert "| without the similarity | 2.000 ± 0.000 | 2.000 ± 0.000 | - |" in rows
    assert (
        not any(row.startswith(("| standard", "| Mixup", "| CutMix")) for row in rows)
        and len(rows) == 1 + len(plan.variants) - 3
    )
    assert starting(lines, "Means over the steps").endswith("not finite, in all runs: 2.")


def test_occlusion_is_an_accuracy_by_the_hidden_share(finished):
    options, plan, jobs = finished
    write(jobs[0], options, result(jobs[0], left=(0.8, 0.5, 0.1)))
    lines = lines_of(options, plan)
    rows = part_of(lines, "Accuracy under occlusion, %")
    assert rows[0] == "|  | 0% | 50% | 90% |" and len(rows) == 6
    assert rows[1] == "| standard | 85.0 ± 7.1 | 50.0 ± 0.0 | 10.0 ± 0.0 |"
    assert "patches of 2 px hidden (black), the same for all models; n = 8." in "\n".join(lines)


def test_a_partial_study_says_so(finished):
    options, plan, jobs = finished
    for name in ("standard-s0", "standard-s1", "co-operative-s0", "n-=-4-s0", "n-=-4-s1"):
        (options.out / plan.key / name / "result.json").unlink()
    study = study_adautomix.collect(plan, options)
    lines = study_adautomix_page.page(study).splitlines()
    missing = "standard-s0, co-operative-s0, standard-s1, n-=-4-s0, n-=-4-s1"
    assert f"**Partial: {len(jobs) - 5} of {len(jobs)} runs are finished.** Missing: {missing}." in lines
    first = before_parts(lines)
    assert starting(first, "| co-operative |").endswith("| 50.0 | 1 |")
    assert study_adautomix_page.summary(study)["means"]["co-operative"]["clean"] == {
        "mean": 0.5,
        "sd": None,
        "seeds": 1,
    }
    study_adautomix_figure.draw(study, options.out / "partial.png")
    assert (options.out / "partial.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_without_a_method_has_the_rest(finished):
    options, plan, jobs = finished
    for job in jobs:
        if job.variant != "shared draws":
            (options.out / job.name / "result.json").unlink()
    study = study_adautomix.collect(plan, options)
    lines = study_adautomix_page.page(study).splitlines()
    assert len(part_of(lines, "Cheaper settings")) == 2 and "## Ablation" not in lines
    assert not any("Goals" in line or "occlusion, %" in line for line in lines)
    study_adautomix_figure.draw(study, options.out / "partial.png")
    assert (options.out / "partial.png").exists()


def test_nothing_finished_is_refused(tmp_path):
    options, plan, _ = study_of(tmp_path)
    with pytest.raises(ValueError, match="at least one finished run, got none"):
        study_adautomix_page.page(study_adautomix.collect(plan, options))


def test_the_files_are_written_from_what_is_finished(finished, tmp_path, monkeypatch, capsys):
    options, plan, jobs = finished
    arguments = ["--quick", "--seeds", "2", "--out", str(tmp_path), "--results", str(tmp_path / "page")]
    monkeypatch.setattr(sys, "argv", ["study", *arguments, "--report-only"])
    assert study_adautomix.main() == 0
    assert capsys.readouterr().out.startswith("# AdAutoMix at CPU scale\n")
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == ["study_adautomix.json", "study_adautomix.md", "study_adautomix.png"]
    assert (tmp_path / "page" / "study_adautomix.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_adautomix.json").read_text())
    assert list(content["results"]) == list(plan.variants) and len(content["results"]["AdAutoMix"]) == 2
    assert content["means"]["Mixup"]["clean"] == {
        "mean": pytest.approx(0.41), "sd": pytest.approx(0.01414, abs=1e-4), "seeds": 2,
    }  # fmt: skip
    assert content["missing"] == [] and content["planned"] == len(jobs) and "/home" not in json.dumps(content)
    assert options.results == options.out  # the page of a quick run, which says nothing, stays with its runs
