"""Made-up results for the tests of the studies' pages and runs."""

from __future__ import annotations

import json

from study import runs


def with_interval(value, n):
    """A number of a result."""
    return {"value": value, "low": value - 0.1, "high": value + 0.2, "n": n}


def of_the_run(steps, training_images=256):
    """The end of every result."""
    return {
        "steps": steps,
        "parameters": 309_000,
        "training_images": training_images,
        "validation_images": 500,
        "history": [{"epoch": 1}, {"epoch": 2}],
        "seconds": {"training": 4.0, "measuring": 1.0, "all": 60.0},
        "environment": {"torch": "2", "time": "now", "device": "CPU, 1 threads"},
        "processor": "abacus, 2 cores",
    }


def write(job, options, row):
    """A finished run."""
    runs.write_text(options.out / job.name / "result.json", json.dumps(row))


def job_of(jobs, variant, seed=0):
    """The one job of a variant and seed."""
    (job,) = (job for job in jobs if (job.variant, job.seed) == (variant, seed))
    return job


def lines_starting(lines, start):
    """The lines that begin so."""
    return [line for line in lines if line.startswith(start)]
