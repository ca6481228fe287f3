"""The command `python -m dvpvae_tf.merge`: puts together what the shards of an evaluation or of sampling have left."""

import shutil
from pathlib import Path

import numpy as np

from dvpvae_tf.config.parser import Parser
from dvpvae_tf.distribute.sharding import check_of_one_job, parts_of
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.evaluate import report
from dvpvae_tf.evaluation.parts import load_part, merge_parts, output_of_parts
from dvpvae_tf.files import check_output, write_atomically
from dvpvae_tf.pictures.sample_files import JOB_FILE, job_of_folder, load_arrays


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `output`.

    Raises:
        UserError: if an option is unknown or missing.
    """
    parser = Parser("merge", "Put together what evaluate or sample has left with --shard. The parts stay.")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="the --output of the shards: FILE.json of evaluate, FILE.npz or a folder of sample",
    )
    return parser.parse_args(argv)


def merge_arrays(output):
    """Joins the arrays of the parts of an `.npz` file.

    Args:
        output: path of the file.

    Raises:
        UserError: if a part is missing, damaged or of another job, or the file cannot be written.
    """
    parts, jobs = zip(*map(load_arrays, parts_of(output)), strict=True)
    check_of_one_job(jobs)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_atomically(output, lambda path: np.savez(path, **arrays))


def merge_folders(output):
    """Copies the images of the parts of a folder into it.

    Args:
        output: path of the folder.

    Raises:
        UserError: if a part is missing or of another job, or the folder cannot be written.
    """
    parts = parts_of(output)
    check_of_one_job([*map(job_of_folder, parts)])

    def copy(path):
        for part in parts:
            shutil.copytree(part, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(JOB_FILE))

    write_atomically(output, copy)


def main(argv=None):
    """Runs the command.

    Args:
        argv: list of str; by default the arguments of the process.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    with exit_on_error():
        output = parse_arguments(argv).output
        check_output(output, [".json", ".npz", ""])
        if output.suffix == ".json":
            parts = parts_of(output_of_parts(output))
            report(merge_parts([*map(load_part, parts)]).results(), output)
        else:
            {".npz": merge_arrays, "": merge_folders}[output.suffix](output)
        print(f"wrote {output}")


if __name__ == "__main__":
    main()
