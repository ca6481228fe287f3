"""Evaluates trained models on test images and writes a table for `docs/results/`; `--help` lists the options.

Each model is evaluated with every estimator on the same images. The prior over u is named with its steps.
"""

import argparse
import json
import math
import platform
from datetime import date
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import evaluation, load_model
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import exit_on_error

# As cited in the paper or in their own reports, of other budgets: estimates of -log p(x) in nats.
OTHERS = [
    ("DVP-VAE (paper, Table 1; no bound)", 77.10),
    ("Ladder VAE (paper, Table 1; no bound)", 78.85),
    ("NVAE", 78.01),
    ("BIVA", 78.41),
    ("Efficient-VDVAE", 79.09),
]


def parse_arguments():
    parser = argparse.ArgumentParser(description="Measure trained models on test images, with every estimator.")
    parser.add_argument(
        "models", nargs="+", metavar="NAME=RUN", help="a label, and a trained model's name, run folder or .keras file"
    )
    parser.add_argument("--dataset", default="mnist", help="as in training (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--limit", type=int, default=1000, help="test images (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="K of iwae and published (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=500, help="rows computed at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.md", help="table to write, JSON beside it")
    return parser.parse_args()


def measure(model, images, samples, seed, batch_size):
    """Evaluates one model: the summaries of all estimators, and its layers."""
    settings = {"seed": seed, "batch_size": batch_size}
    statistics = evaluation.layer_statistics(model, images, seed)
    results = {
        "iwae": evaluation.iwae(model, images, samples, **settings),
        "elbo": evaluation.elbo(model, images, samples=1, **settings),
        "published": evaluation.published(model, images, samples, **settings),
    }
    return {
        "prior": "none" if model.prior is None else type(model.prior).__name__,
        "steps": results["iwae"].steps,
        "parameters": model.num_parameters,
        **{name: result.summary() for name, result in results.items()},
        "estimates": {name: np.asarray(result.estimates).tolist() for name, result in results.items()},
        "kl_per_layer": [float(value) for value in statistics.kl],
        "active_units": float(statistics.all_active_units),
    }


def _shown(summary):
    return f"{summary['mean']:.2f} ± {summary['standard_error']:.2f}"


def as_markdown(measured, arguments):
    lines = [
        f"# {arguments.dataset}: trained models on {arguments.limit} test images",
        "",
        f"Written on {date.today()} with TensorFlow {tf.__version__}, Keras {keras.__version__}, Python "
        f"{platform.python_version()}. Nats for each image, mean and standard error over the images; "
        f"K = {arguments.samples}, seed {arguments.seed}. Lower is better.",
        "",
        "| model | prior over u | iwae (a bound) | negative ELBO (a bound) | published (no bound) | active units |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in measured.items():
        process = each["prior"] + ("" if each["steps"] is None else f", T = {each['steps']}")
        cells = [_shown(each[key]["nats"]) for key in ("iwae", "elbo", "published")]
        lines.append(f"| {name} | {process} | {' | '.join(cells)} | {each['active_units']:.1%} |")
    lines += ["", "The terms of the negative ELBO, nats:", "", "| model | reconstruction | KL of z | KL of u |"]
    lines.append("|---|---|---|---|")
    for name, each in measured.items():
        terms = [
            each["elbo"][key]["mean"] if key in each["elbo"] else 0.0 for key in ("reconstruction", "kl_z", "kl_u")
        ]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in terms) + " |")
    first, *others = measured
    if others:
        lines += ["", f"Paired difference of `iwae` from {first!r} over the images, nats:", ""]
        for name in others:
            difference = np.subtract(*(measured[each]["estimates"]["iwae"] for each in (name, first)))
            error = difference.std(ddof=1) / math.sqrt(len(difference))
            lines.append(f"* {name}: {difference.mean():+.2f} ± {error:.2f}")
    if arguments.dataset == "mnist":
        lines += ["", "Other work, as its authors report it, with other budgets:", "", "| model | nats |", "|---|---|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in OTHERS]
    models = " ".join(f'"{each}"' for each in arguments.models)
    lines += ["", "```bash", f"python benchmarks/trained_models.py {models} \\", f"    --dataset {arguments.dataset} "]
    lines[-1] += f"--limit {arguments.limit} --samples {arguments.samples} --output {arguments.output}"
    return "\n".join([*lines, "```", ""])


def main():
    arguments = parse_arguments()
    with exit_on_error():
        models = dict(each.split("=", 1) for each in arguments.models)
        images = read_images(arguments.dataset, arguments.data_dir)[2][: arguments.limit]
        measured = {}
        for name, path in models.items():
            print(name)
            measured[name] = measure(load_model(path), images, arguments.samples, arguments.seed, arguments.batch_size)
            arguments.output.with_suffix(".json").write_text(json.dumps(measured) + "\n")
        arguments.output.write_text(as_markdown(measured, arguments))


if __name__ == "__main__":
    main()
