r"""Shows the norm of the gradient over whole trainings, as Figure 7 of the paper does.

    python benchmarks/gradient_norms.py OMNIGLOT=runs/omniglot CIFAR-10=runs/cifar10 --output norms.md

It writes a table, and a picture beside it with the norm of each step before it is clipped.
"""

import argparse
import platform
import shlex
import sys
from datetime import date
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from named_models import named_model
from plots import axes_of_picture

from dvpvae_tf.config import load_config
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import check_output, markdown_table, read_csv

FIRST_STEPS = 100  # with the high norms of new weights


def parse_arguments():
    parser = argparse.ArgumentParser(description="Compare the norms of the gradient over whole trainings.")
    parser.add_argument("runs", nargs="+", type=named_model, metavar="NAME=RUN", help="a label, and a run folder")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.md", help="table to write, PNG beside it")
    return parser.parse_args()


def norms_of(folder):
    """The norm of the gradient at each step of a run, before it is clipped."""
    return np.array([float(row["gradient_norm"]) for row in read_csv(folder / "gradient_norms.csv")])


def row_of(name, folder):
    """The cells of a run."""
    config, epochs, norms = load_config(folder / "config.yaml"), read_csv(folder / "metrics.csv"), norms_of(folder)
    later = norms[FIRST_STEPS:]
    bounds = [float(row["val_bits_per_dim"]) for row in epochs]
    return [
        name,
        f"{len(norms):,} of {config.batch_size} images",
        f"{norms[:FIRST_STEPS].max():,.0f}",
        f"{np.median(later):.2f}, {np.quantile(later, 0.99):.2f}, {later.max():.2f}",
        f"{config.gradient_clip_norm:g}",
        f"{np.mean(later > config.gradient_clip_norm):.1%}",
        f"{sum(float(row['skipped_steps']) for row in epochs):.0f}",
        f"{bounds[0]:.3f}, {min(bounds):.3f}, {bounds[-1]:.3f}",
    ]


COLUMNS = [
    "run",
    "steps",
    f"largest norm, first {FIRST_STEPS} steps",
    "later: median, 99th percentile, largest",
    "clipped at",
    "later steps clipped",
    "skipped steps",
    "validation bound, bits per dimension: first, best, last epoch",
]


def as_markdown(runs, picture):
    return "\n".join(
        [
            "# The norm of the gradient over whole trainings",
            "",
            f"Written on {date.today()} with TensorFlow {tf.__version__}, Keras {keras.__version__}, Python "
            f"{platform.python_version()}. The norm is that of each step, before it is clipped. A step whose gradient "
            "is not finite is skipped.",
            "",
            *markdown_table(COLUMNS, [row_of(run.name, Path(run.model)) for run in runs]),
            "",
            f"![The norm of the gradient at each step]({picture.name})",
            "",
            "```bash",
            shlex.join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]),
            "```",
            "",
        ]
    )


def main():
    arguments = parse_arguments()
    with exit_on_error():
        check_output(arguments.output, [".md"])
        picture = arguments.output.with_suffix(".png")
        text = as_markdown(arguments.runs, picture)
        with axes_of_picture(picture, "step", "norm of the gradient, before clipping") as axes:
            axes.set_yscale("log")
            for run in arguments.runs:
                norms = norms_of(Path(run.model))
                axes.plot(range(1, len(norms) + 1), norms, linewidth=0.6, label=run.name)
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
