"""Archives in memory, good and evil."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

PACKERS = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress,
           ".tar.xz": lzma.compress}  # fmt: skip
Entry = tuple[str, bytes]


def zipped(*entries: Entry | zipfile.ZipInfo) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            if isinstance(entry, zipfile.ZipInfo):
                archive.writestr(entry, b"elsewhere")
            else:
                archive.writestr(*entry)
    return stream.getvalue()


def tarred(*entries: Entry | tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return stream.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("evil.png")
    info.type, info.linkname = kind, target
    return info


def external(kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("evil.png")
    info.external_attr = (kind | 0o777) << 16
    return info
