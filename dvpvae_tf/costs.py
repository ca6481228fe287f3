"""What training and sampling a model cost: time and memory (Table 6)."""

import concurrent.futures
import multiprocessing
import resource
import statistics
import sys
import time

import tensorflow as tf

from dvpvae_tf.training import make_model

BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
WARM_UP_STEPS = 2  # the first traces the graph


def measure_in_new_process(config, images, timed_steps, timed_images):
    """Measures in a process of its own, whose peak memory is that of this model alone.

    Args:
        config: see `measure`.
        images: see `measure`.
        timed_steps: see `measure`.
        timed_images: see `measure`.

    Returns:
        See `measure`.
    """
    kept = images[: max(config.batch_size, config.model.vamp_components)]
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(measure, config, kept, len(images), timed_steps, timed_images).result()


def measure(config, images, epoch_images, timed_steps, timed_images):
    """Measures the training steps and the sampler of a model.

    Args:
        config: `dvpvae_tf.config.TrainConfig`.
        images: uint8 array `[N, D, D, C]`, at least a batch, and as many as a VampPrior starts from.
        epoch_images: int, images in an epoch.
        timed_steps: int, how many steps are timed, after two to warm up; the median counts.
        timed_images: int, how many images are sampled, after a batch to warm up.

    Returns:
        dict: "epoch_seconds"; "memory_gb", the peak of the device's memory, or of the process where there is no GPU,
        data and library included; "parameters"; "sample_seconds" for 1,000 images.
    """
    steps_per_epoch = max(1, epoch_images // config.batch_size)
    model = make_model(config, steps_per_epoch)
    model.adapt(images)
    seconds = time_training_steps(model, images[: config.batch_size], WARM_UP_STEPS + timed_steps)
    batch_size = min(100, timed_images)
    model.sample(batch_size)
    sample_seconds = _seconds(lambda: [*model.sample_in_batches(timed_images, batch_size=batch_size)])
    return {
        "epoch_seconds": statistics.median(seconds[WARM_UP_STEPS:]) * steps_per_epoch,
        "memory_gb": peak_memory() / 1e9,
        "parameters": model.num_parameters,
        "sample_seconds": sample_seconds * 1000 / timed_images,
    }


def time_training_steps(model, images, steps):
    """Times training steps on one batch.

    Args:
        model: `DVPVAE`, compiled and adapted.
        images: array `[N, D, D, C]`, the batch.
        steps: int, how many.

    Returns:
        list of float, seconds; the first step traces the graph, the next may still warm up.
    """
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(images).repeat())
    return [_seconds(lambda: float(model.train_function(batches)["negative_elbo"])) for _ in range(steps)]


def _seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_memory():
    """Reads the peak of the GPU's memory, or, where there is none, of that of the process.

    Returns:
        int, bytes.
    """
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT
