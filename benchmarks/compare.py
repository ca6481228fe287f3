"""Compares two settings or revisions by another of these scripts, in turn: `python benchmarks/compare.py --help`.

    python benchmarks/compare.py train_step.py images_per_second --second "--mixed-precision"
    python benchmarks/compare.py sample.py seconds_per_1000_images --first-revision HEAD~20

Each run is a process of its own. The two runs of a pair follow each other, so that both meet the machine's changes of
speed. A revision runs the script as it was then.
"""

import argparse
import contextlib
import functools
import json
import operator
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent


@contextlib.contextmanager
def checked_out(revision):
    """The folder of a revision: this one's, or for the time of the comparison a worktree of another."""
    if revision is None:
        yield FOLDER.parent
        return
    git = ["git", "-C", str(FOLDER), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*git, "add", "--quiet", "--detach", folder, revision], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def run(arguments, options, project):
    """The figures of one run of the script, in the folder of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        script = project / "benchmarks" / arguments.script
        command = [sys.executable, script, *shlex.split(options), "--output", results]
        environment = os.environ | {"PYTHONPATH": str(project)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=project)
        values = json.loads(results.read_text())
    return [functools.reduce(operator.getitem, figure.split("."), values) for figure in arguments.figures]


def parse_arguments():
    parser = argparse.ArgumentParser(description="Compare two settings or revisions by another of these scripts.")
    parser.add_argument("script", help="such as train_step.py")
    parser.add_argument(
        "figures", nargs="+", help="keys of its JSON, such as images_per_second or rates.float32.evaluation"
    )
    parser.add_argument("--first", default="", metavar="OPTIONS", help="options of the script, quoted as one argument")
    parser.add_argument("--second", default="", metavar="OPTIONS", help="options of the script, quoted as one argument")
    parser.add_argument("--first-revision", metavar="REVISION", help="of git (default: the files as they are)")
    parser.add_argument("--second-revision", metavar="REVISION", help="of git (default: the files as they are)")
    parser.add_argument("--pairs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    first, second = [], []
    with checked_out(arguments.first_revision) as one, checked_out(arguments.second_revision) as other:
        for _ in range(arguments.pairs):
            first.append(run(arguments, arguments.first, one))
            second.append(run(arguments, arguments.second, other))
            for figure, one_value, other_value in zip(arguments.figures, first[-1], second[-1], strict=True):
                print(f"{figure}: {one_value:.4g}, {other_value:.4g}", flush=True)
    ratios = np.median(np.divide(second, first), axis=0)
    for figure, ratio in zip(arguments.figures, ratios, strict=True):
        print(f"{figure}: median ratio of the second to the first {ratio:.3f}")
    if arguments.output:
        results = {"figures": arguments.figures, "first": first, "second": second, "ratios": ratios.tolist()}
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
