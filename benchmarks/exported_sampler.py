"""Times an exported sampler against the model in the process: `python benchmarks/exported_sampler.py --help`."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from dvpvae_tf import DVPVAE
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.serving import signatures

BATCH_SIZES = (1, 16, 100)


def make_samplers(preset, steps):
    """The two functions from a number of rows and of a round to images."""
    model = DVPVAE.from_preset(preset)
    model.adapt(np.random.default_rng(0).integers(0, 256, (100, *model.image_shape), "uint8"))
    with tempfile.TemporaryDirectory() as folder:
        signatures.save(folder, model, steps)
        exported = tf.saved_model.load(folder)

    def sample_exported(rows, number):
        seeds = number * rows + tf.range(rows, dtype=tf.int64)
        return exported.signatures["sample"](seed=seeds, temperature=tf.ones([rows]))["images"].numpy()

    return {
        "in process": lambda rows, number: model.sample(rows, seed=number, steps=steps),
        "exported": sample_exported,
    }


def measure(samplers, rows, repeats):
    """Seconds of each sampler in each round, after a round to warm up."""
    seconds = {name: [] for name in samplers}
    for number in range(repeats + 1):
        for name, sample in samplers.items():
            start = time.perf_counter()
            sample(rows, number)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def parse_arguments():
    parser = argparse.ArgumentParser(description="Time an exported sampler against the model in the process.")
    parser.add_argument("--preset", default="mnist", help="preset or YAML file (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="diffusion steps T (default: those of the preset)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with exit_on_error():
        samplers = make_samplers(arguments.preset, arguments.steps)
    results = {}
    for rows in BATCH_SIZES:
        seconds = measure(samplers, rows, arguments.repeats)
        ratio = statistics.median(own / exported for own, exported in zip(*seconds.values(), strict=True))
        results[rows] = {name: rows / statistics.median(times) for name, times in seconds.items()} | {"ratio": ratio}
        rates = ", ".join(f"{name} {results[rows][name]:.0f}" for name in samplers)
        print(f"{rows} rows: {rates} images per second; exported is {ratio:.2f} times as fast (median of the rounds)")
    if arguments.output:
        arguments.output.write_text(json.dumps({"preset": arguments.preset, "steps": arguments.steps, "rows": results}))


if __name__ == "__main__":
    main()
