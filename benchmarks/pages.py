"""What the pages that the benchmarks write have in common: where they come from, and the runs that they draw."""

import argparse
import platform
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from dvpvae_tf.errors import UserError


class NamedRun(NamedTuple):
    """A label and a run folder."""

    name: str
    folder: Path


def named_run(given):
    """Reads NAME=RUN; the name may hold `=`."""
    name, separator, folder = given.rpartition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=RUN")
    return NamedRun(name, Path(folder))


def check_has_files(runs, *names):
    """Raises a UserError unless each run has the files, before work that takes hours."""
    for run in runs:
        for name in names:
            if not (run.folder / name).is_file():
                raise UserError(f"{run.folder} has no {name}: give the folder of a training")


def written_on():
    """One sentence: the date and the versions."""
    return (
        f"Written on {date.today()} with TensorFlow {tf.__version__}, Keras {keras.__version__}, Python "
        f"{platform.python_version()}."
    )


def command_block():
    """Markdown lines with the command that runs, without `--data-dir`, a folder of this machine."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--data-dir=")]
    if "--data-dir" in given:
        place = given.index("--data-dir")
        del given[place : place + 2]
    return ["```bash", shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given]), "```"]
