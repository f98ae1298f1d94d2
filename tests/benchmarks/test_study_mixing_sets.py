"""The study of mixing sets answers its question from the numbers; its runs are skipped, resumed and refused rightly."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

pytest.importorskip("scipy")
import study_mixing_sets
from study import measured
from study.plan import jobs_of
from study_mixing_sets import METRICS, MIXTURE, PAPER, SOURCES, VARIANTS, plans
from study_parts import of_the_run, write

from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.train.settings import TrainSettings

# --- the page ----------------------------------------------------------------------------------------------------


def result(job, *, steps=2, pictures="5a", corruptions=None, **figures):
    values = {**dict.fromkeys(METRICS, 0.5), **figures}
    mixed = job.variant not in ("standard", "no pictures")
    return {
        "variant": job.variant,
        "settings": {
            **job.plan.shared, "batch_size": 128,
            "mixing_set": "/home/somebody" if mixed else None, "out": "/home/somebody", "data": "/home",
        },
        "images": job.plan.sizes.n["corruptions"],
        "pictures": {"count": 512, "sha256": pictures} if mixed else None,
        "figures": {
            key: {"value": value, "low": value - 0.02, "high": value + 0.04, "n": 20} for key, value in values.items()
        },
        "corruptions": {**dict.fromkeys(CORRUPTIONS, values["mce"]), **(corruptions or {})},
        "best_epoch": 3,
        **of_the_run(steps),
    }  # fmt: skip


#: A rest without an order that any source or seed could have.
LUCK = {"fractals": (1, -1, 0), "IFS": (-1, 0, 1), "contours": (0, 1, -1), "dead leaves": (1, 0, -1)}


def sizes_of(plan):
    return plan.shared["limit"], plan.shared["epochs"], plan.sizes.n["corruptions"]


@pytest.fixture
def finished(tmp_path):
    """Sources alike but for the calibration error of the spectrum; noise is worse, standard training far worse."""
    options = study_mixing_sets.parse(["--quick", "--out", str(tmp_path)])
    (plan,) = plans(options)
    jobs = jobs_of([plan], options.seeds)
    for job in jobs:
        luck = 0.002 * LUCK.get(job.variant, (-1, 1, 0))[job.seed]
        figures = {"clean": 0.15 + luck + 0.01 * job.seed, "mce": 0.20 + luck, "rms": 0.04 + luck}
        if job.variant == "spectrum":
            figures["rms"] += 0.03
        if job.variant == "noise":
            figures["mce"] += 0.02
        if job.variant == "standard":
            figures["mce"] += 0.20
        write(job, options, result(job, **figures))
    return options, plan, jobs


def lines_of(options, plan):
    return study_mixing_sets.page(study_mixing_sets.collect([plan], options)).splitlines()


def test_the_answer_is_computed(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    head = "**Not in everything:** in 1 of 3 comparisons the five sources are further apart than the seeds explain."
    assert head in lines
    (line,) = (line for line in lines if line.startswith("- RMS calibration error on ") and "adjusted" in line)
    assert "spectrum 7.0, " in line and " 4.0: 3.0 ± " in line
    label = "Fashion-MNIST"
    assert f"Not told apart: clean error on {label}; corruption error on {label}." in lines
    wider = next(line for line in lines if line.startswith("Further apart than in the paper"))
    assert wider.startswith(f"Further apart than in the paper: 1 of 3 ranges (RMS calibration error on {label}).")
    worth = next(line for line in lines if "IPMix changes the corruption error by" in line)
    assert worth.startswith(f"{label}: IPMix changes the corruption error by -20.0 ± ")
    assert worth.endswith("from the best to the worst source it is 0.0, 0% of that.")


def test_sources_that_are_alike_are_called_so(finished):
    options, plan, jobs = finished
    for job in jobs:
        if job.variant == "spectrum":
            luck = 0.002 * (-1, 1, 0)[job.seed]
            write(job, options, result(job, clean=0.15 + 0.01 * job.seed + luck, mce=0.2 + luck, rms=0.04 + luck))
    lines = lines_of(options, plan)
    (answer,) = (line for line in lines if line.startswith("**Yes, as far as 3 seeds can tell:** in none of 3 "))
    assert "(smallest adjusted p 1)" in answer and not any(line.startswith("Not told apart") for line in lines)
    assert "Further apart than in the paper: 0 of 3 ranges." in next(line for line in lines if "Further" in line)


def test_sources_that_all_differ_are_called_so(finished):
    options, plan, jobs = finished
    for job in jobs:
        if job.variant in SOURCES:
            step = 0.03 * list(SOURCES).index(job.variant) + 0.001 * LUCK.get(job.variant, (0, 0, 0))[job.seed]
            write(job, options, result(job, clean=0.15 + step, mce=0.2 + step, rms=0.04 + step))
    lines = lines_of(options, plan)
    assert "**No:** in 3 of 3 comparisons the five sources are further apart than the seeds explain." in lines
    assert not any(line.startswith("Not told apart") for line in lines)


def test_the_tables_say_what_the_figures_say(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    half = "50.0 ± 0.0"
    row = f"| spectrum | **16.0 ± 1.1** | **20.0 ± 0.2** | 7.0 ± 0.2 | {half} | 3 | 19.8 / 29.2 / 4.0 |"
    assert row in lines
    assert f"| standard | **16.0 ± 1.1** | 40.0 ± 0.2 | **4.0 ± 0.2** | {half} | 3 | - |" in lines
    (spread,) = (line for line in lines if line.startswith("| RMS calibration error on Fashion-MNIST |"))
    cells = [cell.strip() for cell in spread.split("|")[1:-1]]
    assert cells[2] == "spectrum 7.0" and cells[1].endswith(" 4.0") and cells[3].startswith("3.0 ± ")
    # Rests of (1, -1, 0), (-1, 0, 1), (0, 1, -1), (1, 0, -1), (-1, 1, 0) fifths of a point: 2 x 5 / 25 over 8.
    assert cells[5] == "1.34" and cells[6] == "0.22" and float(cells[7]) < 1e-5 and cells[9] == "2.6"
    assert cells[8].startswith("**") and float(cells[8].strip("*")) == pytest.approx(3 * float(cells[7]), rel=0.05)
    (noise,) = (line for line in lines if line.startswith("| noise | +"))
    assert noise.split("|")[3].strip().startswith("**+2.0 ± ")
    assert any("in the paper" in line and "range by chance" in line for line in lines)
    assert "| frost* | 40.0 ± 0.2 |" in next(line for line in lines if line.startswith("| frost*"))
    assert any("clean error ± 3.0 (n = 20)" in line for line in lines)
    text = "\n".join(lines)
    assert "abacus, 2 cores; torch 2." in text and "python benchmarks/study_mixing_sets.py --quick" in text
    assert "512 a set, of 256 px" in text and "Partial" not in text


def test_the_controls_are_told_in_words(finished):
    options, plan, _ = finished
    lines = lines_of(options, plan)
    against = "against the mean of the five sources"
    assert (
        f"- Noise in place of pictures, {against}: better in RMS calibration error; worse in corruption error; "
        "not told apart in clean error." in lines
    )
    rest = "better in RMS calibration error; not told apart in clean error, corruption error."
    assert f"- Flat colours in place of pictures, {against}: {rest}" in lines
    assert f"- No pictures (the image level alone), {against}: {rest}" in lines


def test_a_partial_study_says_so(finished):
    options, plan, jobs = finished
    for job in jobs:
        if (job.variant == "IFS" and job.seed > 0) or job.variant == "flat colours":
            (options.out / job.name / "result.json").unlink()
    lines = lines_of(options, plan)
    start = "**Partial: 25 of 30 runs are finished.** Missing: study_mixing_sets/flat-colours-s0, "
    assert any(line.startswith(start) for line in lines)
    assert any(line.startswith("Too few runs are finished to compare the sources") for line in lines)
    assert not any(line.startswith("### Does the picture matter?") for line in lines)


def test_the_files_are_written_from_what_is_finished(finished, tmp_path, monkeypatch, capsys):
    options, plan, jobs = finished
    arguments = ["--quick", "--out", str(tmp_path), "--results", str(tmp_path / "page"), "--report-only"]
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    assert study_mixing_sets.main() == 0
    assert capsys.readouterr().out.startswith("# Does it matter which pictures IPMix mixes in?\n")
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == ["study_mixing_sets.json", "study_mixing_sets.md", "study_mixing_sets.png"]
    assert (tmp_path / "page" / "study_mixing_sets.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "page" / "study_mixing_sets.json").read_text())
    assert content["means"][plan.key]["spectrum"]["rms"]["mean"] == pytest.approx(0.07)
    assert [one["figure"] for one in content["comparisons"]] == ["clean", "mce", "rms"]
    assert list(content["results"][plan.key]) == list(VARIANTS) and content["planned"] == len(jobs)
    assert content["results"][plan.key]["noise"][0]["settings"]["mixing_set"] == "noise"
    assert "/home" not in json.dumps(content["results"][plan.key]["noise"])
    assert options.results == options.out  # the page of a quick run, which says nothing, stays with its runs


# --- runs --------------------------------------------------------------------------------------------------------


def test_results_of_other_pictures_are_refused(finished):
    options, plan, jobs = finished
    job = next(job for job in jobs if job.variant == "spectrum")
    write(job, options, result(job, pictures="6b"))
    with pytest.raises(ValueError, match="the runs of spectrum must have mixed in the same pictures, got 2 sets"):
        study_mixing_sets.collect([plan], options)


def test_every_variant_has_settings_and_a_folder_of_its_own(tmp_path):
    options = study_mixing_sets.parse(["--cifar", "pictures", "--out", str(tmp_path)])
    found = plans(options)
    names = [job.name for job in jobs_of(found, options.seeds)]
    assert len(names) == len(set(names)) == 2 * 3 * 10
    assert "study_mixing_sets/dead-leaves-s0" in names and "study_mixing_sets_cifar10/all-five-s2" in names
    assert [sizes_of(plan) for plan in found] == [(None, 12, 1000), (5000, 12, 1000)]
    assert set(PAPER) == set(SOURCES) and VARIANTS[MIXTURE]["mixing_set"].split(",") == list(SOURCES.values())
    names = {name: TrainSettings(**chosen).method for name, chosen in VARIANTS.items()}
    assert {name for name, method in names.items() if method != "ipmix"} == {"standard"}


def test_sizes_can_be_chosen():
    chosen = ["--cifar", "pictures", "--epochs", "3", "--limit", "700", "--images", "90", "--cifar-only"]
    options = study_mixing_sets.parse(chosen)
    assert [(plan.key, *sizes_of(plan)) for plan in plans(options)] == [("study_mixing_sets_cifar10", 700, 3, 90)]
    shown = ["--cifar", "CIFAR10_FOLDER", "--cifar-only", "--epochs", "3", "--limit", "700", "--images", "90"]
    assert study_mixing_sets.shown_arguments(options) == shown


@pytest.mark.parametrize("arguments", [["--cifar-only"], ["--images", "0"]])
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        study_mixing_sets.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_plain_pictures_show_nothing():
    noise = study_mixing_sets.plain_pictures("noise", 3)
    flat = study_mixing_sets.plain_pictures("flat", 40)
    assert noise.shape == (3, 3, 256, 256) and noise.dtype == flat.dtype == torch.uint8
    cells = noise[:, :, ::8, ::8].float()
    assert torch.equal(noise, noise[:, :, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert cells.std() == pytest.approx(256 / math.sqrt(12), rel=0.03)
    assert torch.corrcoef(torch.stack([cells[..., :-1].flatten(), cells[..., 1:].flatten()]))[0, 1].abs() < 0.05
    assert (flat == flat[:, :, :1, :1]).all()
    assert len(torch.unique(flat[:, :, 0, 0], dim=0)) == 40
    assert torch.equal(noise, study_mixing_sets.plain_pictures("noise", 3))


def test_plain_folders_are_made_once_and_mended(tmp_path):
    folder = study_mixing_sets.plain_folder("flat", tmp_path, 5)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"000{i}.png" for i in range(5)]
    kept, lost = folder / "0000.png", folder / "0003.png"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert study_mixing_sets.plain_folder("flat", tmp_path, 5) == folder
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == content


def test_the_command_makes_the_run_that_it_names(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(study_mixing_sets, "run_one", lambda job, folder, options: (job, folder))
    arguments = ["--quick", "--out", str(tmp_path), "--one", "study_mixing_sets", "dead leaves", "2"]
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    job, folder = study_mixing_sets.main()
    assert (job.variant, job.seed, folder) == ("dead leaves", 2, tmp_path / "study_mixing_sets" / "dead-leaves-s2")


@pytest.mark.slow
def test_one_run_from_training_to_its_result(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the other tests keep their threads
    monkeypatch.setattr(study_mixing_sets, "COUNT", 4)
    monkeypatch.setattr(study_mixing_sets.plain_folder, "__defaults__", (4,))
    options = study_mixing_sets.parse(["--quick", "--out", str(tmp_path)])
    jobs = jobs_of(plans(options), options.seeds)
    job = next(job for job in jobs if job.variant == "noise")
    folder = tmp_path / job.name
    folder.mkdir(parents=True)
    assert measured.read_sized_result(job, options) is None
    assert study_mixing_sets.run_one(job, folder, options) == 0
    row = measured.read_sized_result(job, options)
    assert row["settings"]["mixing_set"] == str(tmp_path / "plain_pictures" / "noise")
    assert row["pictures"]["count"] == 4 and len(row["pictures"]["sha256"]) == 64
    assert {key: row["figures"][key]["n"] for key in METRICS} == {"clean": 1000, "mce": 20, "rms": 1000, "ece": 1000}
    assert list(row["corruptions"]) == list(CORRUPTIONS) and row["training_images"] == 256 and row["steps"] == 2
    plain = next(job for job in jobs if job.variant == "no pictures")
    assert study_mixing_sets.pictures_of(study_mixing_sets.settings_in(folder, plain, options.out)) is None
