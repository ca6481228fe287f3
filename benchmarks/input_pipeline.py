"""Compares training steps on real batches with steps on one in memory: `python benchmarks/input_pipeline.py --help`.

Both take turns, step by step, so that the machine's changes of speed meet both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import tensorflow as tf

from dvpvae_tf.config import load_config
from dvpvae_tf.data.pipelines import read_images, training_batches
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.training.loop import make_model


def measure(config, images, repeats):
    """Seconds of each step, on real batches and on one in memory."""
    model = make_model(config, steps_per_epoch=1000)
    model.adapt(images)
    model.make_train_function()
    sources = {
        "real": training_batches(images, config.batch_size, config.seed, config.horizontal_flip, first_epoch=0),
        "in memory": tf.data.Dataset.from_tensors(images[: config.batch_size]).repeat(),
    }
    iterators = {name: iter(source) for name, source in sources.items()}
    seconds = {name: [] for name in sources}
    for step in range(repeats + 3):
        for name in sources:
            start = time.perf_counter()
            float(model.train_function(iterators[name])["negative_elbo"])
            if step >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def parse_arguments():
    parser = argparse.ArgumentParser(description="Compare steps on real batches with steps on one in memory.")
    parser.add_argument("--dataset", default="mnist5k", help="and its preset (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--batch-size", type=int, default=100, help="images in a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=40, help="timed pairs of steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with exit_on_error():
        config = load_config(arguments.dataset, {"batch_size": arguments.batch_size})
        images, _, _ = read_images(arguments.dataset, arguments.data_dir)
        seconds = measure(config, images, arguments.repeats)
    ratio = statistics.median(real / memory for real, memory in zip(*seconds.values(), strict=True))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"step on real batches {medians['real']:.3f} s, on one in memory {medians['in memory']:.3f} s")
    print(f"median ratio of {arguments.repeats} pairs: {ratio:.3f}")
    if arguments.output:
        results = {"step_seconds": medians, "ratio": ratio}
        arguments.output.write_text(json.dumps(vars(arguments) | {"output": None} | results, indent=2) + "\n")


if __name__ == "__main__":
    main()
