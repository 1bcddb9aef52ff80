"""Things in a folder that look like images, and images that do not look like it."""

import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import imagecodecs

from bad_input.cases import Case, reads, refuses
from bad_input.encoders import PIXELS, encoded, tiff

UNKNOWN = "no image of a known kind"
HTML = "<!DOCTYPE html><html><title>404</title><body>Not found</body></html>"
# Names that a file system takes and a terminal, a shell, a page or a table may stumble over.
NAMES = (
    "new\nline.png", "\x1b[31m red.png", "back\b\b\bspace.png", "\u202egnp.exe", " .png", "-rf.png",
    "--help", "%s%n.png", "$(touch x).png", "'; drop table images; --.png", "=1+1.png",
    "<img src=x onerror=alert(1)>.png", "images.png.exe", "über größe 漢字.png",
    "e\u0301.png", "CON", "a" * 251 + ".png", os.fsdecode(b"\xff\xfe.png"),
    os.fsdecode(b"caf\xe9 \x80.tif"),
)  # fmt: skip


def entries() -> Iterator[Case]:
    yield from _of_other_kinds()
    yield from (reads(name, encoded("PNG"), PIXELS) for name in NAMES)
    yield from (refuses(f"empty {name}"[-250:], b"", "is empty") for name in NAMES)
    yield from _no_regular_files()
    yield from _links()


def _of_other_kinds() -> Iterator[Case]:
    texts = {
        "empty.tif": "", "page.png": HTML, "words.jpg": "no image\n", "list.tif": '{"a": [1, 2]}',
        "table.bmp": "x,y\n1,2\n", "drawing.png": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "pointer.png": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    }  # fmt: skip
    for name, text in texts.items():
        yield refuses(name, text.encode(), UNKNOWN if text else "is empty")
        yield refuses(f"wide {name}", text.encode("utf-16"), UNKNOWN)
    binary = {
        "zeros.png": bytes(5000), "ones.tif": b"\xff" * 5000, "archive.tif": b"PK\3\4" + bytes(99),
        "squeezed.png": b"\x1f\x8b\x08" + bytes(99), "array.tif": b"\x93NUMPY\1\0" + bytes(99),
        "paper.jpg": b"%PDF-1.7\n", "program.png": b"\x7fELF" + bytes(99), "one byte.gif": b"G",
        "webp.png": imagecodecs.webp_encode(PIXELS[..., None].repeat(3, -1)),
        "avif.png": imagecodecs.avif_encode(PIXELS[..., None].repeat(3, -1)),
        "qoi.png": imagecodecs.qoi_encode(PIXELS[..., None].repeat(3, -1)),
        "hdf.tif": b"\x89HDF\r\n\x1a\n" + bytes(99), "pickle.png": b"\x80\4\x95" + bytes(99),
    }  # fmt: skip
    for name, data in binary.items():
        yield refuses(name, data, UNKNOWN)
    for kind in ("jp2", "j2k"):
        data = imagecodecs.jpeg2k_encode(PIXELS, codecformat=kind)
        yield refuses(f"{kind}.tif", data, "is a JPEG 2000 file")
    yield reads("really a TIFF.jpg", tiff(), PIXELS)
    yield reads("no ending", encoded("BMP"), PIXELS)


def _no_regular_files() -> Iterator[Case]:
    yield Case("pipe.png", os.mkfifo, "a pipe or device")
    yield Case("socket.png", _make_socket, "a pipe or device")
    yield Case("folder.png", Path.mkdir, "is a folder")
    yield Case("missing.png", lambda path: None, "cannot be found")
    yield Case("a" * 300 + ".png", lambda path: None, "File name too long")
    yield Case("sparse.png", partial(_make_sparse, size=2**40), UNKNOWN)


def _links() -> Iterator[Case]:
    targets = {
        "to nothing.png": ("nothing", "leads nowhere"),
        "to itself.png": ("to itself.png", "leads nowhere"),
        "to a pipe.png": ("pipe.png", "a pipe or device"),
        "to a folder.png": ("folder.png", "is a folder"),
        "out.png": ("../outside.png", "lies outside"),
        "out by its root.png": ("/dev/zero", "lies outside"),
        "to a process.png": ("/proc/self/mem", "lies outside"),
        "to all.png": ("/", "lies outside"),
    }
    for name, (target, words) in targets.items():
        yield Case(name, partial(_link, target=target), words)
    inside = Case("inside.png", partial(_link, target="no ending"), pixels=PIXELS, axes="YX")
    yield inside


def _make_socket(path: Path) -> None:
    # The name of a socket may have some hundred bytes only, and the folder has a long one.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def _make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def _link(path: Path, target: str) -> None:
    path.symlink_to(target)
