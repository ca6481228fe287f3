"""Files that are written whole or not at all."""

import os
import shutil
from pathlib import Path

from dvpvae_tf.errors import UserError


def write_atomically(path, write):
    """Lets `write` fill a temporary file or folder, then gives it its name: there is never half of it under that name.

    Args:
        path: path to write; what is there is replaced, unless it is a folder that is not empty.
        write: function of the temporary path.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(path).absolute()
    temporary = path.with_name(f".writing-{path.name}")
    _remove(temporary)  # what a killed process has left
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def _remove(path):
    shutil.rmtree(path, ignore_errors=True)
    if path.is_file():
        path.unlink()


def check_output(path, suffixes):
    """Checks, before long work, that its result can be written.

    Args:
        path: path to be written.
        suffixes: the suffixes that it may have, such as `[".png", ".npz"]`; "" is for a new or empty folder.

    Raises:
        UserError: if it has another suffix, its folder does not exist or cannot be written to, or something else is
            in its place.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        or_folder = ", or without suffix for a folder" if "" in suffixes else ""
        choices = " or ".join(filter(None, suffixes))
        raise UserError(f"the output is {path}: give it a name that ends in {choices}{or_folder}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the output: make it first")
    if path.suffix and path.is_dir():
        raise UserError(f"the output {path} is a folder: give another name")
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"the output {path} exists and is no empty folder: give another name")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write to the folder {path.parent}: give another output")
