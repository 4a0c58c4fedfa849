"""timm's tower, in a process of its own: timm brings torchvision, which must not be in the environment of other tests.

`make test` unpacks both into .timm/, a folder that no environment sees; there this file's checks find them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindvl.model.config import MindVLConfig
from mindvl.model.mindvl import MindVL

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
LANGUAGE = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}


def test_timm_is_not_in_the_environment_of_the_other_tests():
    installed = subprocess.run([sys.executable, "-c", "import timm"], capture_output=True, cwd="/")
    assert installed.returncode, (
        "timm brings torchvision, whose wheel may break torch; `make test` keeps both in .timm/"
    )


def test_without_timm_the_config_is_known_and_the_tower_refused_with_the_extra_to_install():
    config = MindVLConfig({"model_type": "naflexvit"}, LANGUAGE, image_token_id=1)
    assert config.pixel_factor == 32 and config.vision_config.out_hidden_size == 32
    with pytest.raises(ImportError, match=r"needs timm, and timm is not installed: pip install 'mindvl\[timm\]'"):
        MindVL(config)


def test_the_tower_of_timm_passes_its_checks():
    packages = REPOSITORY / ".timm"
    if not (packages / "timm").is_dir():
        pytest.skip("no timm in .timm/; `make .timm/.installed` puts it there")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "torchvision_ops",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(HERE)]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, str(HERE / "naflexvit_checks.py")], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    passed = re.search(r"^(\d+) passed in", run.stdout, re.MULTILINE)
    assert run.returncode == 0 and passed and int(passed[1]) > 15, run.stdout[-6000:] + run.stderr[-2000:]
