"""What lies where: the top level, sizes of files, docstrings, and the list of packages."""

import ast
import subprocess
import tomllib

import pytest

MAX_LINES = 350
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "mindvl", "callbacks", "configs", "notebooks", "tests"),
    *("LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt"),
}


@pytest.fixture(scope="module")
def modules(repository):
    return sorted(path for folder in ("mindvl", "callbacks") for path in (repository / folder).rglob("*.py"))


def test_the_top_level_holds_only_what_the_design_allows(repository):
    command = ["git", "ls-files", "-z"]
    try:
        listing = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    top = {name.split("/")[0] for name in listing.split("\0") if name}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_is_over_350_lines(repository):
    lines = {
        str(path.relative_to(repository)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("mindvl", "callbacks", "configs", "tests")
        for path in (repository / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".j2")
    }
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_the_callbacks_folder_holds_modules_the_marker_of_types_and_a_readme(repository):
    held = {path.name for path in (repository / "callbacks").iterdir() if path.suffix != ".py"} - {"__pycache__"}
    assert held == {"py.typed", "README.md"}


def test_no_file_is_called_utils(repository):
    named = [path for folder in ("mindvl", "callbacks", "tests") for path in (repository / folder).rglob("*.py")]
    assert [str(path) for path in named if path.stem in ("util", "utils", "misc", "common")] == []


def test_every_module_says_what_it_is(modules, repository):
    silent = [
        str(path.relative_to(repository))
        for path in modules
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, "\n" + "\n".join(silent)


def test_the_package_list_equals_the_folders(modules, repository):
    with (repository / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(repository) for path in modules}
    names = {".".join(folder.parts) for folder in folders}
    assert "callbacks" in names and not any(name.startswith("callbacks.") for name in names), "callbacks/ is flat"
    assert len(listed) == len(set(listed))
    assert set(listed) == names - {"callbacks"} | {"mindvl_callbacks"}


def test_every_package_has_an_init_file(modules, repository):
    folders = sorted({path.parent for path in modules})
    assert [str(folder.relative_to(repository)) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_no_test_folder_is_a_package(repository):
    """With one in tests/callbacks/, `callbacks` would mean the folder of tests."""
    assert list((repository / "tests").rglob("__init__.py")) == []
