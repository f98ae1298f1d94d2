"""The one reader of pictures and the one walk of folders: all readers agree, and nothing is read twice."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mixaug import MixingSet
from mixaug._pictures import EXTENSIONS, FolderWalk, from_pil, read_picture, read_tensor
from mixaug.evaluate import ClassSubsetFolder, CorruptedSet, PictureFolder
from mixaug.evaluate.corruptions import load_frost_textures
from mixaug.evaluate.images import LabelledImages
from mixaug.train.images import decode, scan

SIDE = 16
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
GREY[0, :2] = 0, 255
ALPHA = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def _palette(transparency: bool) -> Image.Image:
    image = Image.fromarray(COLOUR).quantize(200)
    if transparency:
        image.info["transparency"] = bytes(range(200))
    return image


def _turned() -> dict:
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


#: name, picture, ending, options of saving
KINDS = {
    "1": (Image.fromarray(GREY > 127), "png", {}),
    "L": (Image.fromarray(GREY), "png", {}),
    "LA": (Image.fromarray(np.dstack([GREY, ALPHA])), "png", {}),
    "P": (_palette(False), "png", {}),
    "P gif": (_palette(False), "gif", {}),
    "P transparent": (_palette(True), "png", {}),
    "RGB": (Image.fromarray(COLOUR), "png", {}),
    "RGB key": (Image.fromarray(COLOUR), "png", {"transparency": (1, 2, 3)}),
    "RGB webp": (Image.fromarray(COLOUR), "webp", {"lossless": True}),
    "RGB jpeg": (Image.fromarray(COLOUR), "jpg", {}),
    "RGB bmp": (Image.fromarray(COLOUR), "bmp", {}),
    "RGBA": (Image.fromarray(np.dstack([COLOUR, ALPHA])), "png", {}),
    "RGBA tiff": (Image.fromarray(np.dstack([COLOUR, ALPHA])), "tiff", {}),
    "CMYK jpeg": (Image.fromarray(COLOUR).convert("CMYK"), "jpg", {}),
    "CMYK tiff": (Image.fromarray(COLOUR).convert("CMYK"), "tif", {}),
    "YCbCr": (Image.fromarray(COLOUR).convert("YCbCr"), "jpg", {}),
    "LAB": (Image.new("LAB", (SIDE, SIDE), (90, 3, 200)), "tif", {}),
    "turned jpeg": (Image.fromarray(COLOUR), "jpg", _turned()),
    "turned png": (Image.fromarray(COLOUR), "png", _turned()),
    "turned tiff": (Image.fromarray(COLOUR), "tif", _turned()),
    "animation": (Image.fromarray(COLOUR), "png", {"save_all": True, "append_images": [Image.new("RGB", (16, 16))]}),
    "16-bit png": (Image.fromarray(GREY.astype(np.uint16) * 257), "png", {}),
    "16-bit tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), "tif", {}),
    "16-bit pgm": (Image.fromarray(GREY.astype(np.int32) * 257), "pgm", {}),
    "dark 16-bit png": (Image.fromarray(GREY.astype(np.uint16)), "png", {}),
    "16 of 32 bits": (Image.fromarray(GREY.astype(np.int32) * 257), "tif", {}),
    "black of 32 bits": (Image.fromarray(GREY.astype(np.int32) * 0), "tif", {}),
    "turned 16-bit": (Image.fromarray(GREY.astype(np.uint16) * 257), "tif", _turned()),
}
READERS = ("decode", "from_folder", "PictureFolder", "ClassSubsetFolder", "CorruptedSet", "frost", "PIL item", "scan")


def read_by(reader: str, root: Path, picture: Image.Image, ending: str, options: dict) -> torch.Tensor:
    """The picture, saved and read by one of the readers, (3, H, W)."""
    place = {"CorruptedSet": root / "fog" / "1" / "c0", "frost": root, "from_folder": root}.get(reader, root / "c0")
    for folder in (place, place.parent / "c1") if place != root else (root,):
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"a.{ending}", **options)
    path, first = place / f"a.{ending}", torch.tensor([0])
    if reader == "decode":
        return decode(path)
    if reader == "scan":
        return scan(root)[0].load(SIDE).images[0]
    if reader == "from_folder":
        return MixingSet.from_folder(root, size=SIDE)[0]
    if reader == "PictureFolder":
        return LabelledImages(PictureFolder(root)).take(first)[0][0]
    if reader == "ClassSubsetFolder":
        return LabelledImages(ClassSubsetFolder(root, ["c0", "c1"])).take(first)[0][0]
    if reader == "CorruptedSet":
        return CorruptedSet(root).take("fog", 1, first)[0][0]
    if reader == "frost":
        return load_frost_textures(root)[0]
    with Image.open(path) as item:
        made = LabelledImages([(item, 0)]).take(first)[0][0]
    return made.expand(3, -1, -1)


def plain(kind: str, path: Path) -> torch.Tensor:
    """What a kind must be read as: PIL's convert("RGB"), as ImageFolder's, or the upper bits."""
    if kind == "dark 16-bit png" or kind.startswith("black"):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    elif "16" in kind:
        pixels = np.repeat((np.rot90(GREY, -1) if "turned" in kind else GREY)[..., None], 3, -1)
    else:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("ignore")
            image = opened.convert("RGB")
            # PIL turns TIFF by itself.
            turns = "turned" in kind and opened.format != "TIFF"
            pixels = np.array(image.transpose(Image.Transpose.ROTATE_270) if turns else image)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_readers_agree_on_every_kind(tmp_path, reader, kind):
    picture, ending, options = KINDS[kind]
    picture.save(tmp_path / f"own.{ending}", **options)
    expected = plain(kind, tmp_path / f"own.{ending}")
    made = read_by(reader, tmp_path / "tree", picture, ending, options)
    assert made.dtype == torch.uint8 and torch.equal(made, expected)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "pixels,words",
    [
        ((GREY / 255).astype(np.float32), "its pixels are floats"),
        (GREY.astype(np.float32), "its pixels are floats"),
        (GREY.astype(np.int32) * 2**22, "its pixels are 32-bit integers from 0 to 106"),
        (GREY.astype(np.int32), "its pixels are 32-bit integers from 0 to 255"),
        (GREY.astype(np.int32) - 1, "its pixels are 32-bit integers from -1 to 254"),
    ],
)
def test_depths_without_a_rule_are_refused(tmp_path, reader, pixels, words):
    with pytest.raises(ValueError, match=rf"cannot be read as a picture: {words}"):
        read_by(reader, tmp_path, Image.fromarray(pixels), "tif", {})


def test_grey_and_colour():
    both = {mode: from_pil(Image.new(mode, (3, 2))).shape[0] for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    assert both == {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3}
    assert from_pil(Image.fromarray(COLOUR), "L")[0].equal(
        torch.from_numpy(np.array(Image.fromarray(COLOUR).convert("L")))
    )
    with pytest.raises(TypeError, match="image must be a PIL image, got a uint8 array of shape"):
        from_pil(GREY)


def test_a_picture_given_is_not_changed():
    image = _palette(True)
    image.info["exif"] = _turned()["exif"].tobytes()
    before, info = image.tobytes(), dict(image.info)
    assert from_pil(image).shape == (3, SIDE, SIDE)
    assert image.tobytes() == before and image.info == info and image.mode == "P"


# --- what cannot be read --------------------------------------------------------------------------------------------


def _damaged(path: Path, damage: str) -> None:
    Image.fromarray(COLOUR).save(path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            os.chdir(path.parent)  # names of sockets are short
            made.bind(path.name)
    elif damage == "device":
        path.symlink_to("/dev/zero")
    elif damage != "missing":
        path.write_bytes({"cut": whole[:-40], "empty": b"", "text": b"no picture", "odd": whole[:40]}[damage])


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "odd", "folder", "pipe", "socket", "device", "missing"])
def test_what_cannot_be_read_is_named(tmp_path, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "broken.png"
    _damaged(path, damage)
    words = {"folder": "it is a folder", "pipe": "it is a pipe", "socket": "it is a socket", "device": "it is a device"}
    for read in (read_picture, read_tensor, decode):
        with pytest.raises(ValueError, match=rf"broken\.png cannot be read as a picture: {words.get(damage, '')}"):
            read(path)


def test_a_pipe_among_the_pictures_does_not_hang(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(20):
            Image.fromarray(COLOUR).save(tmp_path / name / f"{index}.png")
    os.mkfifo(tmp_path / "a" / "b.png")
    code = (
        "import sys; from mixaug import MixingSet; from mixaug.evaluate import ClassSubsetFolder, PictureFolder\n"
        "from mixaug.evaluate.images import LabelledImages; from mixaug.train.data import load_data\n"
        "root = sys.argv[1]\n"
        "for read in (lambda: load_data(f'folder:{root}'), lambda: MixingSet.from_folder(root, size=16),\n"
        "             lambda: LabelledImages(PictureFolder(root)),\n"
        "             lambda: LabelledImages(ClassSubsetFolder(root, ['a', 'b']))):\n"
        "    try: read()\n"
        "    except ValueError as error: print('b.png cannot be read as a picture: it is a pipe' in str(error))\n"
    )
    made = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert made.stdout.split() == ["True"] * 4, made.stderr


@pytest.mark.parametrize("most,words", [(200, "exceeds limit"), (100, "exceeds limit")])
@pytest.mark.parametrize("filters", ["error", "ignore"])
def test_too_many_pixels_are_refused_whatever_the_warning_filters(tmp_path, monkeypatch, most, words, filters):
    Image.fromarray(COLOUR).save(tmp_path / "big.png")  # 256 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    if filters == "ignore" and most == 200:  # PIL itself only warns
        words = r"16 x 16 pixels are more than PIL.Image.MAX_IMAGE_PIXELS, 200; raise that limit"
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        with pytest.raises(ValueError, match=rf"big\.png cannot be read as a picture: .*{words}"):
            read_tensor(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_tensor(tmp_path / "big.png").shape == (3, SIDE, SIDE)


def test_threads_leave_the_warning_filters_as_they_are(tmp_path):
    for index, kind in enumerate(KINDS):
        picture, ending, options = KINDS[kind]
        picture.save(tmp_path / f"{index}.{ending}", **options)
    paths = sorted(tmp_path.iterdir())
    before, switch = list(warnings.filters), sys.getswitchinterval()
    seen = []

    def read(start):
        for round_ in range(10):
            for shift in range(len(paths)):
                read_tensor(paths[(start + shift + round_) % len(paths)])
                seen.append(warnings.filters == before)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert len(seen) == 8 * 10 * len(paths) and all(seen) and warnings.filters == before


# --- the walk -------------------------------------------------------------------------------------------------------


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _walked(root: Path, walk: FolderWalk | None = None, owner=None) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in (walk or FolderWalk()).pictures(root, owner)]


def plain_walk(root: Path) -> tuple[list[str], set[str]]:
    """The order of a tree without links, and the real files that can be reached, by a slow search."""
    ordered = []
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != "." and not os.path.islink(f"{place}/{name}"))
        ordered += [os.path.join(place, n) for n in sorted(names) if n[0] != "." and n.lower().endswith(EXTENSIONS)]
    reached, seen, waiting = set(), set(), [str(root)]
    while waiting:
        place = os.path.realpath(waiting.pop())
        if place in seen:
            continue
        seen.add(place)
        for name in os.listdir(place):
            path = f"{place}/{name}"
            if name[0] == "." or not os.path.exists(path):
                continue
            # A folder that holds the link is read anyhow, or lies above the tree.
            if os.path.isdir(path):
                if not (os.path.islink(path) and (place + "/").startswith(os.path.realpath(path).rstrip("/") + "/")):
                    waiting.append(path)
            elif name.lower().endswith(EXTENSIONS):
                reached.add(os.path.realpath(path))
    return ordered, reached


NAMES = st.sampled_from(["a", "b-1", "B", ".h", "c"])
FILES = st.sampled_from(["x.png", "y.JPG", ".z.png", "notes.txt", "w.webp"])
FOLDERS = st.lists(NAMES, max_size=3).map(tuple)
SPOTS = st.tuples(FOLDERS, FILES)
LINKS = st.lists(st.tuples(FOLDERS, st.sampled_from(["l", "m", "l.png", ".n"]), st.one_of(FOLDERS, SPOTS)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(SPOTS, max_size=8), LINKS)
def test_each_real_file_once_in_any_tree(spots, links):
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("error")
        root = Path(os.path.realpath(made)) / "root"
        root.mkdir()
        _tree(root, *("/".join([*folders, file]) for folders, file in spots))
        ordered, reached = plain_walk(root)
        found = FolderWalk().pictures(root)
        assert found == ordered and {os.path.realpath(path) for path in found} == reached
        for folders, name, target in links:
            place = root.joinpath(*folders)
            place.mkdir(parents=True, exist_ok=True)
            flat = (*target[0], target[1]) if target and isinstance(target[0], tuple) else target
            if not os.path.lexists(place / name):
                (place / name).symlink_to(root.joinpath(*flat))
        _, reached = plain_walk(root)
        found = FolderWalk().pictures(root)
        real = [os.path.realpath(path) for path in found]
        assert len(set(real)) == len(real) and set(real) == reached
        # What lies in the tree by itself keeps its own path.
        own = set(plain_walk(root)[0])
        assert all(path in found for path in own if not os.path.islink(path))


def test_links_to_folders_and_files(tmp_path):
    store = _tree(tmp_path / "store", "1.png", "in/2.png", ".hidden/3.png", "blob")
    root = _tree(tmp_path / "root", "own.png", "z/4.png")
    (root / "a").symlink_to(store)
    (root / "again").symlink_to(store / "in")
    (root / "b.png").symlink_to(store / "blob")
    (root / "c.png").symlink_to(root / "z" / "4.png")
    (root / "d.png").symlink_to(root / "b.png")
    walk = FolderWalk()
    assert _walked(root, walk) == ["b.png", "own.png", "a/1.png", "a/in/2.png", "z/4.png"]
    walk.warn_of_links()


def test_dead_links_and_loops_are_reported(tmp_path):
    root = _tree(tmp_path, "a/own.png")
    for index in range(5):
        (root / "a" / f"gone{index}.png").symlink_to("/nowhere/x.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    walk = FolderWalk()
    assert _walked(root, walk) == ["a/own.png"]
    with pytest.warns(UserWarning) as told:
        walk.warn_of_links()
    dead, loop = (str(one.message) for one in told)
    assert dead.startswith("links that lead nowhere are passed over: ") and dead.endswith("gone2.png and 3 more")
    assert loop == f"links that lead back to a folder that holds them are passed over: {root}/a/up"
    walk.warn_of_links()  # once


def test_two_links_that_lead_to_each_others_folders(tmp_path):
    root, far = _tree(tmp_path / "root", "1.png"), _tree(tmp_path / "far", "2.png")
    (root / "to").symlink_to(far)
    (far / "back").symlink_to(root)
    walk = FolderWalk()
    assert _walked(root, walk) == ["1.png", "to/2.png"]
    with pytest.warns(UserWarning, match="lead back to a folder that holds them"):
        walk.warn_of_links()


def _pictures(root: Path, *names: str) -> Path:
    _tree(root, *names)
    for name in names:
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name)
    return root


@pytest.mark.parametrize("link,target", [("b/more", "a"), ("b/x.png", "a/1.png"), ("a/x.png", "b/1.png"), ("c", "a")])
@pytest.mark.parametrize("reader", ["scan", "ClassSubsetFolder", "CorruptedSet"])
def test_one_folder_or_file_in_two_classes_is_an_error(tmp_path, reader, link, target):
    root = tmp_path / "fog" / "1" if reader == "CorruptedSet" else tmp_path
    _pictures(root, "a/1.png", "b/1.png")
    (root / link).symlink_to(root / target)
    read = {"scan": scan, "CorruptedSet": lambda _: CorruptedSet(tmp_path)}.get(
        reader, lambda _: ClassSubsetFolder(root, ["a", "b", "c"])
    )
    with pytest.raises(ValueError, match=r"must be in one class and one part of the data, but .* are the same"):
        read(root)


def test_one_file_in_two_parts_is_an_error(tmp_path):
    root = _pictures(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "val", "test") for name in "ab"))
    assert [len(part.paths) for part in scan(root)[:3]] == [2, 2, 2]
    (root / "test" / "a" / "2.png").symlink_to(root / "train" / "a" / "1.png")
    with pytest.raises(ValueError, match=r"train/a/1\.png and .*test/a/2\.png are the same file"):
        scan(root)
    (root / "test" / "a" / "2.png").unlink()
    (root / "train" / "b" / "2.png").symlink_to(root / "val" / "b" / "1.png")
    with pytest.raises(ValueError, match=r"train/b/2\.png and .*val/b/1\.png are the same file"):
        scan(root)


def test_links_to_a_file_count_once_for_joined_folders(tmp_path):
    root = _pictures(tmp_path, "b/1.png", "a/2.png")
    (root / "a" / "1.png").symlink_to(root / "b" / "1.png")
    joined = ClassSubsetFolder(root, {"a": 3, "b": 3})
    assert sorted({os.path.realpath(path) for path, _ in joined.samples}) == [
        str(root / "a/2.png"),
        str(root / "b/1.png"),
    ]
    assert joined.targets == [0, 0]


def test_hidden_names_are_passed_over_by_all(tmp_path):
    root = _pictures(
        tmp_path / "fog" / "1", "a/1.png", "a/.2.png", "a/.in/3.png", "b/1.png", ".ipynb_checkpoints/1.png"
    )
    assert scan(root)[3] == ("a", "b") and len(scan(root)[0].paths) == 2
    assert len(PictureFolder(root)) == len(ClassSubsetFolder(root, ["a", "b"])) == 2
    assert len(MixingSet.from_folder(root, size=16)) == len(load_frost_textures(root)) == 2
    assert CorruptedSet(tmp_path).labels().tolist() == [0, 1]


def test_folders_without_links_keep_torchvisions_order(tmp_path):
    from torchvision.datasets import ImageFolder

    root = _pictures(tmp_path, "a/b/2.png", "a/b-1/3.png", "a/B.png", "a/b.png", "a/b/c/4.png", "b/1.png", "b/A/1.png")
    assert ClassSubsetFolder(root, ["a", "b"]).samples == ImageFolder(root).samples


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    root = _pictures(tmp_path, "a/1.png", "b/1.png")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (scan, PictureFolder, lambda folder: ClassSubsetFolder(folder, ["a", "b"])):
        with pytest.raises(ValueError, match=r"/b must be in a readable folder of pictures, but .*Permission denied"):
            read(root)


def test_upright_by_each_orientation(tmp_path):
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        Image.fromarray(COLOUR[:10]).save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as opened:
            expected = torch.from_numpy(np.array(ImageOps.exif_transpose(opened))).permute(2, 0, 1)
        assert torch.equal(read_tensor(tmp_path / "a.png"), expected)
