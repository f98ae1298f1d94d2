"""Runs of a study that end at once."""

from __future__ import annotations

import pytest
from study import command, runs


class Processes:
    """Notes the words of ``--one`` and the threads of each; it ends with the next of ``codes``, or with 0."""

    def __init__(self):
        self.started, self.threads, self.codes = [], set(), []

    def __call__(self, command, *, env, **how):
        self.started.append(command[command.index("--one") + 1 :])
        self.threads.add(env["OMP_NUM_THREADS"])
        return self

    def wait(self):
        return self.codes.pop(0) if self.codes else 0


@pytest.fixture
def processes(monkeypatch):
    found = Processes()
    monkeypatch.setattr(runs.subprocess, "Popen", found)
    monkeypatch.setattr(command.signal, "signal", lambda *how: None)
    return found
