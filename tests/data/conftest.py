"""Small shards written member by member, so that a test can say exactly what is wrong with one."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def record():
    """JSON bytes of a conversation of `turns` exchanges with `images` pictures in its first."""

    def make(question: str = "?", answer: str = "a", *, images: int = 0, turns: int = 1) -> bytes:
        messages = []
        for turn in range(turns):
            content = [{"type": "image"}] * (images if turn == 0 else 0) + [{"type": "text", "text": question}]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        return json.dumps({"messages": messages}).encode()

    return make


@pytest.fixture(scope="session")
def write_tar():
    """A tar of (name, bytes) members at a path."""

    def write(path: Path, members: list[tuple[str, bytes]]) -> str:
        with tarfile.open(path, "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return str(path)

    return write


@pytest.fixture
def shard(tmp_path, picture, record, write_tar) -> str:
    """Three good samples, the second with two pictures."""
    members = [
        ("one.json", record("first")),
        ("two.json", record("second", images=2)),
        ("two.0.png", picture(28, 56)),
        ("two.1.jpg", picture(84, 28, format="JPEG")),
        ("three.json", record("third", images=1)),
        ("three.png", picture(30, 40)),
    ]
    return write_tar(tmp_path / "shard.tar", members)
