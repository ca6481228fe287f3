"""How commands start: help and mistakes before TensorFlow is imported, and the program `dvpvae`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvpvae_tf import __main__ as program
from dvpvae_tf.config.datasets import NAMED_DATASETS
from dvpvae_tf.data.pipelines import read_images

PROJECT = Path(__file__).parents[2]
SELDOM_NEEDED = ("tensorflow_datasets", "tensorflow_probability", "keras_tuner")
# TensorFlow, and what it and Keras import with them.
OF_TENSORFLOW = ("tensorflow", "keras", "scipy", "sklearn", "requests", "matplotlib")
# Where TensorFlow is imported, the process ends with a code of its own, or as by Ctrl-C.
INSTEAD_OF_TENSORFLOW = f"""
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name in {OF_TENSORFLOW + SELDOM_NEEDED}:
            raise KeyboardInterrupt if "CTRL_C" in os.environ else SystemExit(77)
sys.meta_path.insert(0, Finder())
"""
# Prints which of the modules in argv are imported with the package, and after a command that finds no model.
IMPORT_AND_RUN = """
import contextlib, sys
import dvpvae_tf
loaded = {"import dvpvae_tf": set(sys.modules)}
from dvpvae_tf import decode, encode, sample, score
for command, options in (
    (sample, ["--output", "new.png"]),
    (decode, ["--latents", "none.npz", "--output", "new.png"]),
    (encode, ["--output", "new.npz"]),
    (score, ["--output", "new.csv"]),
):
    with contextlib.suppress(SystemExit):
        command.main(["--model", "there_is_none", *options])
    loaded[command.__name__] = set(sys.modules)
for when, modules in loaded.items():
    print(when, *sorted(modules & set(sys.argv[1:])), sep=",")
"""


@pytest.fixture
def run(tmp_path):
    """Runs `python -m` where TensorFlow cannot be imported; gives the exit code, output and errors."""
    (tmp_path / "sitecustomize.py").write_text(INSTEAD_OF_TENSORFLOW)

    def run_module(*arguments, **variables):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}", **variables}
        command = [sys.executable, "-m", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        return result.returncode, result.stdout, result.stderr

    return run_module


IN_HELP = {
    "sample": "uint8 [N, D, D, C]",
    "reconstruct": "--interpolate I J",
    "merge": "FILE.json of evaluate",
    "client": "grpc://host:port/NAME",
    "convert": "--weights",
}


@pytest.mark.parametrize("command", program.COMMANDS)
def test_help_and_mistakes_come_before_tensorflow(run, command):
    code, out, _ = run(f"dvpvae_tf.{command}", "--help")
    assert code == 0 and out.startswith(f"usage: python -m dvpvae_tf.{command} ") and IN_HELP.get(command, "") in out
    code, out, error = run("dvpvae_tf", command, "--no-such-option=3")
    assert (code, out) == (2, "") and error.startswith("error: ") and error.count("\n") == 1


def test_what_few_commands_need_is_imported_by_these_alone(tmp_path):
    command = [sys.executable, "-c", IMPORT_AND_RUN, "tensorflow", *SELDOM_NEEDED]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    started = ("import dvpvae_tf", *(f"dvpvae_tf.{name}" for name in ("sample", "decode", "encode", "score")))
    assert result.stdout.splitlines() == [f"{start},tensorflow" for start in started], result.stderr
    assert result.stderr.count("there_is_none") == len(started) - 1  # each command went as far as its model


def test_the_program_lists_its_commands_and_tells_unknown_ones(run):
    code, out, _ = run("dvpvae_tf")
    modules = {path.stem for path in (PROJECT / "dvpvae_tf").glob("*.py") if "\ndef main(" in path.read_text()}
    assert code == 0 and {line.split()[0] for line in out.splitlines()[2:]} == modules - {"__main__"}
    assert run("dvpvae_tf", "evalute") == (2, "", "error: unknown command evalute (did you mean evaluate?)\n")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["dvpvae_tf.train"], "interrupted: the same command goes on after the last finished epoch\n"),
        (["dvpvae_tf.sample", "--model", "mnist5k", "--output", "new.png"], "interrupted\n"),
        (["dvpvae_tf", "sample", "--model", "mnist5k", "--output", "new.png"], "interrupted\n"),
    ],
)
def test_ctrl_c_during_imports_gives_no_traceback(run, command, line):
    assert run(*command, CTRL_C="1") == (130, "", line)


def test_the_program_runs_a_command(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["convert", "--weights", "none.npz", "--config", "mnist", "--output", "model.keras"])
    assert stop.value.code == 2 and "error: there is no file none.npz" in capsys.readouterr().err


def test_sizes_of_a_named_data_set_are_those_that_are_read():
    train = read_images("mnist5k")[0]
    expected = NAMED_DATASETS["mnist5k"]
    assert (train.shape[1:], len(train)) == (expected.image_shape, expected.training_images)
