"""Raw folders with something wrong in them, and what `prepare` must make of each."""

import atexit
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bad_input.encoders import encoded, png_of_zeros, tiff
from common.data.image_io import find_images, read_image

FINE, REFUSED = 0, 3


@dataclass(frozen=True)
class Fault:
    """Something planted in a folder of good images.

    Attributes:
        name: what it is.
        plant: is given the raw folder and one of its images, a PNG's worth of pixels.
        codes: exit codes that are right; a single one where every data set must agree.
        words: of the sentence, if it is refused.
        same: whether the data set must come out as if nothing were there.
        ordinary: run without the rights of root, whom no permission stops.
    """

    name: str
    plant: Callable[[Path, Path], object]
    codes: tuple[int, ...] = (FINE,)
    words: str = ""
    same: bool = True
    ordinary: bool = False


def faults(of_files: bool = True) -> list[Fault]:
    """All of them, or only those that depend on how a data set is laid out; the first is none."""
    common = [*_bad_images(), *_bad_roots()] if of_files else []
    return [*_passed_over(), *_layouts(), *common]


def tell_use(file: str) -> None:
    """At the end of this process: writes the bytes and processor seconds that it took from now."""
    before = _use()
    atexit.register(
        lambda: Path(file).write_text(" ".join(str(int(u)) for u in np.subtract(_use(), before)))
    )


def _use() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_maxrss * 1024, used.ru_utime + used.ru_stime


def _passed_over() -> list[Fault]:
    """What lies around in folders and is no image of the data set."""
    return [
        Fault("nothing wrong", lambda root, image: None),
        Fault("a link to the root", lambda root, image: _link(image.parent / "loop", root)),
        Fault("links in a circle", _circle),
        Fault("a link to itself", lambda root, image: _link(image.parent / "self", "self")),
        Fault("a link to other images", _link_to_folder),
        Fault("a link to another image", _link_to_file),
        Fault("a link to nothing", lambda root, image: _link(image.parent / "gone.png", "x")),
        Fault("a link to the whole disk", lambda root, image: _link(root / "disk", "/")),
        Fault("a pipe called an image", lambda root, image: os.mkfifo(image.parent / "pipe.png")),
        Fault("a pipe", lambda root, image: os.mkfifo(root / "pipe")),
        Fault("a link to a pipe", _link_to_pipe),
        Fault("hidden files", _hide),
        Fault("what macOS leaves behind", _macos),
        Fault("what Windows leaves behind", _windows),
        Fault("an archive", lambda root, image: (root / "all.zip").write_bytes(b"PK\3\4" * 99)),
        Fault("empty folders, 200 deep", _deep),
        Fault("ten thousand other files", _crowd),
        Fault("a folder called an image", lambda root, image: (image.parent / "x.png").mkdir()),
        Fault("odd names of other files", _odd_names),
    ]


def _bad_images() -> list[Fault]:
    """One image that cannot be used among many that can: it must be named."""
    text = b"<html>404 Not Found</html>"
    tall = png_of_zeros(30_016, 30_016, 1)
    return [
        _bad("an empty image", lambda image: image.write_bytes(b""), "is empty"),
        _bad("a page called an image", lambda image: image.write_bytes(text), "no image"),
        _bad("half an image", _halve, ""),
        _bad("a blank image", lambda image: _repaint(image, lambda pixels: pixels * 0), "is blank"),
        _bad("a stack", lambda image: image.write_bytes(_stack(image)), ""),
        _bad("two kinds of pixels", lambda image: _repaint(image, np.float32), "float32"),
        _bad("not a number", lambda image: _repaint(image, _with_nan), "NaN"),
        _bad("900 megapixels", lambda image: image.write_bytes(tall), "pixels"),
        _bad("a terabyte", lambda image: os.truncate(image, 2**40), "", (FINE, REFUSED)),
        _bad("an image that may not be read", lambda image: image.chmod(0), "Permission denied",
             ordinary=True),
        Fault("no good image at all", _spoil_all, (REFUSED,), "more", same=False),
    ]  # fmt: skip


def _bad_roots() -> list[Fault]:
    """The folder itself."""

    gone = "is not a folder"
    return [
        Fault("a path too long", _too_deep, (REFUSED,), "File name too long", False),
        Fault("an empty folder", _empty, (REFUSED,), "holds no image", False),
        Fault("no folder", lambda root, image: shutil.rmtree(root), (REFUSED,), gone, False),
        Fault("a file", partial(_replace_root, Path.touch), (REFUSED,), gone, False),
        Fault(
            "a pipe instead of a folder", partial(_replace_root, os.mkfifo), (REFUSED,), gone, False
        ),
        Fault("the folder links to itself", _link_root_to_itself, (REFUSED,), gone, False),
        Fault("the folder is a link", _link_root),
        _closed("a folder that may not be listed", 0),
        _closed("a folder that may only be listed", 0o444),
    ]


def _layouts() -> list[Fault]:
    """What one data set takes and another refuses; never more than one sentence."""
    either = (FINE, REFUSED)
    return [
        Fault("an image of no class", _copy_to("stray.png"), either, "stray.png", False),
        Fault("an unknown class", _copy_to("Unheard of/1.png"), either, "Unheard of", False),
        Fault(
            "an image far down", _copy_to("/".join("abcdefghij" * 5) + "/1.png"), either, "", False
        ),
        Fault("an empty class", _empty_class, either, "", False),
        Fault("names that differ in case", _other_case, either, "", False),
        Fault("the same folder in capitals", _capitals, either, "", False),
        Fault("the same image under other names", _copies, either, "", False),
        Fault("names that are no text", _names_of_images, either, "", False),
        Fault("images with two links each", _hard_links, either, "", False),
        Fault("one image left", _keep_one, (REFUSED,), "", False),
    ]


