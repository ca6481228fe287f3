"""Files that are written whole or not at all, tables, and locks on folders."""

import contextlib
import csv
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvpvae_tf.errors import UserError, full_disk_in

LONGEST_NAME = 255  # bytes, of all common file systems


def write_atomically(path: str | Path, write: Callable[[Path], object], replace_folder: bool = False) -> None:
    """Writes a file or folder under a temporary name, then renames it: no reader ever sees half of it.

    Args:
        path: the path to write. It replaces what is there, except for a folder that is not empty. Where it is a link,
            what the link points to is replaced.
        write: function of the temporary path, which has the same suffix.
        replace_folder: replaces a folder that is not empty too. It is there until the new one is whole.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(os.path.realpath(path))
    temporary = _beside(path, ".writing-")
    with _writing(path):
        _remove(temporary)  # what a killed process has left
        try:
            write(temporary)
            with _moved_aside(path) if replace_folder and path.is_dir() else contextlib.nullcontext():
                os.replace(temporary, path)
        finally:
            _remove(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Args:
        path: the file. It is replaced if it exists.
        text: its content.

    Raises:
        UserError: if it cannot be written.
    """
    # A name of a file may hold bytes that are no UTF-8.
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_json(path: str | Path, values: Any) -> None:
    """Writes values to a JSON file, whole or not at all.

    Args:
        path: the file. It is replaced if it exists.
        values: what `json` can write.

    Raises:
        UserError: if it cannot be written.
    """
    write_text(path, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def _moved_aside(folder: Path) -> Iterator[None]:
    """Frees the name of a folder; it is removed at the end, or gets its name back after an error."""
    aside = _beside(folder, ".replaced-")
    _remove(aside)
    os.replace(folder, aside)
    try:
        yield
    except BaseException:
        os.replace(aside, folder)
        raise
    _remove(aside)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns the error of a write that failed into a `UserError`."""
    try:
        yield
    except UserError:  # raised by `write` itself, with a message
        raise
    except Exception as error:
        cause: BaseException = (
            error  # zipfile fails a second time, with another type, when it closes what it could not write
        )
        while not isinstance(cause, OSError) and cause.__context__ is not None:
            cause = cause.__context__
        if full := full_disk_in(cause) or full_disk_in(error):  # TensorFlow's error is no OSError
            raise UserError(f"cannot write {path}: {full}: make room and run the same command again") from error
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"cannot write {path}: {cause.strerror or cause}") from error


def _beside(path: Path, prefix: str) -> Path:
    """The path with a prefix to its name, which is shortened where it would be too long."""
    name = prefix + path.name
    return path.with_name(name if len(os.fsencode(name)) <= LONGEST_NAME else prefix + path.name[-60:])


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.is_file():
        path.unlink()


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a table as CSV, whole or not at all.

    Args:
        path: the file to write.
        rows: the rows, all with the same keys, which make the header; without any, the file is empty.

    Raises:
        UserError: if it cannot be written.
    """

    def write(temporary: Path) -> None:
        temporary.touch()
        _append_rows(temporary, rows)

    write_atomically(path, write)


def append_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends rows to a CSV file, which it makes where there is none.

    Args:
        path: the file.
        rows: the rows. The file's columns are used, or the first row's where the file is new.

    Raises:
        UserError: if it cannot be written.
    """
    with _writing(Path(path)):
        _append_rows(path, rows)


def _append_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    with open(path, "a+", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.seek(0)
        header = next(csv.reader(file), None)
        writer = csv.DictWriter(file, header or list(rows[0]), extrasaction="ignore")
        if not header:
            writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Reads a CSV file and leaves out damaged lines: blank, cut short, or with bytes that are no text.

    Args:
        path: the file.

    Returns:
        The rows; none where there is no file.

    Raises:
        UserError: if it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    text = content.decode("utf-8", errors="replace").replace("\0", "")
    header, *rows = [line for line in csv.reader(text.splitlines()) if any(line)] or [[]]
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Writes a table as lines of Markdown.

    Args:
        header: names of the columns.
        rows: the cells of each row.

    Returns:
        The lines.
    """
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def make_folder(folder: str | Path) -> None:
    """Makes the folder that an option `--output` names, unless it is there.

    Args:
        folder: its path.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}: give another --output") from error


@contextlib.contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Locks a folder against other processes. The lock ends with the process, however that ends.

    Args:
        folder: an existing folder; the lock is on the file `.lock` in it.

    Raises:
        UserError: if another process holds it.
    """
    with open(Path(folder) / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process works in {folder}: wait for its end, or give another name") from error
        except OSError:
            pass  # some network file systems have no locks
        yield


def check_output(
    path: str | Path, suffixes: Sequence[str], overwrite: bool = True, inputs: Sequence[str | Path | None] = ()
) -> None:
    """Checks, before long work, that its result can be written.

    Args:
        path: the path to be written.
        suffixes: the suffixes that it may have, such as `[".png", ".npz"]`; "" is for a new or empty folder.
        overwrite: a file may be there, which is replaced.
        inputs: files that are read, which the output must not replace; None is left out.

    Raises:
        UserError: if it has another suffix or a name that is too long, its folder does not exist or cannot be written
            to, something else is in its place, it is an input, or it exists and `overwrite` is False.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        or_folder = ", or without suffix for a folder" if "" in suffixes else ""
        choices = " or ".join(filter(None, suffixes))
        raise UserError(f"the output is {path}: give it a name that ends in {choices}{or_folder}")
    with _writing(path):
        path.exists()  # fails where the path is too long
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the output: make it first")
    if path.suffix and path.is_dir():
        raise UserError(f"the output {path} is a folder: give another name")
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"the output {path} exists and is no empty folder: give another name")
    if os.path.ismount(path):  # what is mounted cannot be renamed over
        raise UserError(f"the output {path} is mounted there, so it cannot be replaced: give a name inside it")
    if any(path.samefile(each) for each in inputs if path.exists() and each is not None and Path(each).exists()):
        raise UserError(f"the output {path} is the file that is read: give another name")
    if not overwrite and path.exists():
        raise UserError(f"{path} exists: give another --output, or --overwrite")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write to the folder {path.parent}: give another output")
