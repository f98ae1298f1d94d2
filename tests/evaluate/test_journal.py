"""Pieces on disk: found again only where all is the same, computed again where a file is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixaug._files import atomic_path
from mixaug.evaluate.journal import Journal, check_writable, clear_state


def piece(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"right": torch.tensor([True, False, True]), "value": torch.tensor(value), "empty": torch.empty(0, 3)}


def not_needed() -> dict[str, torch.Tensor]:
    raise AssertionError("it was there")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_a_piece_is_found_again_as_it_was(tmp_path):
    told: list[str] = []
    first = Journal(tmp_path, "model", told.append)
    made = first.keep("clean", piece, torch.arange(3), {"eps": 0.1})
    assert same(made, piece()) and (first.found, first.spent) == (0, 0.0) and told == ["clean"]
    second = Journal(tmp_path, "model", told.append)
    found = second.keep("clean", not_needed, torch.arange(3), {"eps": 0.1})
    assert same(found, piece()) and second.found == 1 and second.spent > 0
    assert told == ["clean"]  # nothing was computed
    assert same(second.keeping(torch.arange(3), {"eps": 0.1})("clean", not_needed), piece())


@pytest.mark.parametrize(
    ("key", "name", "depends"),
    [
        ("other", "clean", (torch.arange(3), 0.1)),
        ("model", "dirty", (torch.arange(3), 0.1)),
        ("model", "clean", (torch.arange(4), 0.1)),
        ("model", "clean", (torch.arange(3).int(), 0.1)),
        ("model", "clean", (torch.arange(3).view(3, 1), 0.1)),
        ("model", "clean", (torch.arange(3), 0.2)),
        ("model", "clean", (torch.arange(3),)),
        ("model", "clean", (torch.arange(3), "0.1")),
    ],
)
def test_what_is_not_all_the_same_is_another_piece(tmp_path, key, name, depends):
    Journal(tmp_path, "model").keep("clean", piece, torch.arange(3), 0.1)
    journal = Journal(tmp_path, key)
    assert same(journal.keep(name, lambda: piece(2.0), *depends), piece(2.0))
    assert journal.found == 0 and len(list(tmp_path.iterdir())) == 2


def test_without_a_folder_or_not_stored_all_is_computed(tmp_path):
    for journal in (Journal(None, "model"), Journal(tmp_path, "model")):
        for value in (1.0, 2.0):
            assert same(journal.keep("clean", lambda value=value: piece(value), stored=False), piece(value))
    assert list(tmp_path.iterdir()) == []


def test_every_damage_of_a_file_is_noticed(tmp_path):
    Journal(tmp_path, "model").keep("clean", piece)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damages = [whole[: len(whole) // 2], b"", b"not a piece", whole + b"x" * 70_000]
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        at = int(torch.randint(len(whole), (), generator=generator))
        damages.append(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    for damage in damages:
        path.write_bytes(damage)
        journal = Journal(tmp_path, "model")
        # Either the damage touches nothing that is read, or the piece is computed: never another value.
        assert same(journal.keep("clean", piece), piece())
    path.write_bytes(damages[0])
    assert same(Journal(tmp_path, "model").keep("clean", lambda: piece(3.0)), piece(3.0))
    assert same(Journal(tmp_path, "model").keep("clean", not_needed), piece(3.0))  # and the file is whole again
    torch.save([1, 2], path)
    assert same(Journal(tmp_path, "model").keep("clean", lambda: piece(4.0)), piece(4.0))


def test_an_error_or_a_kill_in_the_midst_of_a_piece_leaves_none(tmp_path):
    with pytest.raises(AssertionError, match="it was there"):
        Journal(tmp_path, "model").keep("clean", not_needed)
    assert list(tmp_path.iterdir()) == []


def test_clear_state_removes_pieces_and_what_a_killed_process_was_writing_and_nothing_else(tmp_path):
    state = tmp_path / "report.partial"
    journal = Journal(state, "model")
    for name in "abc":
        journal.keep(name, piece)
    with atomic_path(state / "d.piece") as temporary:
        left = temporary.name
    (state / "d.piece").rename(state / left)  # as a killed process leaves it, and with it the lock
    assert len(list(state.iterdir())) == 4
    clear_state(state)
    assert not state.exists()
    clear_state(state)
    journal.keep("a", piece)
    (state / "notes.txt").write_text("mine")
    (state / ".hidden").write_text("mine too")
    clear_state(state)
    assert sorted(path.name for path in state.iterdir()) == [".hidden", "notes.txt"]
    with atomic_path(state / "e.piece") as temporary:  # of a writer that lives
        clear_state(state)
        assert temporary.exists()


@pytest.mark.parametrize("place", ["/proc/state", "/proc/1/state/deep"])
def test_a_folder_that_cannot_be_written_into_is_refused(place):
    with pytest.raises(ValueError, match=rf"state must be a folder that can be written into, got {place} \("):
        check_writable("state", place)


def test_a_file_where_the_folder_should_be_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"folder that can be written into, got .* \(Not a directory\)"):
            check_writable("out", path)
    with pytest.raises(TypeError, match="out must be a path, got int"):
        check_writable("out", 3)  # type: ignore[arg-type]
    check_writable("out", tmp_path)
    check_writable("out", tmp_path / "new" / "deep")
    check_writable("out", Path("relative") / "deep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and not Path("relative").exists()
