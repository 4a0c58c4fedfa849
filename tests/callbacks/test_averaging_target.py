import errno
import os
import shutil
import socket
import subprocess
import sys

import pytest
from mindvl_callbacks.averaging_target import check_target, new_folder


def fill(folder, text):
    (folder / "config.json").write_text(text)


def test_a_folder_appears_when_it_is_whole_and_replaces_the_one_before(tmp_path):
    out = tmp_path / "deep" / "mean"
    for text in ("one", "two"):
        with new_folder(out) as temporary:
            fill(temporary, text)
            assert not out.exists() or (out / "config.json").read_text() == "one"
        assert (out / "config.json").read_text() == text
    assert [path.name for path in out.parent.iterdir()] == ["mean"]


def test_after_an_error_nothing_is_left_and_the_one_before_stays(tmp_path):
    with new_folder(tmp_path / "mean") as temporary:
        fill(temporary, "one")
    with pytest.raises(KeyError), new_folder(tmp_path / "mean") as temporary:
        fill(temporary, "two")
        raise KeyError
    assert (tmp_path / "mean" / "config.json").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["mean"]


def test_a_disk_without_room_is_known_before_anything_is_written(tmp_path):
    with (
        pytest.raises(ValueError, match=r"mean needs 1000000000000000000 bytes, .* has \d+ free"),
        new_folder(tmp_path / "mean", needs_bytes=10**18),
    ):
        pytest.fail("it was opened")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_told_with_path_and_bytes(tmp_path):
    with (
        pytest.raises(ValueError, match=r"mean cannot be written, it needs 12 bytes: .*No space left"),
        new_folder(tmp_path / "mean", needs_bytes=12),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rename_puts_the_one_before_back(tmp_path):
    with new_folder(tmp_path / "mean") as temporary:
        fill(temporary, "one")
    with pytest.raises(ValueError, match="cannot be written"), new_folder(tmp_path / "mean") as temporary:
        fill(temporary, "two")
        shutil.rmtree(temporary)
    assert (tmp_path / "mean" / "config.json").read_text() == "one"


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_what_a_killed_process_left_is_cleared_away_and_what_it_was_replacing_comes_back(tmp_path):
    host, dead, alive = socket.gethostname(), dead_process(), os.getppid()
    for name in (f".mean.averaging-{host}-{dead}", f".mean.averaging-{host}-{alive}", ".mean.averaging-elsewhere-1"):
        (tmp_path / name).mkdir()
    before = tmp_path / f".mean.replaced-{host}-{dead}"
    before.mkdir()
    fill(before, "before")
    with pytest.raises(KeyError), new_folder(tmp_path / "mean"):
        raise KeyError
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mean", f".mean.averaging-{host}-{alive}", ".mean.averaging-elsewhere-1"}
    assert (tmp_path / "mean" / "config.json").read_text() == "before"


def test_what_may_not_be_replaced_is_refused(tmp_path):
    out = tmp_path / "out"
    check_target(out, overwrite=False)
    out.mkdir()
    with pytest.raises(ValueError, match="exists and is no saved model; it would be lost"):
        check_target(out, overwrite=True)
    fill(out, "model")
    with pytest.raises(ValueError, match="exists; choose another folder, or replace it on purpose"):
        check_target(out, overwrite=False)
    check_target(out, overwrite=True)
    with pytest.raises(ValueError, match=r"out would overwrite .*m\.safetensors, which goes into the average"):
        check_target(out, overwrite=True, sources=(out / "m.safetensors",))
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(ValueError, match="link exists and is no saved model"):
        check_target(tmp_path / "link", overwrite=True)
