"""How a command ends: one line, the exit code, no traceback, whatever its output is connected to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dvpvae_tf import errors
from dvpvae_tf.errors import MEMORY_IS_FULL

FOLDER = Path(errors.__file__).parent  # imported from here, `errors` does not load TensorFlow


def run(body, redirection="", **environment):
    """The exit code, output and errors of a command that does `body`."""
    code = f"import sys; from errors import *\nwith exit_on_error('the same command goes on'):\n    {body}"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code],
        capture_output=True,
        cwd=FOLDER,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("print('done')", (0, "done\n", "")),
        ("raise UserError('no such file')", (2, "", "error: no such file\n")),
        ("raise WorkerLost('worker 1 ended')", (1, "", "error: worker 1 ended\n")),
        ("open(300 * 'n')", (2, "", f"error: {300 * 'n'}: File name too long\n")),
        ("open('/dev/full', 'w').write(9999 * 'n')", (2, "", "error: the output: No space left on device\n")),
        ("raise PermissionError(13, 'Permission denied', 'run')", (2, "", "error: run: Permission denied\n")),
        ("raise MemoryError", (2, "", f"error: {MEMORY_IS_FULL}\n")),
        (
            "raise type('ResourceExhaustedError', (Exception,), {})('OOM when allocating')",  # TensorFlow's
            (2, "", f"error: {MEMORY_IS_FULL}\n"),
        ),
        (
            "raise type('ResourceExhaustedError', (Exception,), {})('events; No space left on device')",
            (2, "", "error: No space left on device\n"),
        ),
        ("raise KeyboardInterrupt", (130, "", "interrupted: the same command goes on\n")),
    ],
)
def test_a_command_ends_with_one_line_and_its_exit_code(body, expected):
    assert run(body) == expected


@pytest.mark.parametrize("body", ["print('a line\\n' * 100000)", "print('a', flush=True)", "print('a')"])
def test_a_command_does_its_work_where_the_reader_of_its_output_has_left(body, tmp_path):
    result = tmp_path / "result"
    code = f"import time; time.sleep(0.2); {body}; print('b'); open('{result}', 'w').write('whole')"
    assert run(code, "| true") == (0, "", "")
    assert result.read_text() == "whole"
    assert run("import time; time.sleep(0.2); print('a'); sys.exit(3)", "| true") == (3, "", "")
    assert run("import time; time.sleep(0.2); print('a'); raise UserError('no')", "| true") == (2, "", "error: no\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_matter(closed):
    write = "sys.stdout.write('out'); sys.stderr.write('err')"
    code, out, error = run(write, closed)
    assert (code, out, error) == (0, "" if " >&-" in f" {closed}" else "out", "" if "2>&-" in closed else "err")
    assert run("raise UserError('no')", closed)[0] == 2


def test_an_encoding_without_the_character_prints_a_question_mark():
    body = "print('pics/\\u65e5'); raise UserError('pics/\\u65e5')"
    code, out, error = run(body, PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (code, out, error) == (2, "pics/?\n", "error: pics/\\u65e5\n")


def test_ctrl_c_is_no_traceback():
    code = "import signal, os\n    os.kill(os.getpid(), signal.SIGINT)"
    assert run(code)[::2] == (128 + signal.SIGINT, "interrupted: the same command goes on\n")
