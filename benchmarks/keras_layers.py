"""Times a training step with one of our layers, or the optimizer, replaced by Keras's; `--help` lists the options.

All models take their steps in turn, so that all meet the changes of speed of the machine. Ratios are of pairs of steps.
"""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
from unittest import mock

from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip

import evaluate
import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import DVPVAE
from dvpvae_tf.config import TrainConfig, load_config
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.experiments.costs import peak_memory, time_training_steps
from dvpvae_tf.layers.convolution import MemoryEfficientConv2D
from dvpvae_tf.layers.group_norm import AdaptiveGroupNorm
from dvpvae_tf.training.loop import make_model

WARM_UP_STEPS = 2


def keras_convolution(layer, inputs):
    """Applies Keras's SiLU and convolution."""
    return keras.layers.Conv2D.call(layer, keras.ops.silu(inputs) if layer.silu else inputs)


def keras_group_norm(layer, inputs, scale=None, shift=None):
    """Applies Keras's group normalisation, then scale and shift."""
    outputs = keras.layers.GroupNormalization.call(layer, inputs)
    if scale is None:
        return outputs
    return outputs * (1 + scale[:, None, None]) + shift[:, None, None]


def keras_adamax(optimizer):
    """Returns Keras's Adamax with the settings of ours."""
    config = optimizer.get_config()
    config["ema_momentum"] = optimizer.ema_momentum
    return keras.optimizers.Adamax.from_config(config)


CONVOLUTION = MemoryEfficientConv2D, "call", keras_convolution
GROUP_NORM = AdaptiveGroupNorm, "call", keras_group_norm
VARIANTS = {
    "ours": ([], False),
    "Keras's convolution": ([CONVOLUTION], False),
    "Keras's group normalisation": ([GROUP_NORM], False),
    "Keras's Adamax": ([], True),
    "all of Keras's": ([CONVOLUTION, GROUP_NORM], True),
}


class Variant:
    """A model whose step is traced with some parts replaced."""

    def __init__(self, name: str, config: TrainConfig):
        replaced, with_keras_adamax = VARIANTS[name]
        self._patches = [mock.patch.object(*each) for each in replaced]
        size = config.model.image_size
        self._images = np.random.default_rng(0).integers(
            0, 256, (config.batch_size, size, size, config.model.image_channels), "uint8"
        )
        for patch in self._patches:
            patch.start()
        self._model = make_model(config, steps_per_epoch=1000)
        if with_keras_adamax:
            self._model.compile(keras_adamax(self._model.optimizer))
        self._model.adapt(self._images)
        self.first_step = self.steps(WARM_UP_STEPS)[0]
        for patch in self._patches:
            patch.stop()

    def steps(self, number: int) -> list[float]:
        """Returns the seconds of so many steps."""
        return time_training_steps(self._model, self._images, number)


def print_evaluation(arguments):
    """Times draws of `iwae` with a diffusion prior of T = 25, in turn with our layers and with Keras's."""
    shape = (100, *DVPVAE.from_preset(arguments.preset).image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    dtype, evaluations = "mixed_bfloat16" if arguments.mixed_precision else "float32", {}
    for name, (replaced, with_keras_adamax) in VARIANTS.items():
        if not with_keras_adamax:
            with contextlib.ExitStack() as patches:
                for each in replaced:
                    patches.enter_context(mock.patch.object(*each))
                evaluations[name] = evaluate.make_evaluations(arguments.preset, dtype, images, steps=25)["evaluation"]
                evaluations[name](0)  # traces
    seconds = evaluate.measure(evaluations, arguments.pairs)
    print("| `iwae`, 100 rows, T = 25 | ms | ratio of times to ours, median and range |\n|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {1000 * np.median(times):.0f} | {ratio_of(times, seconds['ours'])} |")


def ratio_of(times, ours):
    """The ratios of pairs of times, as text."""
    ratios = np.divide(times, ours)
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def memory_of(name, config):
    """Returns the peak memory in GB of a process that trains one variant, and the seconds of its first step."""
    return Variant(name, config).first_step, peak_memory() / 1e9


def parse_arguments():
    parser = argparse.ArgumentParser(description="Time a training step of our layers against Keras's.")
    parser.add_argument("--preset", default="mnist", help="preset or YAML file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=250, help="images in a step (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--mixed-precision", action="store_true", help="compute in bfloat16")
    parser.add_argument("--evaluation", action="store_true", help="time iwae instead of training")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.evaluation:
        return print_evaluation(arguments)
    settings = {"batch_size": arguments.batch_size, "mixed_precision": arguments.mixed_precision}
    with exit_on_error():
        config = load_config(arguments.preset, settings)
    costs = {}
    for name in VARIANTS:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            costs[name] = process.submit(memory_of, name, config).result()
    variants = {name: Variant(name, config) for name in VARIANTS}
    rounds = [{name: variant.steps(1)[0] for name, variant in variants.items()} for _ in range(arguments.pairs)]
    print(f"{config.name}, batch {config.batch_size}, TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print("| | images per second | ratio of times to ours, median and range | first step, s | peak memory, GB |")
    print("|---|---|---|---|---|")
    for name in VARIANTS:
        times, ours = ([each[variant] for each in rounds] for variant in (name, "ours"))
        first, memory = costs[name]
        rate = config.batch_size / np.median(times)
        print(f"| {name} | {rate:.1f} | {ratio_of(times, ours)} | {first:.1f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
