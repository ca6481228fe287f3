"""Times a training step of a preset on synthetic images: `python benchmarks/train_step.py --help`."""

import argparse
import json
import statistics
import time
from pathlib import Path

# ruff: noqa: E402 (importing the package is timed, too)
STARTED = time.perf_counter()
import numpy as np
import tensorflow as tf

from dvpvae_tf.config import TrainConfig, load_config
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.experiments.costs import peak_memory, time_training_steps
from dvpvae_tf.training.loop import make_model

IMPORTED = time.perf_counter()


def measure(config, repeats):
    """Seconds of building the model, of the first step, which traces the graph, and of `repeats` later ones."""
    shape = (config.batch_size, config.model.image_size, config.model.image_size, config.model.image_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    start = time.perf_counter()
    model = make_model(config, steps_per_epoch=1000)
    built = time.perf_counter() - start
    model.adapt(images)
    seconds = time_training_steps(model, images, repeats + 3)  # two more to warm up
    return built, seconds[0], seconds[3:]


def summarise(config, settings, built, first, seconds):
    median = statistics.median(seconds)
    return {
        "preset": config.name,
        **settings,
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "tensorflow": tf.__version__,
        "images_per_second": config.batch_size / median,
        "step_seconds": {"median": median, "min": min(seconds), "max": max(seconds)},
        "import_and_build_seconds": IMPORTED - STARTED + built,
        "first_step_seconds": first,
        "peak_memory_gb": peak_memory() / 1e9,
    }


def parse_arguments():
    parser = argparse.ArgumentParser(description="Time a training step of a preset on synthetic images.")
    parser.add_argument("--preset", default="mnist", help="preset or YAML file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=250, help="images in a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps (default: %(default)s)")
    parser.add_argument("--mixed-precision", action="store_true", help="compute in bfloat16")
    parser.add_argument("--jit-compile", action="store_true", help="compile with XLA")
    parser.add_argument("--gradient-accumulation", type=int, default=1, metavar="N", help="as in training")
    parser.add_argument("--remat", action="store_true", help="as in training")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    return arguments


def main():
    arguments = parse_arguments()
    names = set(TrainConfig.model_fields) - {"output"}
    settings = {name: value for name, value in vars(arguments).items() if name in names}
    with exit_on_error():
        config = load_config(arguments.preset, settings)
    results = summarise(config, settings, *measure(config, arguments.repeats))
    step = results["step_seconds"]
    print(
        f"{config.name}, batch {config.batch_size}: {results['images_per_second']:.1f} images per second\n"
        f"step {step['median']:.3f} s, the median of {arguments.repeats} from {step['min']:.3f} "
        f"to {step['max']:.3f} s; the first {results['first_step_seconds']:.1f} s\n"
        f"import and build {results['import_and_build_seconds']:.1f} s\n"
        f"peak memory {results['peak_memory_gb']:.2f} GB"
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
