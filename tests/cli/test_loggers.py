import json
import shutil

import pytest


@pytest.fixture
def offline_wandb(monkeypatch, tmp_path):
    """W&B as on a machine without a key, in this process."""
    monkeypatch.setenv("WANDB_MODE", "offline")  # Lightning sets it as well, and would leave it behind
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("mindvl.cli.loggers.has_wandb_key", lambda: False)

    def parts():
        """Run id and file of each part, in the order of their beginnings."""
        folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_ctime)
        return [(folder.name.rpartition("-")[2], *folder.glob("*.wandb")) for folder in folders]

    return parts


def records(data):
    """Records of a .wandb file, in blocks of 32 KiB: each piece has a checksum, a length and whether it ends one."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 32768) < 7 and left:
            place += left
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        whole += data[place + 7 : place + 7 + length]
        if data[place + 6] in (1, 4):  # complete, or the last piece
            yield whole
            whole = b""
        place += 7 + length


def losses(file):
    """Optimizer step of each row with a loss, by the number that W&B gave the row."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for history in (Record.FromString(data).history for data in records(file.read_bytes())):
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history.item}
        if "train/loss" in row:
            found[history.step.num] = row["trainer/global_step"]
    return found


def test_a_run_that_goes_on_is_one_run_of_wandb_and_a_command_that_trains_nothing_is_none(
    go_on, offline_wandb, tmp_path
):
    kept = tmp_path / "run" / "wandb-run-id"
    numbers = {"log_every_n_steps": 2}

    refused = go_on(4, "--data.init_args.sequence_length", "4", **numbers)
    assert refused.status == 2 and offline_wandb() == [] and not kept.exists()

    assert go_on(4, **numbers).status == 0
    refused = go_on(6, "--data.init_args.sequence_length", "512", **numbers)
    assert refused.status == 2 and "sequence_length" in refused.err
    assert len(offline_wandb()) == 1

    assert go_on(6, **numbers).status == 0
    assert go_on(6, **numbers).status == 0  # nothing is left to train
    (first, one), (second, other) = offline_wandb()
    assert first == second and kept.read_text().split() == [first, "1"]
    # Rows that one `wandb sync` joins must be numbered apart: W&B itself would begin at 0 again.
    assert losses(one) == {0: 1.0, 1: 3.0} and losses(other) == {10_000_000: 5.0}

    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert go_on(2, **numbers).status == 0
    *_, (anew, _) = offline_wandb()
    assert len(offline_wandb()) == 3 and anew != first and kept.read_text().split() == [anew, "0"]


def test_a_try_run_of_lightning_begins_no_wandb_run(go_on, offline_wandb):
    assert go_on(4, fast_dev_run=True).status == 0
    assert offline_wandb() == []
