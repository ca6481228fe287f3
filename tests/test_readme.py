"""README and documentation say what is true: size, links, commands and snippets."""

import argparse
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from stand_ins import FEW_IMAGES, INCEPTION, LAYERS, OMNIGLOT, SHALLOW_PRESETS, SHORT_SEARCH

from dvpvae_tf.__main__ import COMMANDS

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGES = [README, *sorted(path for each in ("", "api", "results") for path in (PROJECT / "docs" / each).glob("*.md"))]
# All but those that commands write, and the list of changes.
WRAPPED_PAGES = [page for page in PAGES if page.parent.name != "results" and page.name != "changelog.md"]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))

CHECKS = f"""
import numpy as np
assert {{"negative_elbo", "bits_per_dim", "reconstruction", "kl_z", "kl_u"}} <= set(result)
assert 100 < result["negative_elbo"] < 600  # weights start unseeded; before the first step it is above 1,000
assert images.dtype == np.float32 and images.shape == (16, 28, 28, 1) and 0 <= images.min() and images.max() <= 1
np.testing.assert_array_equal(images, model.sample(16, temperature=0.9, seed=0))
assert len(inference.kl) == {LAYERS} and inference.kl[0].shape == (16,)
again = keras.saving.load_model("m.keras").evaluate(test, return_dict=True, verbose=0)
expected = model.evaluate(test, return_dict=True, verbose=0)
np.testing.assert_allclose(again["negative_elbo"], expected["negative_elbo"], rtol=1e-5)
images = next(iter(test)).numpy()[:5]
"""
EVALUATION_CHECKS = f"""
assert result.estimates.shape == (5,) and result.kl_z.shape == (5, {LAYERS})
assert result.estimates.mean() < result.negative_elbo.mean()
"""
SAMPLING_CHECKS = """
from pathlib import Path
assert drawn.images.shape == drawn.pseudoinputs.shape == (64, 28, 28, 1)
"""
PICTURES_CHECKS = """
assert Path("figure4.png").stat().st_size > 1000
assert len(rows) >= 3
"""

# Before the snippets of docs/using_a_model.md, as that page says, and after each of them.
USING = """
import numpy as np
from dvpvae_tf import DVPVAE, evaluation
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.models.refit import with_prior
from dvpvae_tf.priors import FullMixturePrior, LabelledMixturePrior
model = DVPVAE.from_preset("mnist5k", load_weights=True)
images = read_images("mnist5k")[2][:4]
mixture = FullMixturePrior(1)
mixture.build((None, *model.pseudoinput.shape))
mixture.set_gaussians(np.ones(1), np.zeros((1, 49)), np.eye(49)[None])
labelled = with_prior(model, LabelledMixturePrior.join([mixture] * 3, [0.3, 0.5, 0.2]))
small = images.reshape(4, 14, 2, 14, 2, 1).mean(axis=(2, 4)) / 255
"""
LATENTS_CHECKS = """
np.testing.assert_allclose(model.decode(latents), model.reconstruct(images), atol=1e-5)
"""
LABELS_CHECKS = """
np.testing.assert_array_equal(labels, 1)  # the classes differ in their frequencies alone
"""
MISSING_CHECKS = """
np.testing.assert_array_equal(filled.images[:, :14], images[:, :14] / np.float32(255))
assert filled.effective_draws.shape == (4,)
"""
LARGE_CHECKS = """
assert large.shape == images.shape and np.abs(large - images / 255).mean() < 0.1
"""

OMNIGLOT_CHECKS = """
import hashlib
checksum = hashlib.sha256(pathlib.Path("web/chardata.mat").read_bytes()).hexdigest()
assert checksum in pathlib.Path("checksums.tsv").read_text()
assert len(list(tfds.load("omniglot28", split="test"))) == 7
"""
TRAINING_CHECKS = """
images = next(iter(test)).numpy()[:8]
assert np.isfinite(model.evaluate(images, return_dict=True, verbose=0)["negative_elbo"])
"""
DISTANCES_CHECKS = """
assert real.shape == generated.shape == (8, 3)
"""
FOLDER_CHECKS = """
again = dvpvae_tf.DVPVAE.from_preset("my_model", load_weights=True)
np.testing.assert_array_equal(again.reconstruct(images), model.reconstruct(images))
"""
TRAINED_CHECKS = """
assert model.prior.process_name == "calibrated" and model.num_layers == 8
"""
SEARCH_CHECKS = """
names = {path.name for path in pathlib.Path("tuning_python").iterdir()}
assert {"results.md", "results.csv", "parallel_coordinates.png", "best.yaml"} <= names
assert load_config("tuning_python/best.yaml").epochs == 2
"""


class Snippet(NamedTuple):
    """A snippet of a page, by its place among them."""

    page: str
    place: int


