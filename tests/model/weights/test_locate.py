"""A folder is itself; a hub id is its snapshot on this machine; anything else is neither."""

import os
import subprocess
import sys

import pytest

from mindvl.model.weights.locate import folder_of


def test_a_local_folder_is_itself(tmp_path):
    assert folder_of(str(tmp_path)) == tmp_path == folder_of(tmp_path, weights=False)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model.safetensors is a file; a model is the folder that holds it"):
        folder_of(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["./absent", "/no/such/folder", "a/b/c", "runs/ sft"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(ValueError, match="there is no such folder, and a hub id looks like"):
        folder_of(name)


def located(name, cache, **download) -> str:
    """`folder_of` in a process that may not use the network."""
    code = "\n".join(
        [
            "from mindvl.model.weights.locate import folder_of",
            f"try: print(folder_of({name!r}, **{download!r}))",
            "except ValueError as error: print(error)",
        ]
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_hub_id_is_its_snapshot(tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--made--up" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    other = snapshot.with_name("f" * 40)
    other.mkdir()
    (other / "config.json").write_text("{}")
    (tmp_path / "models--made--up" / "refs").mkdir()
    (tmp_path / "models--made--up" / "refs" / "main").write_text(revision)
    assert located("made/up", tmp_path).strip() == str(snapshot)
    assert located("made/up", tmp_path, revision="f" * 40).strip() == str(other)
    assert "made/absent: there is no such folder, and as a hub id it cannot be fetched" in located(
        "made/absent", tmp_path
    )
