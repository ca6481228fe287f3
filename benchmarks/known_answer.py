"""Draws how the estimators behave where log p(x) is known: `python benchmarks/known_answer.py`, needs matplotlib.

The model is that of `dvpvae_tf.evaluation.linear_gaussian`; the picture is that of docs/evaluation.md.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from plots import axes_of_picture, draw_curve

from dvpvae_tf import evaluation
from dvpvae_tf.evaluation.linear_gaussian import SIDE, distribution_of_images, make_linear_gaussian_model

STEPS = 10
SAMPLES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def make_problem(num_images, seed):
    """The model with trained posteriors, images of its own, and -log p(x) of each."""
    model = make_linear_gaussian_model(STEPS, seed=seed)
    images_of = distribution_of_images(model, STEPS)
    rng = np.random.default_rng(seed)
    train, test = (
        np.clip(images_of.rvs(num, rng), 0, 1).reshape(-1, SIDE, SIDE, 1).astype("float32")
        for num in (2000, num_images)
    )
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(train, batch_size=200, epochs=60, verbose=0)
    return model, test, -images_of.logpdf(test.reshape(num_images, -1))


def excess(result, exact):
    """Mean of the estimates minus -log p(x), nats, and its standard error over the images."""
    difference = result.estimates - exact
    return difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5


def draw(curves, path):
    with axes_of_picture(path, "samples K an image", "estimate minus -log p(x), nats") as axes:
        for name, (color, points) in curves.items():
            draw_curve(axes, SAMPLES, points, color, name)
        axes.axhline(0, color="black", linewidth=1)
        axes.text(SAMPLES[-1], -0.05, "-log p(x)", ha="right", va="top")
        axes.set_xscale("log", base=2)
        axes.set_xticks(SAMPLES, SAMPLES)


def main():
    parser = argparse.ArgumentParser(description="Draw how the estimators behave where log p(x) is known.")
    parser.add_argument("--images", type=int, default=200, help="test images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default="docs/known_answer.png", help="default: %(default)s")
    arguments = parser.parse_args()
    model, images, exact = make_problem(arguments.images, arguments.seed)
    curves = {}
    for name, color, function in (
        ("iwae (ours)", "tab:blue", evaluation.iwae),
        ("published (not a bound)", "tab:red", evaluation.published),
    ):
        results = [function(model, images, samples, batch_size=2000, verbose=0) for samples in SAMPLES]
        curves[name] = color, [excess(result, exact) for result in results]
        for samples, (mean, error) in zip(SAMPLES, curves[name][1], strict=True):
            print(f"{name}, K = {samples}: {mean:+.3f} +- {error:.3f} nats from -log p(x) = {exact.mean():.3f}")
    draw(curves, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
