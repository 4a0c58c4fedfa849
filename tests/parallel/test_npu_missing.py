"""A machine without NPUs says in one sentence what it lacks."""

import os
import subprocess
import sys
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from mindvl.parallel.npu import NPUAccelerator, require_npu
from mindvl.parallel.npu_missing import failed_autoload

LIBRARY = "libhccl.so: cannot open shared object file: No such file or directory"


@pytest.fixture
def without_npu(monkeypatch):
    monkeypatch.delattr(torch, "npu", raising=False)
    monkeypatch.setitem(sys.modules, "torch_npu", None)


@pytest.fixture
def without_cann(tmp_path):
    """A folder with a torch_npu as pip leaves it on a machine where its libraries are missing."""

    def install(error: str = "ImportError"):
        (tmp_path / "torch_npu").mkdir()
        (tmp_path / "torch_npu" / "__init__.py").write_text(f"raise {error}({LIBRARY!r})\n")
        info = tmp_path / "torch_npu-2.13.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.13.0\n")
        (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
        return tmp_path

    return install


def test_a_trainer_without_torch_npu_says_what_to_install(without_npu):
    with pytest.raises(ValueError, match="not installed here; on a machine with Ascend NPUs and CANN: pip install"):
        L.Trainer(accelerator="npu", devices=1)


def test_mindvl_fit_without_torch_npu_is_one_line(without_npu, capfd, monkeypatch, tmp_path):
    from mindvl.cli.main import main

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's own calls
    monkeypatch.delenv("MINDVL_TRACEBACK", raising=False)
    data = ["--data=mindvl.data.module.PackedShards", "--data.train={}", "--data.sequence_length=64"]
    root = f"--trainer.default_root_dir={tmp_path}"
    assert main(["fit", "--model=mindvl.phases.Multitask", *data, root, "--trainer.accelerator=npu"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        "mindvl fit: accelerator npu needs torch_npu, which is not installed here; on a machine with Ascend NPUs and "
        'CANN: pip install "mindvl[npu]"'
    )


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_a_torch_npu_without_cann_names_the_library_that_is_missing(error, without_cann, monkeypatch):
    monkeypatch.delattr(torch, "npu", raising=False)
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    monkeypatch.syspath_prepend(without_cann(error))
    with pytest.raises(ValueError) as refused:
        require_npu()
    assert str(refused.value) == (
        f"torch_npu is installed but does not load ({LIBRARY}): install CANN, source its set_env.sh in this shell, or "
        "uninstall torch_npu"
    )


def test_a_torch_npu_that_sees_no_device_names_what_shows_and_hides_them(monkeypatch):
    monkeypatch.setattr(torch, "npu", SimpleNamespace(device_count=lambda: 0), raising=False)
    assert not NPUAccelerator.is_available()
    with pytest.raises(ValueError, match=r"sees no device: `npu-smi info` .* ASCEND_RT_VISIBLE_DEVICES"):
        require_npu()


def test_a_door_that_torch_cannot_open_for_torch_npu_says_so_in_one_line(without_cann):
    environment = {**os.environ, "PYTHONPATH": str(without_cann()), "OMP_NUM_THREADS": "1"}
    environment.pop("MINDVL_TRACEBACK", None)
    command = [sys.executable, "-m", "mindvl.cli.main", "fit"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"mindvl fit: torch cannot load torch_npu, which is installed here ({LIBRARY}): install CANN, source its "
        "set_env.sh in this shell, or go on without NPUs with TORCH_DEVICE_BACKEND_AUTOLOAD=0"
    ]


def test_other_errors_of_an_import_are_not_explained_away():
    assert failed_autoload(RuntimeError("operator torchvision::nms does not exist")) is None
