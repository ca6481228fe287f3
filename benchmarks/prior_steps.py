"""Draws the KL of u against T for the ancestral, the calibrated and the mixture prior of one model; needs matplotlib.

    python -m dvpvae_tf.fit_prior --model RUN/last.keras --prior calibrated --output calibrated.keras
    python -m dvpvae_tf.fit_prior --model RUN/last.keras --output mixture.keras
    python benchmarks/prior_steps.py --calibrated calibrated.keras --mixture mixture.keras --dataset mnist

The picture is that of docs/prior.md.
"""

import argparse
from pathlib import Path

import tensorflow as tf
from kl_of_u import kl_of_u
from plots import axes_of_picture, draw_curve

from dvpvae_tf import load_model
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.models.refit import draw_pseudoinputs, with_ancestral_process

STEPS = (1, 2, 5, 10, 20, 50)


def mean_kl_of_u(model, u, steps, seed):
    """The KL of u in T steps, given one trajectory for each of the draws u of r(u|x): its mean and standard error."""
    prior, entropy = model.prior, float(model.pseudoinput.entropy())

    def estimate(u, noise):
        return -tf.add_n(prior.estimate(u, noise, steps).terms)

    values = kl_of_u(estimate, u, prior.estimate_noise_size(steps), entropy, seed)
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


def measure(arguments):
    """Curves of the diffusion prior by name, points in the order of `STEPS`; and the mixture's one point."""
    calibrated, mixture = load_model(arguments.calibrated), load_model(arguments.mixture)
    test = read_images(arguments.dataset, arguments.data_dir)[2]
    u = draw_pseudoinputs(calibrated, test, arguments.draws, arguments.seed)
    curves = {}
    for model in (with_ancestral_process(calibrated), calibrated):
        name = f"{model.prior.process_name} diffusion"
        curves[name] = [mean_kl_of_u(model, u, steps, arguments.seed) for steps in STEPS]
    return curves, mean_kl_of_u(mixture, u, None, arguments.seed), mixture.prior.components


def draw(curves, exact, components, path):
    """Draws the curves; the mixture, which takes no steps, is a line."""
    with axes_of_picture(path, "steps T", "KL of u, nats") as axes:
        for color, (name, points) in zip(("tab:red", "tab:blue"), curves.items(), strict=True):
            draw_curve(axes, STEPS, points, color, name)
        axes.axhline(exact[0], color="black", linewidth=1, label=f"full mixture of {components}, no steps")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(STEPS, STEPS)
        ticks = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
        axes.set_yticks(ticks, ticks)
        axes.minorticks_off()


def main():
    parser = argparse.ArgumentParser(description="Draw the KL of u against the number of steps.")
    parser.add_argument("--calibrated", required=True, help="model with a calibrated diffusion prior")
    parser.add_argument("--mixture", required=True, help="the same model with a full mixture")
    parser.add_argument("--dataset", required=True, help="as in training; its test images are used")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--draws", type=int, default=4000, help="pseudoinputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws and the noise (default: %(default)s)")
    parser.add_argument("--output", type=Path, default="docs/prior_steps.png", help="default: %(default)s")
    arguments = parser.parse_args()
    with exit_on_error():
        curves, exact, components = measure(arguments)
    print("| prior |" + "".join(f" T = {steps} |" for steps in STEPS) + " no steps |")
    print("|---" * (len(STEPS) + 2) + "|")
    for name, points in curves.items():
        print(f"| {name} | " + " | ".join(f"{mean:.2f} +- {error:.2f}" for mean, error in points) + " | |")
    print(f"| full mixture of {components} |" + " |" * len(STEPS) + f" {exact[0]:.2f} +- {exact[1]:.2f} |")
    draw(curves, exact, components, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
