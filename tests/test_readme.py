"""README and documentation say what is true: size, links, commands and snippets."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shallow_presets import LAYERS, SHALLOW_PRESETS

from dvpvae_tf.__main__ import COMMANDS

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGES = [README, *sorted(path for each in ("", "api", "results") for path in (PROJECT / "docs" / each).glob("*.md"))]
COMMAND = "python -m dvpvae_tf."

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


def text_of(page):
    return page.read_text(encoding="utf-8")


def snippets(page):
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


def commands(page):
    """The arguments of every command of the package in the page, the name of the command first."""
    for block in re.findall(r"```bash\n(.*?)```", text_of(page), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if COMMAND in line else []
            for i, word in enumerate(words):
                if word.startswith("dvpvae_tf."):
                    end = next((j for j in range(i, len(words)) if words[j] in ("&&", "|", ";")), len(words))
                    yield (word.removeprefix("dvpvae_tf."), *words[i + 1 : end])


ALL_COMMANDS = sorted({command for page in PAGES for command in commands(page)})


def test_the_readme_is_short():
    lines = text_of(README).splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_names_every_command():
    named = set(re.findall(r"`(\w+)`", text_of(README)))
    assert set(COMMANDS) <= named


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
def test_commands_are_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("tuning/best.yaml", "runs/wider/config.yaml"):
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
    else:
        parse(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_have_the_options_that_pages_give_them(page):
    for script, options in re.findall(r"python (benchmarks/\w+\.py)([^`\n#]*)", text_of(page)):
        source = text_of(PROJECT / script)
        for option in set(re.findall(r"--[\w-]+", options)) - {"--help"}:
            assert f'"{option}"' in source, (script, option)


@pytest.mark.slow
def test_the_snippets_work_as_written(tmp_path):
    docs = PROJECT / "docs"
    (readme,), (evaluation,), (sampling, pictures) = map(
        snippets, (README, docs / "evaluation.md", docs / "sampling.md")
    )
    code = SHALLOW_PRESETS + readme + CHECKS + evaluation + EVALUATION_CHECKS
    code += sampling + SAMPLING_CHECKS + "images = next(iter(test)).numpy()\n" + pictures + PICTURES_CHECKS
    run_code(code, tmp_path)


@pytest.mark.slow
def test_the_snippets_about_using_a_model_work_as_written(tmp_path):
    latents, labels, missing, large = snippets(PROJECT / "docs" / "using_a_model.md")
    code = USING + latents + LATENTS_CHECKS + labels + LABELS_CHECKS + missing + MISSING_CHECKS + large + LARGE_CHECKS
    run_code(code, tmp_path)


def run_code(code, folder):
    """Runs code as a process of its own, which must end well and without warnings."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Warning" not in result.stderr
