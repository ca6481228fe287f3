"""Costs of training and sampling: time and memory (Table 6), and floating-point operations."""

import concurrent.futures
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import tensorflow as tf

from dvpvae_tf import DVPVAE
from dvpvae_tf.config import TrainConfig
from dvpvae_tf.errors import UserError
from dvpvae_tf.models.sampling import sample_in_batches
from dvpvae_tf.training.loop import make_model

BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
WARM_UP_STEPS = 2  # the first traces the graph


def measure_in_new_process(
    config: TrainConfig, images: np.ndarray, timed_steps: int, timed_images: int
) -> dict[str, float]:
    """Runs `measure` in a process of its own, whose peak memory this model alone causes.

    Args:
        config: the settings of the model and its training.
        images: uint8 array `[N, D, D, C]`, the training images.
        timed_steps: how many training steps are timed.
        timed_images: how many images are sampled.

    Returns:
        The costs that `measure` gives.

    Raises:
        UserError: if the process was killed, as it is where memory is full.
    """
    kept = images[: max(config.batch_size, config.model.vamp_components)]
    fresh = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
            return process.submit(measure, config, kept, len(images), timed_steps, timed_images).result()
    except BrokenProcessPool as error:
        raise UserError("the measuring process was killed: is there enough memory? --scale smoke needs less") from error


def measure(
    config: TrainConfig, images: np.ndarray, epoch_images: int, timed_steps: int, timed_images: int
) -> dict[str, float]:
    """Measures the training steps and the sampler of a model.

    Args:
        config: the settings of the model and its training.
        images: uint8 array `[N, D, D, C]`, at least a batch, and as many as a VampPrior starts from.
        epoch_images: images in an epoch.
        timed_steps: how many steps are timed, after two to warm up; the median counts.
        timed_images: how many images are sampled, after a batch to warm up.

    Returns:
        "epoch_seconds"; "memory_gb", the peak of the device's memory, or of the process where there is no GPU, data and
        library included; "parameters"; "sample_seconds" for 1,000 images.
    """
    steps_per_epoch = max(1, epoch_images // config.batch_size)
    model = make_model(config, steps_per_epoch)
    model.adapt(images)
    seconds = time_training_steps(model, images[: config.batch_size], WARM_UP_STEPS + timed_steps)
    batch_size = min(100, timed_images)
    model.sample(batch_size)
    sample_seconds = _seconds(lambda: [*sample_in_batches(model, timed_images, batch_size=batch_size)])
    return {
        "epoch_seconds": statistics.median(seconds[WARM_UP_STEPS:]) * steps_per_epoch,
        "memory_gb": peak_memory() / 1e9,
        "parameters": model.num_parameters,
        "sample_seconds": sample_seconds * 1000 / timed_images,
    }


def time_training_steps(model: DVPVAE, images: np.ndarray, steps: int) -> list[float]:
    """Times training steps on one batch.

    Args:
        model: the model, compiled and adapted.
        images: uint8 array `[N, D, D, C]`, the batch.
        steps: how many steps to take.

    Returns:
        The seconds of each step; the first step traces the graph, the next may still warm up.
    """
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(images).repeat())
    return [_seconds(lambda: float(model.train_function(batches)["negative_elbo"])) for _ in range(steps)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def training_flops(model: DVPVAE, batch_size: int) -> float:
    """Counts the floating-point operations of a training step, forward and backward, in the graph of one.

    Those of convolutions and matrix products count, two for each multiplication and addition; what is left out
    (activations, noise, the optimizer) is a small part of the operations, though not of the time.

    Args:
        model: the model.
        batch_size: images in a step, which share the cost of a VampPrior's components.

    Returns:
        Operations for each image.
    """

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True).negative_elbo)
        return tape.gradient(loss, model.trainable_variables)

    graph = gradients.get_concrete_function(tf.TensorSpec([batch_size, *model.image_shape], tf.uint8)).graph
    return graph_flops(graph) / batch_size


def graph_flops(graph: tf.Graph) -> int:
    """Counts the floating-point operations of the convolutions and matrix products of a graph and of those it calls.

    Args:
        graph: the graph, with static shapes.

    Returns:
        Operations, two for each multiplication and addition.
    """
    counters = {
        "Conv2D": lambda op: _convolution(op.outputs[0], op.inputs[1]),
        "Conv2DBackpropInput": lambda op: _convolution(op.inputs[2], op.inputs[1]),
        "Conv2DBackpropFilter": lambda op: _convolution(op.inputs[2], op.outputs[0]),
        "MatMul": lambda op: _product(op, "transpose_a"),
        "BatchMatMulV2": lambda op: _product(op, "adj_x"),
        "Einsum": _einsum,
    }
    operations = graph.get_operations()
    called = [graph._get_function(op.get_attr("f").name).graph for op in operations if op.type == "PartitionedCall"]
    return 2 * sum(counters[op.type](op) for op in operations if op.type in counters) + sum(map(graph_flops, called))


def _convolution(outputs: tf.Tensor, kernel: tf.Tensor) -> int:
    """Multiplications of a convolution `[N, h, w, out]`, its kernel `[height, width, in, out]`, or of a gradient."""
    return math.prod(outputs.shape) * math.prod(kernel.shape[:3])


def _product(op: tf.Operation, transposed: str) -> int:
    return math.prod(op.outputs[0].shape) * op.inputs[0].shape[-2 if op.get_attr(transposed) else -1]


def _einsum(op: tf.Operation) -> int:
    indices = op.get_attr("equation").decode().split("->")[0].split(",")
    pairs = zip(indices, op.inputs, strict=True)
    return math.prod({i: size for letters, x in pairs for i, size in zip(letters, x.shape, strict=True)}.values())


def peak_memory() -> int:
    """Reads the peak memory of the GPU or, without one, of the process.

    Returns:
        Bytes.
    """
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT
