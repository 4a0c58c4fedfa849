"""A small shard written member by member, so that a test can say exactly what is wrong with it."""

from __future__ import annotations

import pytest


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