def _bad(
    name: str,
    spoil: Callable[[Path], object],
    words: str,
    codes: tuple[int, ...] = (REFUSED,),
    ordinary: bool = False,
) -> Fault:
    return Fault(name, lambda root, image: spoil(image), codes, words, False, ordinary)


def _closed(name: str, mode: int) -> Fault:
    def close(root: Path, image: Path) -> None:
        image.parent.chmod(mode)

    return Fault(name, close, (REFUSED,), "Permission denied", False, ordinary=True)


def _link(path: Path, target: Path | str) -> None:
    path.symlink_to(target)


def _outside(root: Path, image: Path) -> Path:
    other = root.with_name("outside")
    other.mkdir()
    (other / "outside.png").write_bytes(_picture(99))
    return other


def _circle(root: Path, image: Path) -> None:
    for name, target in (("one", "two"), ("two", "one")):
        (root / f"folder {name}").mkdir()
        _link(root / f"folder {name}" / "on", root / f"folder {target}")


def _link_to_folder(root: Path, image: Path) -> None:
    _link(image.parent / "elsewhere", _outside(root, image))


def _link_to_file(root: Path, image: Path) -> None:
    _link(image.parent / "elsewhere.png", _outside(root, image) / "outside.png")


def _link_to_pipe(root: Path, image: Path) -> None:
    os.mkfifo(root / "pipe")
    _link(image.parent / "pipe.tif", root / "pipe")


def _hide(root: Path, image: Path) -> None:
    (root / ".git").mkdir()
    for path in (root / ".DS_Store", image.parent / ".hidden.png", root / ".git/index.png"):
        path.write_bytes(b"\0")


def _macos(root: Path, image: Path) -> None:
    below = root / "__MACOSX" / image.parent.relative_to(root)
    below.mkdir(parents=True)
    for path in (below / f"._{image.name}", below / image.name, image.with_name(f"._{image.name}")):
        path.write_bytes(b"\0\5\x16\7")


def _windows(root: Path, image: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", "ehthumbs.db"):
        (image.parent / name).write_bytes(b"\xd0\xcf\x11\xe0")


def _deep(root: Path, image: Path) -> None:
    root.joinpath(*["d"] * 200).mkdir(parents=True)


def _too_deep(root: Path, image: Path) -> None:
    """Folders below folders, until no path can name the lowest."""
    before = Path.cwd()
    os.chdir(root)
    try:
        for _ in range(30):
            name = "deep" * 60
            Path(name).mkdir()
            os.chdir(name)
        Path("lowest.png").touch()
    finally:
        os.chdir(before)


def _crowd(root: Path, image: Path) -> None:
    for number in range(10_000):
        (root / f"{number}.csv").touch()


def _odd_names(root: Path, image: Path) -> None:
    for name in (b"\xff\xfe.txt", b"new\nline", b"\x1b]0;title\x07.csv", b"-", b"a" * 255):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).touch()


def _halve(image: Path) -> None:
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def _repaint(image: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image.write_bytes(tiff(change(read_image(image).pixels), metadata=None))


def _stack(image: Path) -> bytes:
    pixels = read_image(image).pixels
    return tiff(np.stack([pixels, pixels[::-1], pixels // 2]), metadata=None)


def _with_nan(pixels: np.ndarray) -> np.ndarray:
    damaged = pixels.astype(np.float32)
    damaged.flat[7] = np.nan
    return damaged


def _spoil_all(root: Path, image: Path) -> None:
    for path in find_images(root):
        path.write_bytes(b"GIF89a")


def _empty(root: Path, image: Path) -> None:
    for path in find_images(root):
        path.unlink()
    shutil.rmtree(root)
    root.mkdir()


def _replace_root(make: Callable[[Path], object], root: Path, image: Path) -> None:
    shutil.rmtree(root)
    make(root)


def _link_root_to_itself(root: Path, image: Path) -> None:
    shutil.rmtree(root)
    _link(root, root.name)


def _link_root(root: Path, image: Path) -> None:
    real = root.rename(root.with_name("real"))
    _link(root, real.name)


def _copy_to(name: str) -> Callable[[Path, Path], object]:
    def plant(root: Path, image: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_picture(1))

    return plant


def _empty_class(root: Path, image: Path) -> None:
    for path in find_images(image.parent):
        path.unlink()


def _other_case(root: Path, image: Path) -> None:
    image.with_name(image.name.swapcase()).write_bytes(_picture(1))


def _capitals(root: Path, image: Path) -> None:
    folder = image.parent.with_name(image.parent.name.swapcase())
    folder.mkdir()
    (folder / "other.png").write_bytes(_picture(1))


def _copies(root: Path, image: Path) -> None:
    for name in ("copy of it.png", "IMAGE.TIF", "copy (2).jpeg"):
        shutil.copy(image, image.with_name(name))


def _names_of_images(root: Path, image: Path) -> None:
    names = (b"\xff\xfe.png", b"new\nline.png", b"\x1b[31mred.png", b"=1+1.png", b"<b>.png")
    for seed, name in enumerate(names):
        folder = os.fsencode(image.parent)
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(_picture(seed))


def _hard_links(root: Path, image: Path) -> None:
    for path in find_images(image.parent):
        os.link(path, path.with_name(f"again {path.name}"))


def _keep_one(root: Path, image: Path) -> None:
    for path in find_images(root):
        if path != image:
            path.unlink()


def _picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 44), np.uint8)
    return encoded("PNG", pixels)
