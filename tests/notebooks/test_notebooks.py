"""The notebooks run where a reader may open them, keep no outputs, and use the library instead of repeating it."""

import ast
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from mindvl.data.render.writer import render
from mindvl.phases.saving import save_model

FILES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
NOTEBOOKS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES}
MAX_CELL_LINES, MAX_FUNCTION_LINES = 30, 12
MAX_CPU_S = 60
CELL_KEYS = {
    "markdown": {"cell_type", "id", "metadata", "source"},
    "code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"},
}
INSTALLED = {"mindvl", "mindvl_callbacks", "torch", "lightning", "safetensors", "numpy", "matplotlib"}

each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def code_of(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


def nodes_of(name: str, *kinds: type[ast.AST]) -> list:
    return [node for code in code_of(name) for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]


def run(name: str) -> dict:
    """The namespace that the cells leave behind."""
    namespace = {"__name__": "__main__"}
    try:
        for number, code in enumerate(code_of(name), start=1):
            exec(compile(code, f"{name}, code cell {number}", "exec"), namespace)
    finally:  # a cell that fails leaves the folder that the last one would remove
        for value in namespace.values():
            if isinstance(value, tempfile.TemporaryDirectory):
                value.cleanup()
    return namespace


@pytest.fixture
def pyplot(tmp_path, monkeypatch):
    """Drawing without a screen, in a folder that knows no checkout; figures are closed and settings put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    with matplotlib.rc_context():
        yield plt
        plt.close("all")


def test_there_are_five_notebooks_in_the_order_of_their_numbers():
    assert [name[:2] for name in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_"]


@each_notebook
def test_a_notebook_runs_in_any_folder_within_a_minute_of_one_core_and_draws(name, pyplot):
    start_s = time.process_time()
    run(name)
    assert time.process_time() - start_s < MAX_CPU_S
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    assert len(figures) >= 2
    for figure in figures:
        figure.canvas.draw()
        colours = np.unique(np.asarray(figure.canvas.buffer_rgba()).reshape(-1, 4), axis=0)
        assert len(colours) > 10 and all(axes.has_data() for axes in figure.axes), "a figure shows nothing"


@each_notebook
def test_a_notebook_is_valid_and_keeps_no_outputs(name):
    notebook = NOTEBOOKS[name]
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each) for each in ids)
    for cell in notebook["cells"]:
        assert cell.keys() == CELL_KEYS[cell["cell_type"]] and cell["metadata"] == {}
        assert (cell.get("outputs", []), cell.get("execution_count")) == ([], None)
        *lines, last = cell["source"]
        assert all(re.fullmatch(r"[^\n]*\n", line) for line in lines) and re.fullmatch(r"[^\n]+", last)


@each_notebook
def test_every_piece_of_code_is_short_and_comes_after_prose(name):
    kinds = [cell["cell_type"] for cell in NOTEBOOKS[name]["cells"]]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    assert NOTEBOOKS[name]["cells"][0]["source"][0].startswith(f"# {name[0]}. ")
    assert max(code.count("\n") + 1 for code in code_of(name)) <= MAX_CELL_LINES


@each_notebook
def test_a_notebook_imports_the_library_and_defines_no_long_function(name):
    imported = {
        module.partition(".")[0]
        for node in nodes_of(name, ast.Import, ast.ImportFrom)
        for module in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert "mindvl" in imported and imported - INSTALLED <= sys.stdlib_module_names
    functions = nodes_of(name, ast.FunctionDef, ast.ClassDef)
    assert [it.name for it in functions if it.end_lineno - it.lineno + 1 > MAX_FUNCTION_LINES] == []


def test_averaging_takes_the_checkpoints_of_a_quickstart_that_is_there(make_model, pyplot, monkeypatch):
    quickstart = Path("runs/quickstart")
    for seed, name in enumerate(("multitask_1024", "multitask_2048", "multitask_4096", "mean")):
        save_model(make_model(seed=seed), "bytes", quickstart / name / "model")
    families = {name: {"family": name, "validation": 4, "test": 4} for name in ("ocr_line", "chart_bar")}
    render({"cell_pixels": 28, "sources": families}, quickstart / "data", workers=1)
    monkeypatch.setattr("lightning.Trainer", None)  # nothing has to be trained
    Path("notebooks").mkdir()
    monkeypatch.chdir("notebooks")
    left = run("4_averaging_and_resolution")
    assert left["quickstart"] == Path("../runs/quickstart") and left["lengths"] == [1024, 2048, 4096]
    assert [Path(source["path"]).parent.name for source in left["record"]["sources"]] == [
        "multitask_1024",
        "multitask_2048",
        "multitask_4096",
    ]
    assert left["results"].keys() == {"ocr_line", "chart_bar"}
    assert sorted(left["scores"]) == ["1024", "2048", "4096", "mean"]
