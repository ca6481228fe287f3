"""Files that are written whole or not at all, tables, and locks on folders."""

import contextlib
import os
import resource
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from dvpvae_tf.errors import UserError
from dvpvae_tf.files import append_csv, check_output, lock_folder, markdown_table, read_csv, write_atomically, write_csv

ROWS = [{"epoch": "0", "loss": "1.5"}, {"epoch": "1", "loss": "0.5"}]


def write_folder(text):
    def write(path):
        path.mkdir()
        (path / "text").write_text(text)

    return write


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    write_atomically(folder, write_folder("old"))
    with pytest.raises(UserError, match="Directory not empty"):
        write_atomically(folder, write_folder("new"))

    def killed_in_between(*paths, replace=os.replace):
        if "writing" in str(paths[0]):
            assert not folder.exists()
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed_in_between)
        write_atomically(folder, write_folder("new"), replace_folder=True)
    assert (folder / "text").read_text() == "old"
    write_atomically(folder, write_folder("new"), replace_folder=True)
    assert (folder / "text").read_text() == "new" and os.listdir(tmp_path) == ["folder"]


@contextlib.contextmanager
def full_disk():
    """Lets every write beyond a few bytes of a file fail, as on a full disk: those of pytest, too, so be short."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_written_to_a_table_is_read_from_it(tmp_path):
    path = tmp_path / "table.csv"
    assert read_csv(path) == []
    append_csv(path, [])
    append_csv(path, ROWS[:1])
    append_csv(path, [{"loss": 0.5, "epoch": 1, "new": 3}])  # the columns stay those of the file
    assert path.read_bytes() == b"epoch,loss\r\n0,1.5\r\n1,0.5\r\n"
    assert read_csv(path) == ROWS
    write_csv(path, ROWS[1:])
    assert read_csv(path) == ROWS[1:]
    write_csv(path, [])
    append_csv(path, ROWS)  # an empty file is no file with a header
    assert read_csv(path) == ROWS


@pytest.mark.parametrize("damage", [b"\r\n", b"0", b"\0\0\0\0", b"2,", b"\xff\xfe", b"2,0.3,1\r\n\0\n\n7"])
def test_damaged_lines_of_a_table_are_left_out(tmp_path, damage):
    path = tmp_path / "table.csv"
    write_csv(path, ROWS)
    with path.open("ab") as file:
        file.write(damage)
    expected = [*ROWS, {"epoch": "2", "loss": ""}] if damage == b"2," else ROWS
    assert read_csv(path) == expected


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\0\0", b"epoch,loss\r\n"])
def test_a_table_without_rows(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    assert read_csv(tmp_path / "table.csv") == []


def test_what_is_no_readable_file_is_no_table(tmp_path):
    with pytest.raises(UserError, match=f"^cannot read {tmp_path}: Is a directory$"):
        read_csv(tmp_path)


def test_a_full_disk_is_one_clear_line_and_leaves_what_was_there(tmp_path):
    path, table = tmp_path / "text", tmp_path / "table.csv"
    path.write_text("old")
    table.write_text("epoch\n")
    messages = []
    for write in (
        lambda: write_atomically(path, lambda new: new.write_text("new" * 100)),
        lambda: write_csv(path, 50 * ROWS),
        lambda: append_csv(table, 100 * ROWS),
    ):
        with pytest.raises(UserError) as error, full_disk():
            write()
        messages.append(str(error.value))
    message = "cannot write {}: File too large: make room and run the same command again"
    assert messages == [message.format(each) for each in (path, path, table)]
    assert path.read_text() == "old" and {each.name for each in tmp_path.iterdir()} == {"text", "table.csv"}
    write_atomically(path, lambda new: new.write_text("new" * 100))
    assert path.read_text() == "new" * 100


def test_a_full_disk_of_tensorflow_is_one_clear_line_too(tmp_path):
    """Its errors are none of the system's: they have the message in their text."""

    def write(path):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    with pytest.raises(UserError, match="cannot write .*model: No space left on device: make room"):
        write_atomically(tmp_path / "model", write)


def test_names_as_long_as_the_file_system_allows(tmp_path):
    for name in (251 * "n" + ".png", 84 * "文" + ".p", 255 * "n"):
        write_atomically(tmp_path / name, lambda path: path.write_text("whole"))
        assert (tmp_path / name).read_text() == "whole"
    with pytest.raises(UserError, match="cannot write .*: File name too long$"):
        write_atomically(tmp_path / (256 * "n"), lambda path: path.write_text("whole"))
    for output in (tmp_path / (256 * "n" + ".png"), tmp_path / "/".join(60 * [100 * "n"]) / "a.png"):
        with pytest.raises(UserError, match="cannot write .*: File name too long$"):
            check_output(output, [".png"])


def test_what_a_link_points_to_is_written(tmp_path):
    (tmp_path / "scratch").mkdir()
    for name in ("folder", "file"):
        (tmp_path / f"linked_{name}").symlink_to(tmp_path / "scratch" / name)
    (tmp_path / "scratch" / "folder").mkdir()
    write_atomically(tmp_path / "linked_folder", write_folder("in a folder"))
    write_atomically(tmp_path / "linked_file", lambda path: path.write_text("in a file"))
    assert (tmp_path / "scratch" / "folder" / "text").read_text() == "in a folder"
    assert (tmp_path / "scratch" / "file").read_text() == "in a file"
    assert (tmp_path / "linked_folder").is_symlink() and (tmp_path / "linked_file").is_symlink()


def test_an_output_that_is_mounted_or_read_is_refused_before_the_work(tmp_path, monkeypatch):
    photo = tmp_path / "photo.png"
    photo.touch()
    (tmp_path / "same.png").symlink_to(photo)
    for output in (photo, tmp_path / "same.png"):
        with pytest.raises(UserError, match="is the file that is read: give another name"):
            check_output(output, [".png"], inputs=[None, tmp_path / "none", photo])
    check_output(tmp_path / "other.png", [".png"], inputs=[photo])
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "out")
    with pytest.raises(UserError, match="out is mounted there, so it cannot be replaced: give a name inside it"):
        check_output(tmp_path / "out", [""])


def test_another_error_than_of_writing_is_passed_on(tmp_path):
    with pytest.raises(KeyError):
        write_atomically(tmp_path / "file", lambda path: {}["missing"])
    assert list(tmp_path.iterdir()) == []


LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(99)
"""


def test_one_process_holds_a_folder_and_a_kill_frees_it(tmp_path):
    other = subprocess.Popen([sys.executable, "-S", "-c", LOCK, tmp_path / ".lock"], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"another process works in {tmp_path}"), lock_folder(tmp_path):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path), pytest.raises(UserError), lock_folder(tmp_path):
        pass


def test_a_table_of_markdown_has_a_line_below_its_header():
    assert markdown_table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
