import io
import tarfile
from collections.abc import Callable

import pytest

from models.bundle import pack, unpack
from models.errors import RegistryError

FILES = {
    "risk/2026-02-14.3f9c/arrays.safetensors": b"x" * 700,
    "risk/2026-02-14.3f9c/golden.safetensors": b"",
    "risk/2026-02-14.3f9c/manifest.json": b"{}",
}


def test_what_was_packed_is_unpacked() -> None:
    assert unpack(pack(FILES)) == FILES


def test_the_same_files_give_the_same_bytes_in_whatever_order() -> None:
    assert pack(dict(reversed(FILES.items()))) == pack(FILES)


def test_a_long_name_is_packed_too() -> None:
    files = {f"{'n' * 64}/2026-02-14.3f9c0123/arrays.safetensors": b"1"}
    assert unpack(pack(files)) == files


def test_any_tar_shows_what_is_in_a_bundle() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(FILES))) as opened:
        read = {each: opened.extractfile(each) for each in opened.getnames()}
        assert {name: file.read() for name, file in read.items() if file is not None} == FILES


def a_tar(*members: tuple[str, bytes], **fields: object) -> bytes:
    """A tar archive as others make them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


NAME = "risk/2026-02-14.3f9c/manifest.json"


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 1024, id="no file"),
        pytest.param(a_tar((NAME, b"{}")), id="another writer's"),
        pytest.param(a_tar(("../../etc/passwd", b"")), id="a path that leads out"),
        pytest.param(a_tar(("/etc/passwd", b"")), id="a path from the root"),
        pytest.param(a_tar(("risk/2026-02-14.3f9c/../../x", b"")), id="a path that leads up"),
        pytest.param(a_tar((NAME, b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"), id="a symbolic link"),
        pytest.param(a_tar((NAME, b""), type=tarfile.LNKTYPE, linkname="x"), id="a hard link"),
        pytest.param(a_tar((NAME, b""), type=tarfile.CHRTYPE), id="a device"),
        pytest.param(a_tar((NAME, b""), type=tarfile.FIFOTYPE), id="a pipe"),
        pytest.param(a_tar((NAME, b"{}"), mode=0o777), id="a file to run"),
        pytest.param(a_tar(("a" * 200, b"")), id="a name in a header of its own"),
    ],
)
def test_what_no_export_writes_is_refused(bundle: bytes) -> None:
    with pytest.raises(RegistryError, match="no bundle"):
        unpack(bundle)


WHOLE = pack(FILES)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda b: b + b, id="twice"),
        pytest.param(lambda b: b[:-1024] + b, id="names twice"),
        pytest.param(lambda b: b + b"\0", id="longer"),
        pytest.param(lambda b: b[:-1], id="shorter"),
        pytest.param(lambda b: b[:600], id="ends within a file"),
        pytest.param(lambda b: b.replace(b"00000001274", b"77777777777", 1), id="a size beyond its end"),
        pytest.param(lambda b: b[:1300] + b"!" + b[1301:], id="something in the padding"),
    ],
)
def test_a_damaged_bundle_is_refused(change: Callable[[bytes], bytes]) -> None:
    assert change(WHOLE) != WHOLE
    with pytest.raises(RegistryError, match="no bundle"):
        unpack(change(WHOLE))
