"""The chain of pages of a TIFF, looked at before a library believes what the pages declare."""

from typing import BinaryIO, NamedTuple

import numpy as np

from common.data.image_layout import COPY_AGAIN, Refused

# Each costs 20 microseconds. Those of honest files hold something, and 64 bytes on average.
_SEGMENTS, _SEGMENT_BYTES = 2**17, 64
_MOST_TAGS, _MOST_TAGS_OF_A_PAGE = 2**18, 4096
# Pages may share a little; what they all share would be read again for every one of them.
_SHARED = 2**24
_OFFSETS = (273, 324)  # of strips, of tiles
# Bytes of a value of type 0, 1, ...; one that is unknown counts as the longest.
_BYTES = np.array([8, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 8, 8, 8, 8, 8])


class _Form(NamedTuple):
    """How numbers are kept: where the first link is, and types of links, tag counts and tags."""

    first: int
    link: np.dtype
    number: np.dtype
    tag: np.dtype


def count_pages(file: BinaryIO, max_pages: int) -> int:
    """Follows the chain from page to page, and adds up what their tags declare.

    Raises:
        Refused: the chain is closed, too long or leads out of the file, or the pages declare more
            tags, strips or bytes of values than any image needs.
    """
    form, size = _form(file.read(4)), file.seek(0, 2)
    place, seen, totals = form.first, set(), np.zeros(3)
    while offset := _number(file, place, form.link):
        if offset in seen or offset >= size:
            raise _lost()
        if len(seen) == max_pages:
            raise Refused(f"holds more than {max_pages} pages", "split it into several files")
        seen.add(offset)
        tags = _tags(file, offset, form)
        segments = tags["count"][np.isin(tags["code"], _OFFSETS)].sum(dtype=float)
        kinds = np.minimum(tags["type"], len(_BYTES) - 1)
        totals += len(tags), segments, np.dot(tags["count"].astype(float), _BYTES[kinds])
        place = offset + form.number.itemsize + tags.nbytes
    _check(totals, size)
    return len(seen)


def _form(start: bytes) -> _Form:
    order, big = "<" if start[:2] == b"II" else ">", b"+" in start
    link, number = (np.dtype(order + kind) for kind in (("u8", "u8") if big else ("u4", "u2")))
    short = np.dtype(order + "u2")
    tag = np.dtype([("code", short), ("type", short), ("count", link), ("value", link)])
    return _Form(8 if big else 4, link, number, tag)


def _number(file: BinaryIO, place: int, kind: np.dtype) -> int:
    file.seek(place)
    data = file.read(kind.itemsize)
    if len(data) < kind.itemsize:
        raise _lost()
    return int(np.frombuffer(data, kind)[0])


def _tags(file: BinaryIO, offset: int, form: _Form) -> np.ndarray:
    count = _number(file, offset, form.number)
    if count > _MOST_TAGS_OF_A_PAGE:
        raise Refused(f"has a damaged header ({count} tags of one page)", COPY_AGAIN)
    data = file.read(count * form.tag.itemsize)
    if len(data) < count * form.tag.itemsize:
        raise _lost()
    return np.frombuffer(data, form.tag)


def _check(totals: np.ndarray, size: int) -> None:
    allowed = (_MOST_TAGS, max(_SEGMENTS, size // _SEGMENT_BYTES), size + _SHARED)
    for what, wanted, most in zip(
        ("tags", "strips", "bytes of tags"), totals, allowed, strict=True
    ):
        if wanted > most:
            raise Refused(f"declares {wanted:.0f} {what}, more than {most}")


def _lost() -> Refused:
    return Refused("has a chain of pages that leads nowhere", COPY_AGAIN)
