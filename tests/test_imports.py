"""Imports between the folders of the package go one way, and the picture in the documentation shows that order."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dvpvae_tf"
PICTURE = PACKAGE.parent / "docs" / "architecture.svg"
# From the bottom up: a part imports from the rows before its own, never from its own row or a later one.
ROWS = [
    {"errors", "noise", "backend"},
    {"files", "optimizers"},
    {"config", "layers"},
    {"priors", "data", "distribute"},
    {"models"},
    {"evaluation", "pictures"},
    {"training", "serving"},
    {"tuning", "experiments"},
    {"command_line"},
]
ROW = {part: number for number, row in enumerate(ROWS) for part in row}
COMMANDS = len(ROWS)  # the modules beside the folders that are not named above; these may import one another


def part_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_parts(source):
    """The folders and modules of the package that a source file imports, also inside its functions."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            package, _, rest = name.partition(".")
            part = rest.partition(".")[0]
            if package == PACKAGE.name and ((PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()) and part:
                yield part


def imports_between_parts():
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    pairs = {(part_of(path), part) for path in files for part in imported_parts(path.read_text(encoding="utf-8"))}
    return {(importer, imported) for importer, imported in pairs if importer != imported}


def goes_down(importer, imported):
    row = ROW.get(importer, COMMANDS)
    return ROW.get(imported, COMMANDS) < row or row == COMMANDS


def test_imports_go_one_way():
    assert not {pair for pair in imports_between_parts() if not goes_down(*pair)}


def test_every_folder_has_a_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(ROW)
    assert {part for part in ROW if not (PACKAGE / part).is_dir()} <= {path.stem for path in PACKAGE.glob("*.py")}


@pytest.mark.parametrize(
    "source",
    ["from dvpvae_tf.models.build import x", "import dvpvae_tf.models", "def f():\n    from dvpvae_tf import models"],
)
def test_every_kind_of_import_is_seen(source):
    assert list(imported_parts(source)) == ["models"]


def test_the_picture_shows_the_folders_in_this_order():
    heights = {
        name: int(y)
        for y, name in re.findall(r'y="(\d+)"[^>]*class="name">(\w+)/<', PICTURE.read_text(encoding="utf-8"))
    }
    folders = {part: row for part, row in ROW.items() if (PACKAGE / part).is_dir()}
    assert heights.keys() == folders.keys()
    for below, above in ((a, b) for a in folders for b in folders if folders[a] < folders[b]):
        assert heights[below] > heights[above], (below, above)
