"""What a user installs: the wheel holds everything and works where there is no checkout."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

DATA_FILES = {
    "mindvl/py.typed",
    "mindvl_callbacks/py.typed",
    "mindvl/recipe/report.html.j2",
    "mindvl/routing/report.html.j2",
}
LOOK = """
import sys
wheel, libraries = sys.argv[1:]
sys.path[:0] = [wheel]
sys.path.append(libraries)
import mindvl, mindvl_callbacks
import mindvl.cli.lightning_cli, mindvl.recipe.command  # all rooms and the callbacks
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("mindvl", "mindvl_callbacks")]
print(*sorted(module.__file__ for module in ours), sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, repository / "tests" / "build_wheel.py", folder], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_data_file_of_both_packages(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        Path(package, path.relative_to(repository / folder)).as_posix()
        for folder, package in (("mindvl", "mindvl"), ("callbacks", "mindvl_callbacks"))
        for path in (repository / folder).rglob("*.py")
    }
    assert held == ours | DATA_FILES


def test_the_wheel_brings_the_console_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "mindvl = mindvl.cli.main:console" in archive.read(name).decode()


def test_both_packages_import_from_the_wheel_alone(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # -I and -S: no working directory, no PYTHONPATH, and no .pth file that leads an editable install to the checkout.
    command = [sys.executable, "-I", "-S", "-c", LOOK, str(site), sysconfig.get_paths()["purelib"]]
    looked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert looked.returncode == 0, looked.stderr
    files = [Path(line) for line in looked.stdout.splitlines()]
    assert {file.relative_to(site).parts[0] for file in files} == {"mindvl", "mindvl_callbacks"}
