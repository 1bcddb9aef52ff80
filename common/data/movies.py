"""Movies: files, or folders `.zarr`, of which each moment of time is an image.

A still is a movie of one moment. The content decides what a file is, except that a folder is
OME-Zarr and a file with the name of a video is one.
"""

from collections.abc import Iterator
from pathlib import Path

from common.data import image_io, movie_video, movie_zarr
from common.data.image_decoded import Image
from common.data.image_io import opened, reading
from common.data.listing import find_files

SUFFIXES = (*image_io.SUFFIXES, *movie_video.SUFFIXES)


def find_movies(root: str | Path) -> list[Path]:
    """Every image, video and OME-Zarr folder below a folder; see `listing.find_files`."""
    return find_files(root, SUFFIXES, (movie_zarr.SUFFIX,))


def count_frames(path: str | Path, root: str | Path | None = None) -> int:
    """Moments of time of one movie, without decoding any.

    Args:
        path: of the file or folder.
        root: folder that it, with all links followed, must lie in.

    Raises:
        UserError: as `image_io.read_image`.
    """
    path = Path(path)
    if is_folder(path):
        with reading(path, root):
            return movie_zarr.count_frames(path)
    if _is_video(path):
        with opened(path, root) as (file, _):
            return movie_video.count_frames(file)
    return image_io.count_frames(path, root)


def read_frames(path: str | Path, root: str | Path | None = None) -> Iterator[Image]:
    """The images of one movie in their order, one at a time; arguments as of `count_frames`."""
    path = Path(path)
    if is_folder(path):
        with reading(path, root):
            yield from movie_zarr.read_frames(path)
    elif _is_video(path):
        with opened(path, root) as (file, _):
            yield from movie_video.read_frames(file)
    else:
        yield from image_io.read_frames(path, root)


def read_still(path: str | Path, root: str | Path | None = None) -> Image:
    """All that one movie holds as one image, with all its axes; arguments as of `count_frames`.

    Of videos and OME-Zarr this is the first moment.
    """
    path = Path(path)
    if is_folder(path) or _is_video(path):
        return next(read_frames(path, root))
    return image_io.read_image(path, root=root)


def is_folder(path: Path) -> bool:
    """Whether a path is a movie that is kept as a folder."""
    return path.suffix.lower() == movie_zarr.SUFFIX and path.is_dir()


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in movie_video.SUFFIXES
