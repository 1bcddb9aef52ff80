"""Archives are strangers: what they may do to a folder, and what they may not."""

import gzip
import io
import lzma
import os
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data import archives
from common.data.archives import DEFAULT_LIMITS, Limits, extracted, is_archive
from common.errors import Exit, UserError
from made_archives import PACKERS, external, special, tarred, zipped

CONTENT = {"a/1.png": b"one" * 1000, "a/2.png": b"", "b/ü 3.png": os.urandom(70_000)}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def refused(archive: Path, home: Path, *words: str, limits: Limits = DEFAULT_LIMITS) -> str:
    before = archive.read_bytes(), sorted(archive.parent.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        extracted(archive, home, limits)
    text = str(caught.value)
    assert caught.value.code == Exit.INPUT and caught.value.kept == "nothing was imported"
    assert len(text.splitlines()) == 1
    for word in (archive.name, *words):
        assert word in text
    made = set(archive.parent.parent.rglob("*")) - set(before[1])
    assert not [path for path in made if path not in (home, home.parent)], made
    assert archive.read_bytes() == before[0]
    return text


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "incoming").mkdir()
    return tmp_path / "data/raw"


@pytest.mark.parametrize("ending", [".zip", *PACKERS])
def test_every_kind_is_unpacked_once_and_never_changed(
    ending: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pack = zipped if ending == ".zip" else lambda *entries: PACKERS[ending](tarred(*entries))
    archive = write(tmp_path / f"incoming/my data{ending}", pack(*CONTENT.items()))
    before = archive.read_bytes()
    assert is_archive(archive)
    folder = extracted(archive, home)
    assert folder.parent == home and folder.name.startswith("my data-")
    assert contents(folder) == CONTENT
    assert "extracting" in capsys.readouterr().out
    (folder / "a/1.png").write_bytes(b"changed here")
    assert extracted(archive, home) == folder
    assert (folder / "a/1.png").read_bytes() == b"changed here"
    assert capsys.readouterr().out == "" and archive.read_bytes() == before
    assert [path.name for path in home.iterdir()] == [folder.name]


def test_another_content_of_the_same_name_gets_another_folder(home: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "incoming/x.zip", zipped(("1.png", b"one")))
    first = extracted(archive, home)
    write(archive, zipped(("1.png", b"two")))
    second = extracted(archive, home)
    assert contents(first) == {"1.png": b"one"} and contents(second) == {"1.png": b"two"}


def test_the_content_decides_what_a_file_is(home: Path, tmp_path: Path) -> None:
    mislabelled = write(tmp_path / "incoming/x.zip", gzip.compress(tarred(("1.png", b"one"))))
    assert contents(extracted(mislabelled, home)) == {"1.png": b"one"}
    for name, data in (("1.png", b"\x89PNG\r\n\x1a\n"), ("x.zip", b""), ("notes.txt", b"PK")):
        assert not is_archive(write(tmp_path / name, data))
    os.mkfifo(tmp_path / "pipe.zip")
    assert not is_archive(tmp_path / "pipe.zip") and not is_archive(tmp_path)


def test_folders_and_dotted_names_are_kept_apart_from_leading_dots(
    home: Path, tmp_path: Path
) -> None:
    folder = tarfile.TarInfo("./empty/")
    folder.type = tarfile.DIRTYPE
    data = tarred(folder, ("./a/./1..png", b"one"), ("a/...", b"two"))
    made = extracted(write(tmp_path / "incoming/x.tar", data), home)
    assert contents(made) == {"a/1..png": b"one", "a/...": b"two"}
    assert (made / "empty").is_dir()


def test_permissions_and_owners_are_not_taken_over(home: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    info.mode, info.uid = 0o6777, 4242
    folder = extracted(write(tmp_path / "incoming/x.tar", tarred(info)), home)
    in_zip = zipfile.ZipInfo("2.png")
    in_zip.external_attr = (stat.S_IFREG | 0o6777) << 16
    other = extracted(write(tmp_path / "incoming/y.zip", zipped(in_zip)), home)
    for path in (folder / "1.png", other / "2.png"):
        assert path.stat().st_mode & 0o7111 == 0 and path.stat().st_uid == os.geteuid()


def test_names_that_are_not_marked_as_utf8_are_read_as_such_where_they_are(
    home: Path, tmp_path: Path
) -> None:
    data = zipped(("Zürich/ä.png", b"one"))
    # Bit 11 of the flags, in the local header and in the directory.
    unmarked = data.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")
    assert unmarked != data
    folder = extracted(write(tmp_path / "incoming/x.zip", unmarked), home)
    assert contents(folder) == {"Zürich/ä.png": b"one"}


def test_names_in_other_bytes_come_out_of_a_tar_as_they_are(home: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"latin\xe9.png")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system refuses such names")
    folder = extracted(write(tmp_path / "incoming/x.tar", tarred((name, b"one"))), home)
    assert contents(folder) == {name: b"one"}


GOOD = ("a/1.png", b"one")
HOSTILE_NAMES = {
    "../evil.png": "leads out",
    "a/../../evil.png": "leads out",
    "a/..": "leads out",
    "/tmp/evil.png": "absolute",
    "//evil.png": "absolute",
    "C:/evil.png": "absolute",
    "c:evil.png": "absolute",
    "a\\..\\evil.png": "backslash",
    "x" * 256 + ".png": "too long",
    "é" * 130: "too long",
    "a/" * 70 + "evil.png": "too deep",
    "y/" * 30 + "abcdefghijkl/" * 200: "too long",
    "a/1.png": "occurs twice",
    "./a//1.png": "occurs twice",
    "A/1.PNG": "occurs twice",
    "A/2.png": "occurs twice",
    "a/1.png/2.png": "occurs twice",
    "a": "occurs twice",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_named_and_nothing_is_imported(
    name: str, pack: Callable[..., bytes], home: Path, tmp_path: Path
) -> None:
    name = name.removesuffix("/") if len(name) > 2000 else name
    ending = ".zip" if pack is zipped else ".tar"
    archive = write(tmp_path / f"incoming/x{ending}", pack(GOOD, (name, b"evil"), ("z.png", b"z")))
    text = refused(archive, home, HOSTILE_NAMES.get(name, "too"))
    assert name[:20] in text.replace("\\\\", "\\") and len(text) < 600


@pytest.mark.parametrize(
    "info",
    [
        special(tarfile.SYMTYPE, "/etc/passwd"),
        special(tarfile.SYMTYPE, "a/1.png"),
        special(tarfile.LNKTYPE, "a/1.png"),
        special(tarfile.CHRTYPE),
        special(tarfile.BLKTYPE),
        special(tarfile.FIFOTYPE),
        special(tarfile.GNUTYPE_SPARSE),
        special(b"Z"),
    ],
    ids=lambda info: info.type.decode(),
)
def test_a_tar_holds_nothing_but_files_and_folders(
    info: tarfile.TarInfo, home: Path, tmp_path: Path
) -> None:
    archive = write(tmp_path / "incoming/x.tar.gz", gzip.compress(tarred(GOOD, info)))
    is_link = info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE)
    refused(archive, home, "evil.png", "is a link" if is_link else "")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_zip_holds_nothing_but_files_and_folders(kind: int, home: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "incoming/x.zip", zipped(GOOD, external(kind)))
    refused(archive, home, "evil.png", "is a link" if kind == stat.S_IFLNK else "neither")


def test_an_encrypted_member_is_named(home: Path, tmp_path: Path) -> None:
    data = zipped(GOOD, ("secret.png", b"xyz"))
    local, central = data.rindex(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
    data = bytearray(data)
    data[local + 6] |= 1
    data[central + 8] |= 1
    refused(write(tmp_path / "incoming/x.zip", bytes(data)), home, "secret.png", "encrypted")


def test_a_compression_that_is_not_read_is_named(home: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.png", b"one")
    refused(write(tmp_path / "incoming/x.zip", stream.getvalue()), home, "1.png", "compressed")


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_bomb_is_refused_before_it_fills_the_disk(
    ending: str, home: Path, tmp_path: Path
) -> None:
    zeros = [(f"{k}.png", bytes(30_000_000)) for k in range(3)]
    if ending == ".zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_BZIP2) as archive:
            for entry in zeros:
                archive.writestr(*entry)
        data = stream.getvalue()
    else:
        data = PACKERS[ending](tarred(*zeros))
    limits = Limits(max_expansion=500)
    refused(write(tmp_path / f"incoming/x{ending}", data), home, "500 times", limits=limits)


def test_members_and_bytes_have_a_limit(home: Path, tmp_path: Path) -> None:
    entries = [(f"{k % 3}/{k}.png", b"some bytes") for k in range(30)]
    for pack, ending in ((zipped, "zip"), (tarred, "tar")):
        archive = write(tmp_path / f"incoming/x.{ending}", pack(*entries))
        refused(archive, home, "more than 29 files", limits=Limits(max_members=29))
        # The three folders count as well.
        refused(archive, home, "more than 32 files", limits=Limits(max_members=32))
        refused(archive, home, "28.png", "more than 289 bytes", limits=Limits(max_bytes=289))
    assert len(contents(extracted(archive, home, Limits(max_members=33, max_bytes=300)))) == 30


def test_a_zip_that_lies_about_a_size_is_refused(home: Path, tmp_path: Path) -> None:
    data = bytearray(zipped(GOOD, ("lie.png", b"x" * 5000)))
    central = data.rindex(b"PK\x01\x02")
    for declared in (10, 100_000):
        data[central + 24 : central + 28] = struct.pack("<L", declared)
        refused(write(tmp_path / "incoming/x.zip", bytes(data)), home, "lie.png")


def test_bytes_that_overlap_do_not_get_past_the_limit(home: Path, tmp_path: Path) -> None:
    data = zipped(("0.png", bytes(1_000_000)))
    start = data.index(b"PK\x01\x02")
    entry, end = data[start : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    count = 2000
    end = end[:8] + struct.pack("<HHL", count, count, count * len(entry)) + end[16:]
    archive = write(tmp_path / "incoming/x.zip", data[:start] + entry * count + end)
    refused(archive, home, "0.png")


@pytest.mark.parametrize("ending", [".zip", *PACKERS])
def test_a_damaged_archive_is_never_half_an_import(ending: str, home: Path, tmp_path: Path) -> None:
    entries = [(f"{k}.png", os.urandom(3000)) for k in range(20)]
    data = zipped(*entries) if ending == ".zip" else PACKERS[ending](tarred(*entries))
    # The tar is cut everywhere, also where a member ends and where the padding begins.
    step = 512 if ending == ".tar" else len(data) // 23
    content_end = len(data) if ending != ".tar" else 20 * (512 + 3072)
    for length in range(step, content_end, step):
        archive = write(tmp_path / f"incoming/cut{ending}", data[:length])
        refused(archive, home, "damaged or cut short")
    middle = bytearray(data)
    middle[len(data) // 2 // 512 * 512 : len(data) // 2 // 512 * 512 + 600] = b"?" * 600
    if ending != ".tar":
        refused(write(tmp_path / f"incoming/x{ending}", bytes(middle)), home, "damaged")


def test_a_damaged_header_in_a_tar_is_not_taken_for_its_end(home: Path, tmp_path: Path) -> None:
    entries = [(f"{k}.png", os.urandom(1024)) for k in range(10)]
    data = bytearray(tarred(*entries))
    data[5 * 1536 + 150] ^= 0x55
    archive = write(tmp_path / "incoming/x.tar", bytes(data))
    with tarfile.open(archive) as opened:
        assert len(opened.getnames()) == 5
    refused(archive, home, "4.png", "the last that can be read")


def test_what_follows_the_end_of_a_tar_is_not_lost_in_silence(home: Path, tmp_path: Path) -> None:
    two = tarred(("1.png", b"one")) + tarred(("2.png", b"two"))
    refused(write(tmp_path / "incoming/x.tar", two), home, "1.png", "the last that can be read")


def test_a_tar_that_leads_back_or_claims_a_huge_header_ends_at_once(
    home: Path, tmp_path: Path
) -> None:
    for kind, size in ((b"0", -512), (b"x", -512), (b"x", 2**33), (b"L", 2**33), (b"g", 2**62)):
        info = tarfile.TarInfo("evil.png")
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        header[156:157] = kind
        header[124:136] = (size & (2**96 - 1) | (1 << 95)).to_bytes(12, "big")
        if size < 0:
            header[124] = 0xFF
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        packed = gzip.compress(tarred(GOOD)[:1024] + bytes(header) + bytes(10_000_000))
        refused(write(tmp_path / "incoming/x.tar.gz", packed), home)


def test_a_header_of_digits_costs_no_time(home: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    info.pax_headers = {"comment": "7" * 50_000}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    refused(write(tmp_path / "incoming/x.tar", stream.getvalue()), home, "digits in a row")


def test_xz_that_needs_too_much_memory_is_refused(home: Path, tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    data = lzma.compress(tarred(GOOD), filters=filters)
    refused(write(tmp_path / "incoming/x.tar.xz", data), home, "to unpack")


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path / "incoming/x.zip", zipped(("1.png", bytes(3 * 2**20))))
    usage = archives.shutil.disk_usage(tmp_path)._replace(free=2 * 2**20)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="needs 3 MiB, and 2 MiB are free") as caught:
        extracted(archive, home)
    assert caught.value.code == Exit.STORAGE and not home.exists()


def test_a_full_disk_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path / "incoming/x.zip", zipped(*CONTENT.items()))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_blocks", full)
    with pytest.raises(UserError, match="No space left") as caught:
        extracted(archive, home)
    assert caught.value.code == Exit.STORAGE and list(home.iterdir()) == []


@pytest.mark.parametrize("ending", [".zip", *PACKERS])
def test_any_mutation_is_read_or_refused(ending: str, home: Path, tmp_path: Path) -> None:
    entries = [(f"{'ab'[k % 2]}/{k}{'x' * (60 * k)}.png", bytes(600)) for k in range(4)]
    pack = zipped if ending == ".zip" else lambda *entries: PACKERS[ending](tarred(*entries))
    data, drawn = pack(*entries), random.Random(ending)
    for _ in range(80):
        mutated = bytearray(data)
        for _ in range(drawn.choice((1, 1, 4))):
            start = drawn.randrange(len(mutated))
            length = drawn.choice((0, 1, 1, 1, 50, 600))
            mutated[start : start + length] = drawn.randbytes(drawn.choice((0, 1, 1, 1, 50)))
        archive = write(tmp_path / f"incoming/x{ending}", bytes(mutated))
        try:
            extracted(archive, home)
        except UserError as error:
            assert error.code == Exit.INPUT and "x" + ending in str(error)


def test_a_control_character_in_a_name_reaches_no_terminal(home: Path, tmp_path: Path) -> None:
    data = tarred(("../\x1b[2Jevil.png", b""))
    assert "\x1b" not in refused(write(tmp_path / "incoming/x.tar", data), home, "evil.png")
