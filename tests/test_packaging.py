"""What a person gets who installs the package."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from dvpvae_tf.config import list_presets

PROJECT = Path(__file__).parents[1]
TRAIN = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/python -m dvpvae_tf.train"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"


def test_the_readme_has_the_two_commands():
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("python3 -m venv")] == [TRAIN, TEST]


# An installed package


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the package was installed into from a clone that is gone."""
    pytest.importorskip("setuptools", "70.1", reason="needs setuptools 70.1: pip install '.[test]'")
    clone, site = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("site")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, clone)
    for name in ("dvpvae_tf", "configs", "tests", "benchmarks"):
        shutil.copytree(PROJECT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--target", site, clone], check=True)
    shutil.rmtree(clone)
    return site


def test_presets_checksums_and_trained_models_are_found_after_the_clone_is_gone(installed, tmp_path):
    code = (
        "import dvpvae_tf, keras\n"
        "keras.saving.get_registered_object('dvpvae_tf>DVPVAE').from_config\n"
        "from pathlib import Path\n"
        "from dvpvae_tf.config import find_preset, list_presets, load_config\n"
        "print(dvpvae_tf.__file__)\n"
        "for name in list_presets(): load_config(name); print(find_preset(name))\n"
        "print(*Path(dvpvae_tf.__file__).parent.glob('data/checksums.tsv'))\n"
        "for name in ('mnist', 'mnist_plus', 'mnist5k', 'mnist_ladder'):\n"
        "    prior = dvpvae_tf.DVPVAE.from_preset(name, load_weights=True).prior\n"
        "    print(type(prior).__name__, getattr(prior, 'calibrated_steps', None))\n"
    )
    without_log_level = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**without_log_level, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, ""), "TensorFlow prints nothing of its own either"
    package = installed / "dvpvae_tf"
    presets = [package / "configs" / f"{name}.yaml" for name in list_presets()]
    expected = [package / "__init__.py", *presets, package / "data" / "checksums.tsv"]
    *found, mnist, steps, mnist_plus, _, mnist5k, _, mnist_ladder, _ = result.stdout.split()
    assert found == [str(path) for path in expected]
    assert (mnist, mnist_ladder) == ("DiffusionPrior", "NoneType") and int(steps) > 1
    assert mnist_plus == mnist5k == "FullMixturePrior"


def test_type_checkers_see_that_the_package_is_typed(installed):
    assert (installed / "dvpvae_tf" / "py.typed").is_file()


def test_nothing_but_the_package_is_installed(installed):
    assert (installed / "bin" / "dvpvae").exists()
    folders = {path.name for path in installed.iterdir()} - {"bin"}
    assert {re.sub("-.*dist-info", ".dist-info", name) for name in folders} == {
        "dvpvae_tf",
        "dvpvae_tf.dist-info",
    }


def test_every_import_is_required_and_every_requirement_imported(installed):
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    requirements = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)$", metadata, re.MULTILINE)
    required = {_normal(name) for name, rest in requirements if "extra ==" not in rest or "serving" in rest}
    modules = {
        module.split(".")[0]
        for path in (PROJECT / "dvpvae_tf").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for module in _imported_by(node)
    }
    modules -= sys.stdlib_module_names | {"dvpvae_tf", "torch"}  # torch is an extra
    distributions = packages_distributions()
    imported = {_normal(distributions[module][0]) for module in modules}
    # TensorFlow's summaries need tensorboard, TensorFlow Datasets importlib_resources; neither requires it.
    assert required == imported | {"tensorboard", "importlib-resources"}


def _imported_by(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) else []


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
