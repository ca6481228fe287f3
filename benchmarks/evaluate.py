"""Times importance-weighted evaluation on synthetic images: `python benchmarks/evaluate.py --help`.

Each round measures, one after the other, what `dvpvae_tf.evaluation.bounds.iwae` does (the encoder once an image, all
diffusion steps in one pass of the UNet) and the same with the whole network run again for each sample, its diffusion
steps one by one.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest import mock

import numpy as np

from dvpvae_tf import DVPVAE
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.evaluation.evaluator import Evaluator
from dvpvae_tf.priors import process


def make_evaluations(preset, dtype, images, steps):
    """The functions that evaluate one more draw of every image, of two models."""
    model = DVPVAE.from_preset(preset, dtype=dtype)
    model.adapt(images)
    slow = DVPVAE.from_preset(preset, dtype=dtype)
    slow.adapt(images)
    fast_evaluator, slow_evaluator = Evaluator(model), Evaluator(slow)
    with mock.patch.object(process, "TIMES_AT_ONCE", 1):  # the UNet sees one diffusion step at a time
        slow_evaluator.trace(steps)
    data = fast_evaluator.image_data(images, 0, 0)

    def draw_sums(evaluator, data, draw):
        return evaluator.draw_sums(data, 0, 0, range(draw, draw + 1), 1000, steps)

    evaluations = {
        "evaluation": lambda draw: draw_sums(fast_evaluator, data, draw),
        "whole network a sample": lambda draw: draw_sums(slow_evaluator, slow_evaluator.image_data(images, 0, 0), draw),
    }
    return evaluations


def measure(evaluations, repeats):
    """Seconds of each function in each round: of its second pass, as in evaluation a pass comes after one like it."""
    seconds = {name: [] for name in evaluations}
    for sample in range(repeats):
        for name, evaluate in evaluations.items():
            evaluate(sample)[1].numpy()
            start = time.perf_counter()
            evaluate(sample)[1].numpy()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def parse_arguments():
    parser = argparse.ArgumentParser(description="Time importance-weighted evaluation on synthetic images.")
    parser.add_argument("--preset", default="mnist", help="preset or YAML file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=100, help="rows of a pass (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="diffusion steps T (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    rates = {}
    for dtype in ("float32", "mixed_bfloat16"):
        with exit_on_error():
            shape = (arguments.batch_size, *DVPVAE.from_preset(arguments.preset).image_shape)
            images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
            evaluations = make_evaluations(arguments.preset, dtype, images, arguments.steps)
            seconds = measure(evaluations, arguments.repeats)
        rates[dtype] = {name: arguments.batch_size / statistics.median(times) for name, times in seconds.items()}
        ratio = statistics.median(slow / fast for fast, slow in zip(*seconds.values(), strict=True))
        rates[dtype]["ratio"] = ratio
        for name in seconds:
            print(f"{dtype}, {name}: {rates[dtype][name]:.0f} images x samples per second")
        print(f"{dtype}, median ratio of the rounds: {ratio:.1f}")
    if arguments.output:
        arguments.output.write_text(json.dumps(vars(arguments) | {"output": None, "rates": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
