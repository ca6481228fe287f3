"""The command `python -m dvpvae_tf.merge`: joins the results of the shards of an evaluation or of sampling."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvpvae_tf.config.parser import Parser
from dvpvae_tf.distribute.sharding import check_same_job, parts_of
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import check_output, write_atomically


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options, with `output`.

    Raises:
        UserError: if an option is unknown or missing.
    """
    parser = Parser("merge", "Join the results of evaluate or sample with --shard. The parts are kept.")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="the --output that the shards had: FILE.json of evaluate, FILE.npz or a folder of sample",
    )
    return parser.parse_args(argv)


def merge_evaluations(output: Path) -> None:
    """Joins the evaluations of the shards, prints the results and writes them.

    Args:
        output: the `.json` file to write.

    Raises:
        UserError: if a part is missing, damaged or of another job, or the file cannot be written.
    """
    from dvpvae_tf.evaluation.parts import load_part, merge_parts, output_of_parts
    from dvpvae_tf.evaluation.report import report

    parts = parts_of(output_of_parts(output))
    report(merge_parts([*map(load_part, parts)]).results(), output)


def merge_arrays(output: Path) -> None:
    """Joins the arrays that the shards have sampled.

    Args:
        output: the `.npz` file to write.

    Raises:
        UserError: if a part is missing, damaged or of another job, or the file cannot be written.
    """
    import numpy as np

    from dvpvae_tf.pictures.sample_files import load_arrays

    parts, jobs = zip(*map(load_arrays, parts_of(output)), strict=True)
    check_same_job(jobs)
    arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_atomically(output, lambda path: np.savez(path, **arrays))


def merge_folders(output: Path) -> None:
    """Copies the images that the shards have sampled into one folder.

    Args:
        output: the folder to write.

    Raises:
        UserError: if a part is missing or of another job, or the folder cannot be written.
    """
    from dvpvae_tf.pictures.sample_files import JOB_FILE, job_of_folder

    parts = parts_of(output)
    check_same_job([*map(job_of_folder, parts)])

    def copy(path: Path) -> None:
        for part in parts:
            shutil.copytree(part, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(JOB_FILE))

    write_atomically(output, copy)


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    output = parse_arguments(argv).output
    check_output(output, [".json", ".npz", ""])
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip

    {".json": merge_evaluations, ".npz": merge_arrays, "": merge_folders}[output.suffix](output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
