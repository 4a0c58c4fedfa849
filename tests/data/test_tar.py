"""A tar is read whole or refused by name; it is never taken for a shorter one."""

import io
import tarfile

import pytest

from mindvl.data.tar import Member, scan_members

MEMBERS = [("one.json", b"{}"), ("two.json", b"x" * 700), ("two.0.png", b"\0" * 1024), ("three.json", b"y")]


def tar_of(members, **info) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=info.pop("format", tarfile.PAX_FORMAT)) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def scan(data: bytes) -> list[Member]:
    return scan_members(io.BytesIO(data), "shard.tar", len(data))


@pytest.fixture(scope="module")
def tar() -> bytes:
    return tar_of(MEMBERS)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_member_is_found_at_its_offset_in_every_tar_format(format):
    data = tar_of(
        [*MEMBERS, (f"{'long' * 30}/name.json", b"long")][: 4 if format == tarfile.USTAR_FORMAT else 5], format=format
    )
    for member, (name, content) in zip(scan(data), [*MEMBERS, (f"{'long' * 30}/name.json", b"long")], strict=False):
        assert member.name == name and data[member.offset : member.offset + member.size] == content


def test_links_folders_and_devices_are_passed_over():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("../../etc/passwd.json")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a.json")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"{}"))
    assert [member.name for member in scan(buffer.getvalue())] == ["a.json"]


def test_a_tar_cut_at_any_block_boundary_is_refused(tar):
    end = scan(tar)[-1].offset + 512
    for size in range(512, end + 512, 512):
        with pytest.raises(ValueError, match=r"shard shard\.tar (ends early|is not a readable tar)"):
            scan(tar[:size])


def test_a_tar_cut_inside_a_member_is_refused(tar):
    with pytest.raises(ValueError, match=r"shard shard\.tar (ends early|is not a readable tar)"):
        scan(tar[: scan(tar)[1].offset + 300])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("change", ["flip", "zero"])
def test_a_damaged_or_zeroed_later_header_is_refused(change, number, tar):
    """Also where zeros follow: the third member's content begins with two blocks of them."""
    header = scan(tar)[number].offset - 512
    broken = bytearray(tar)
    if change == "flip":
        broken[header + 5] ^= 1
    else:
        broken[header : header + 512] = bytes(512)
    with pytest.raises(ValueError, match=r"ends early: members stop at byte \d+ of \d+.*samples after .* are lost"):
        scan(bytes(broken))


def test_a_second_tar_behind_the_first_is_refused_not_passed_over(tar):
    with pytest.raises(ValueError, match="more data follows where a header should be"):
        scan(tar + tar)


def test_a_tar_whose_first_header_is_damaged_is_refused(tar):
    with pytest.raises(ValueError, match=r"shard\.tar is not a readable tar"):
        scan(b"\xff" + tar[1:])


def test_zero_bytes_and_a_tar_without_members_are_refused():
    with pytest.raises(ValueError, match=r"shard\.tar is empty: 0 bytes"):
        scan(b"")
    with pytest.raises(ValueError, match=r"shard\.tar is empty: no sample in 10240 bytes"):
        scan(tar_of([]))


def test_what_is_no_tar_is_refused():
    with pytest.raises(ValueError, match=r"shard\.tar is not a readable tar"):
        scan(b"hello " * 1000)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.json", ("a", "json")),
        ("x/a.0.PNG", ("x/a", "0.png")),
        ("v1.2/a.json", ("v1.2/a", "json")),
        ("README", None),
        (".hidden", None),
    ],
)
def test_a_name_splits_at_the_first_dot_after_the_last_slash(name, parts):
    assert Member(name, 0, 0).key_and_extension == parts
