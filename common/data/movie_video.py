"""Video files for `movies`: AVI, MP4 and Matroska, through the libraries that PyAV brings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from common.data.image_decoded import Image
from common.data.image_io import DEFAULT_LIMITS
from common.data.image_layout import COPY_AGAIN, Refused
from common.storage import whole_file

SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm")
# Named to the library: left to guess, it would also open playlists that lead to other files.
_CONTAINERS = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (4, b"ftyp", "mp4"),
)
_DEEP_GREY = {"gray10le": 10, "gray12le": 12, "gray16le": 16, "gray16be": 16}


def count_frames(file: BinaryIO) -> int:
    """Frames that the container tells of, or those whose packets it holds where these are more.

    The whole file is read for that: an interrupted or patched writer tells of too few, and an MP4
    in fragments of those of the first alone.

    Raises:
        Refused: no such container, or one without pictures.
    """
    with _stream(file) as stream:
        told = stream.frames
        return max(told, sum(packet.size > 0 for packet in stream.container.demux(stream)))


def read_frames(file: BinaryIO) -> Iterator[Image]:
    """Frames in the order of their display: grey as it is, colours as 8-bit red, green and blue.

    A video file tells how fast it is shown, not how fast it was recorded: there is no interval.

    Raises:
        Refused: as `count_frames`, or another number of frames than the container tells of.
    """
    with _stream(file) as stream:
        count = 0
        for frame in stream.container.decode(stream):
            count += 1
            yield _image(frame)
        if count < stream.frames:
            problem = f"tells of {stream.frames} frames, of which {count} can be decoded"
            raise Refused(problem, COPY_AGAIN)


def write_video(path: Path, frames: np.ndarray, rate: int) -> None:
    """Writes frames as MPEG-4, which loses detail: to look at, not to measure.

    Args:
        path: of the MP4; an existing file is replaced at once or not at all.
        frames: uint8 [T, H, W], grey, or [T, H, W, 3], red, green and blue; sides are made even by
            repeating the last row or column.
        rate: frames a second.

    Raises:
        UserError: the file cannot be written.
    """
    missing = [(0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)]
    even = np.pad(frames, missing[: frames.ndim], mode="edge")
    form = "gray" if frames.ndim == 3 else "rgb24"
    with whole_file(path, parents=True) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
        # Quality 2 of 31: the best that is not the largest.
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=form)))
        container.mux(stream.encode())


@contextmanager
def _stream(file: BinaryIO) -> Iterator[av.VideoStream]:
    start = file.read(12)
    file.seek(0)
    known = (name for at, magic, name in _CONTAINERS if start[at:].startswith(magic))
    kind = next(known, None)
    if kind is None:
        raise Refused("is no AVI, MP4 or Matroska video, whatever its name says")
    with av.open(file, format=kind, metadata_errors="replace") as container:
        if not container.streams.video:
            raise Refused("holds no video stream", COPY_AGAIN)
        stream = container.streams.video[0]
        if not 0 < stream.width * stream.height <= DEFAULT_LIMITS.max_pixels:
            raise Refused(f"declares frames of {stream.width} x {stream.height} pixels")
        # The order in which threads finish must not matter.
        stream.codec_context.thread_count = 1
        yield stream


def _image(frame: av.VideoFrame) -> Image:
    if bits := _DEEP_GREY.get(frame.format.name):
        return Image(frame.to_ndarray(format=frame.format.name), "YX", None, ("grey",), bits)
    if frame.format.name == "gray":
        return Image(frame.to_ndarray(), "YX", None, ("grey",), 8)
    pixels = np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0)
    return Image(np.ascontiguousarray(pixels), "CYX", None, ("red", "green", "blue"), 8)