# Each program is run in a process of its own. What stands between the snippets takes the place of data and models, or
# saves time, or checks what a snippet has done.
PROGRAMS = {
    "readme": (
        *(SHALLOW_PRESETS, Snippet("README.md", 0), CHECKS),
        *(Snippet("docs/evaluation.md", 0), EVALUATION_CHECKS),
        *(Snippet("docs/sampling.md", 0), SAMPLING_CHECKS),
        *("images = next(iter(test)).numpy()\n", Snippet("docs/sampling.md", 1), PICTURES_CHECKS),
    ),
    "using_a_model": (
        *(USING, Snippet("docs/using_a_model.md", 0), LATENTS_CHECKS),
        *(Snippet("docs/using_a_model.md", 1), LABELS_CHECKS),
        *(Snippet("docs/using_a_model.md", 2), MISSING_CHECKS),
        *(Snippet("docs/using_a_model.md", 3), LARGE_CHECKS),
    ),
    "training": (
        *(OMNIGLOT, Snippet("docs/training.md", 0), OMNIGLOT_CHECKS),
        *(SHALLOW_PRESETS, FEW_IMAGES, "import numpy as np\n", Snippet("docs/training.md", 1), TRAINING_CHECKS),
        *(INCEPTION, Snippet("docs/api/evaluation.md", 0), DISTANCES_CHECKS),
        *(Snippet("docs/training.md", 2), FOLDER_CHECKS),
        *(Snippet("docs/training.md", 3), TRAINED_CHECKS),
        *(SHORT_SEARCH, Snippet("docs/tuning.md", 0), SEARCH_CHECKS),
    ),
}


def text_of(page):
    """What a reader sees; of a notebook its text, not its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def snippets(page):
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


def shell_lines(page):
    """The lines of the page's shell commands, and all that its text has in backticks, each in one piece."""
    text = text_of(page).replace("\\\n", " ")
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"^    +(python .*)", text, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def commands(page, start, name):
    """The words of every command of the page that runs Python on what `start` and `name` match, from that on."""
    for line in shell_lines(page):
        for match in re.finditer(rf"\bpython {start}({name}\b.*)", line):
            words = [*shlex.split(match[1], comments=True), ";"]
            yield tuple(words[: min(words.index(end) for end in ("&&", "|", ";") if end in words)])


def all_commands(start, name):
    return sorted({command for page in [*PAGES, *NOTEBOOKS] for command in commands(page, start, name)})


def test_the_readme_is_short():
    lines = text_of(README).splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def lines_of_prose(page):
    """The lines that can be broken: not those of code and tables, nor pictures with their text."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    return [line for line in text.splitlines() if not line.lstrip().startswith(("|", "!["))]


@pytest.mark.parametrize("page", WRAPPED_PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_short(page):
    assert [line for line in lines_of_prose(page) if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_names_every_command():
    named = set(re.findall(r"`(\w+)`", text_of(README)))
    assert set(COMMANDS) <= named


@pytest.mark.parametrize("command", all_commands(r"-m dvpvae_tf\.", r"[a-z_]+"), ids=" ".join)
def test_commands_are_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("tuning/best.yaml", "tuning_bayesian/best.yaml", "runs/wider/config.yaml"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("base: mnist5k\n")
    name, *arguments = (word.replace("$seed", "0") for word in command)
    if name == "train":
        from dvpvae_tf.config.train_arguments import parse_train_arguments as parse
    else:
        parse = importlib.import_module(f"dvpvae_tf.{name}").parse_arguments
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            parse(arguments)
    elif arguments:  # else the text may just name the command
        parse(arguments)


class Accepted(BaseException):
    """Ends a script once it has accepted its options."""


@pytest.mark.parametrize("command", all_commands("", r"benchmarks/"), ids=" ".join)
def test_commands_of_benchmarks_are_accepted(command, monkeypatch):
    def parse_args(*arguments, parse=argparse.ArgumentParser.parse_args):
        parse(*arguments)
        raise Accepted

    monkeypatch.chdir(PROJECT)
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", list(command))
    with pytest.raises(SystemExit if "--help" in command else Accepted, match="0" if "--help" in command else None):
        runpy.run_path(command[0], run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_commands_name_what_the_project_has(page):
    setup = text_of(PROJECT / "setup.py")
    for line in shell_lines(page):
        for extras in re.findall(r"pip install .*\.\[(.+?)\]", line):
            assert all(f'"{extra}": ' in setup for extra in extras.split(",")), line
        for requirement in re.findall(r"tensorflow\[and-cuda\]([^']+)", line):
            assert f'"tensorflow{requirement}"' in setup, line
        for program in re.findall(r"\.venv/bin/(?!activate|pip|python)(\w+)", line):
            assert re.search(rf'"{program}[>=]=', setup), line
        for file in re.findall(r"(?:--file |sbatch .*?|^)((?:deploy/|\.ci/)\S+)", line):
            assert (PROJECT / file).exists(), line
        for model, body in re.findall(r"curl .*/v1/models/(\w+):predict +-d '(.*)'", line):
            assert (PROJECT / "saved_models" / model).is_dir(), line
            assert set(json.loads(body)) == {"signature_name", "instances"}
        for code in re.findall(r'python -c "([^"]*)"', line):
            compile(code, line, "exec")


def test_every_snippet_is_in_a_program():
    """Those of any other language than Python and the shell would need a test of their own."""
    assert {language for page in PAGES for language in re.findall(r"```(\w+)", text_of(page))} == {"bash", "python"}
    on_pages = {Snippet(str(page.relative_to(PROJECT)), i) for page in PAGES for i in range(len(snippets(page)))}
    assert {part for program in PROGRAMS.values() for part in program if isinstance(part, Snippet)} == on_pages


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_snippets_work_as_written(program, tmp_path):
    parts = (snippets(PROJECT / part.page)[part.place] if isinstance(part, Snippet) else part for part in program)
    run_code("".join(parts), tmp_path)


def run_code(code, folder):
    """Runs code as a process of its own, which must end well and without warnings."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TFDS_DATA_DIR": str(folder / "tfds")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Warning" not in result.stderr
