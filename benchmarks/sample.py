"""Times sampling with the weights of a preset: `python benchmarks/sample.py --help`."""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from dvpvae_tf import DVPVAE
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.experiments.costs import peak_memory
from dvpvae_tf.models.sampling import sample_in_batches


def measure(arguments):
    """Seconds of the first batch, which traces the graph, and of `repeats` passes over all images."""
    model = DVPVAE.from_preset(arguments.preset, load_weights=arguments.load_weights)
    arguments.steps = model.prior.check_steps(arguments.steps) if model.prior else None
    if not arguments.load_weights:
        model.adapt(np.random.default_rng(0).integers(0, 256, (500, *model.image_shape), "uint8"))
    start = time.perf_counter()
    model.sample(1, steps=arguments.steps)
    first, seconds = time.perf_counter() - start, []
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        for _batch in sample_in_batches(model, arguments.images, steps=arguments.steps):
            pass
        seconds.append(time.perf_counter() - start)
    return first, seconds[1:]


def parse_arguments():
    parser = argparse.ArgumentParser(description="Time sampling with the weights of a preset.")
    parser.add_argument("--preset", default="mnist", help="preset (default: %(default)s)")
    parser.add_argument("--load-weights", action="store_true", help="use its trained weights, not its starting weights")
    parser.add_argument("--images", type=int, default=1000, help="images of a pass (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="diffusion steps T (default: those of the preset)")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with exit_on_error():
        first, seconds = measure(arguments)
    results = {
        "seconds_per_1000_images": statistics.median(seconds) * 1000 / arguments.images,
        "first_seconds": first,
        "peak_memory_gb": peak_memory() / 1e9,
    }
    print(
        f"{arguments.preset}, T = {arguments.steps or 'none'}: "
        f"{results['seconds_per_1000_images']:.2f} s for 1,000 images, the median of {arguments.repeats}\n"
        f"the first image {first:.1f} s\n"
        f"peak memory {results['peak_memory_gb']:.2f} GB"
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(vars(arguments) | {"output": None} | results, indent=2) + "\n")


if __name__ == "__main__":
    main()
