"""The notebooks run from top to bottom, and what is committed of them is what a reader should see."""

import ast
import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from stand_ins import FEW_IMAGES, SHALLOW_PRESETS

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install '.[test]'")

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
# What the cell of settings says instead, so that a notebook runs in a minute.
REDUCED = {
    "01_quickstart": {"EPOCHS": 1},
    "02_how_it_works": {"TOY_STEPS": 20, "TOY_SAMPLES": 100, "IMAGES": 20, "EPOCHS": 1},
    "03_your_own_images": {"STRIDE": 32, "EPOCHS": 1, "TEST_IMAGES": 20, "SAMPLES": 2},
    "04_bounds": {"TOY_IMAGES": 8, "TOY_EPOCHS": 1, "TOY_SAMPLES": 2, "IMAGES": 4, "SAMPLES": 4, "PRIOR_STEPS": 20},
    "05_using_a_model": {"IMAGES": 20, "ROUNDS": 2, "CHAINS": 2, "COLUMNS": 10},
}
# Ten steps of two layers show what a hundred of eight do, and so do graphs that TensorFlow has not rewritten.
SMALLER = f"""{SHALLOW_PRESETS}{FEW_IMAGES}
import tensorflow as _tf

_tf.config.optimizer.set_experimental_options({{"disable_meta_optimizer": True}})
"""
WHAT_WAS_READ = re.compile(r".*: \d+ pictures of \d+ x \d+ pixels \(RGB \d+\).*\n")  # of a folder: no warning
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|var|usr|opt|mnt|work|Users)/|\b[A-Z]:\\")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def settings_cell(notebook):
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def outputs(notebook, kind):
    return [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == kind]


def errors_and_warnings(notebook):
    warnings = [output for output in outputs(notebook, "stream") if output.name == "stderr"]
    return outputs(notebook, "error") + [output for output in warnings if not WHAT_WAS_READ.fullmatch(output.text)]


def pictures(notebook):
    shown = [*outputs(notebook, "execute_result"), *outputs(notebook, "display_data")]
    return [base64.b64decode(output.data["image/png"]) for output in shown if "image/png" in output.data]


def texts(notebook):
    """All that a reader reads: the cells, and what they printed."""
    yield from (cell.source for cell in notebook.cells)
    yield from (output.text for output in outputs(notebook, "stream"))
    for kind in ("execute_result", "display_data"):
        yield from (output.data.get("text/plain", "") for output in outputs(notebook, kind))


def test_there_are_five_notebooks_and_a_reduced_size_of_each():
    assert len(NOTEBOOKS) == 5
    assert {path.stem for path in NOTEBOOKS} == set(REDUCED)


@every_notebook
def test_the_reduced_sizes_are_of_settings_that_the_notebook_has(path):
    assignments = ast.parse(settings_cell(read(path)).source).body
    names = {target.id for assignment in assignments for target in assignment.targets}
    assert names >= set(REDUCED[path.stem])


@every_notebook
def test_it_was_committed_after_a_run_from_top_to_bottom_without_errors(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert errors_and_warnings(notebook) == []


@every_notebook
def test_it_shows_no_machine_paths_and_no_warnings(path):
    for text in texts(read(path)):
        assert not MACHINE_PATH.search(text), text
        assert "Warning" not in text, text


@every_notebook
def test_it_shows_pictures(path):
    shown = pictures(read(path))
    assert len(shown) >= 2
    for file in shown:
        with Image.open(io.BytesIO(file)) as picture:
            assert len(set(picture.convert("L").getdata())) > 2  # not blank


@pytest.mark.slow
@every_notebook
def test_it_runs_at_reduced_size(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install '.[test]'")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # the tests' own; a reader has none
    notebook = read(path)
    for name, value in REDUCED[path.stem].items():
        settings_cell(notebook).source += f"\n{name} = {value!r}"
    settings_cell(notebook).source += SMALLER
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=folder).execute()
    assert errors_and_warnings(notebook) == []
    assert len(pictures(notebook)) == len(pictures(read(path)))
