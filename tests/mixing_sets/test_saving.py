"""Pictures as PNG files: the same pixels, whole or absent, kept when they are there already."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mixaug.mixing_sets import export as _saving
from mixaug.mixing_sets.export import check_folder, pixels_of, png_bytes, save_set, size_of, write_pictures


def random_pictures(count=5, height=12, width=12, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def read(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return data.reshape(image.height, image.width, 3).permute(2, 0, 1)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again: its node and time."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


# --- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (41, 41), (1, 1)])
def test_pixels_come_back(tmp_path, shape):
    pictures = random_pictures(3, *shape)
    before = pictures.clone()
    paths = save_set(pictures, tmp_path / "new" / "folder", "ifs1-s12-seed0")
    assert [path.name for path in paths] == [f"ifs1-s12-seed0-{i:06d}.png" for i in range(3)]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths
    assert torch.equal(torch.stack([read(path) for path in paths]), pictures)
    assert torch.equal(pictures, before)


def test_a_view_that_is_not_contiguous_comes_back(tmp_path):
    pictures = random_pictures(4, 12, 12).transpose(2, 3)[::2]
    assert torch.equal(torch.stack([read(path) for path in save_set(pictures, tmp_path)]), pictures)


def test_threads_change_nothing(tmp_path):
    pictures = random_pictures(9)
    one = [path.read_bytes() for path in save_set(pictures, tmp_path / "one", threads=1)]
    assert one == [path.read_bytes() for path in save_set(pictures, tmp_path / "three", threads=3)]


def test_names_are_as_wide_for_every_count(tmp_path):
    assert save_set(random_pictures(1), tmp_path)[0] == save_set(random_pictures(11), tmp_path)[0]


def test_no_pictures_is_an_empty_folder(tmp_path):
    assert save_set(random_pictures(0), tmp_path / "none") == [] and list((tmp_path / "none").iterdir()) == []


def test_files_have_the_mode_of_other_files(tmp_path):
    (path,) = save_set(random_pictures(1), tmp_path)
    (tmp_path / "other").write_text("x")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_progress(tmp_path, capsys):
    save_set(random_pictures(40), tmp_path, progress=True)
    assert "40/40" in capsys.readouterr().err
    save_set(random_pictures(40, seed=1), tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")


def test_pictures_are_read_a_few_at_a_time(tmp_path):
    """What is waiting to be written is bounded, so that a set larger than memory can be saved."""
    alive = [0, 0]

    def items():
        for index in range(40):
            alive[0] += 1
            alive[1] = max(alive)
            yield tmp_path / f"{index}.png", torch.zeros(3, 8, 8, dtype=torch.uint8)

    for _ in write_pictures(items(), threads=2):
        alive[0] -= 1
    assert alive[0] == 0 and 1 < alive[1] <= 6


# --- a stopped save -------------------------------------------------------------------------------------------------


def test_whole_files_are_kept_and_others_made_again(tmp_path):
    pictures = random_pictures(7)
    paths = save_set(pictures, tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])  # cut short
    paths[2].write_bytes(b"")
    paths[3].write_bytes(bytes(paths[3].stat().st_size))  # what a crash may leave
    paths[4].unlink()
    Image.new("RGB", (12, 12), "red").save(paths[5])  # of another program
    (tmp_path / "notes.txt").write_text("mine")
    before = stamps(tmp_path)
    assert save_set(pictures, tmp_path) == paths
    after = stamps(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {paths[i].name for i in range(1, 6)}
    assert torch.equal(torch.stack([read(path) for path in paths]), pictures)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_pictures_of_another_set_are_replaced(tmp_path):
    save_set(random_pictures(3), tmp_path)
    changed = random_pictures(3)
    changed[1, 0, 5, 5] ^= 1  # one level of one pixel
    before = stamps(tmp_path)
    paths = save_set(changed, tmp_path)
    after = stamps(tmp_path)
    assert [after[path.name] == before[path.name] for path in paths] == [True, False, True]
    assert torch.equal(read(paths[1]), changed[1])


def test_an_interrupted_save_goes_on(tmp_path, monkeypatch):
    pictures = random_pictures(40)
    original, calls = _saving.write_file, [0]

    def counted(path, content):
        calls[0] += 1
        if calls[0] == 21:
            raise KeyboardInterrupt
        return original(path, content)

    monkeypatch.setattr(_saving, "write_file", counted)
    with pytest.raises(KeyboardInterrupt):
        save_set(pictures, tmp_path)
    before = stamps(tmp_path)
    assert sorted(before) == [f"picture-{i:06d}.png" for i in range(20)]
    paths = save_set(pictures, tmp_path)
    assert calls[0] == 41  # twenty, the one that was interrupted, and the other twenty
    after = stamps(tmp_path)
    assert all(after[name] == before[name] for name in before) and len(after) == 40
    assert torch.equal(torch.stack([read(path) for path in paths]), pictures)


def test_a_full_disk_names_the_folder_and_leaves_no_half_files(tmp_path):
    """The system refuses to write more than 2000 bytes to a file, as a full disk would."""
    resource = pytest.importorskip("resource")
    small, large = torch.zeros(1, 3, 12, 12, dtype=torch.uint8), random_pictures(1, 64, 64)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        save_set(small, tmp_path, "small")
        with pytest.raises(
            OSError, match=re.escape(f"{tmp_path}/large-000000.png cannot be written: File too large")
        ) as caught:
            save_set(large, tmp_path, "large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno is not None
    assert [path.name for path in tmp_path.iterdir()] == ["small-000000.png"]


# --- what is in a file ----------------------------------------------------------------------------------------------


def test_size_of_whole_and_other_files(tmp_path):
    path = tmp_path / "a.png"
    content = png_bytes(random_pictures(1, 9, 14)[0])
    path.write_bytes(content)
    assert size_of(path) == (14, 9)
    for cut in (0, 1, 8, 32, 33, 40, len(content) // 2, len(content) - 12, len(content) - 1):
        path.write_bytes(content[:cut])
        assert size_of(path) is None and pixels_of(path) is None
    path.write_bytes(content[:20] + b"\x01" + content[21:])  # another height, with the checksum of the first
    assert size_of(path) is None
    Image.new("RGB", (14, 9)).save(path)
    assert size_of(path) == (14, 9) and pixels_of(path) is None
    for mode in ("L", "RGBA", "P", "I;16"):
        Image.new(mode, (14, 9)).save(path)
        assert size_of(path) is None
    Image.new("RGB", (14, 9)).save(path, "JPEG")
    assert size_of(path) is None
    assert size_of(tmp_path / "missing.png") is None and size_of(tmp_path) is None


def test_pixels_of_tells_pictures_apart(tmp_path):
    one, two = random_pictures(2)
    (tmp_path / "one").write_bytes(png_bytes(one))
    (tmp_path / "two").write_bytes(png_bytes(two))
    assert pixels_of(tmp_path / "one") == _saving._checksum(one) != pixels_of(tmp_path / "two")


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "given"),
    [
        (TypeError, "pictures must be a uint8 tensor, got list", {"pictures": [1]}),
        (TypeError, "pictures must be a uint8 tensor, got torch.float32", {"pictures": torch.zeros(1, 3, 8, 8)}),
        (ValueError, "pictures must have shape (N, 3, H, W), got (3, 12, 12)", {"pictures": random_pictures(1)[0]}),
        (ValueError, "pictures must have shape (N, 3, H, W), got (5, 12, 12)", {"pictures": random_pictures()[:, 0]}),
        (TypeError, "stem must be a str, got int: 3", {"stem": 3}),
        (ValueError, "stem must begin a file's name, without folders and a leading dot, got 'a/b'", {"stem": "a/b"}),
        (ValueError, "stem must begin a file's name, without folders and a leading dot, got ''", {"stem": ""}),
        (ValueError, "stem must begin a file's name, without folders and a leading dot, got '.a'", {"stem": ".a"}),
        (ValueError, "threads must be from 1 to 1024, got 0", {"threads": 0}),
        (TypeError, "folder must be a str or a path, got int: 3", {"folder": 3}),
        (ValueError, "folder must be a folder that can be written into, got /proc/deep (", {"folder": "/proc/deep"}),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, error, message, given):
    arguments = {"pictures": random_pictures(), "folder": tmp_path, **given}
    with pytest.raises(error, match=re.escape(message)):
        save_set(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"--out must be a folder, but {tmp_path / 'f'} is a file")):
        check_folder("--out", tmp_path / "f")
    with pytest.raises(ValueError, match=r"be a folder that can be written into, got .*/f/deep \(Not a directory\)"):
        check_folder("--out", tmp_path / "f" / "deep")
    assert (tmp_path / "f").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="Permission denied"):
        check_folder("--out", tmp_path)


def test_a_folder_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_folder("--out", "~/pictures") == tmp_path / "pictures" and (tmp_path / "pictures").is_dir()
