"""Batches on all devices of the machine: each device has a copy of the model, and they take batches in turn."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import keras
import tensorflow as tf

WAITING_BATCHES = 2  # for each function: finished or running, while the oldest result is not taken yet


def device_names() -> list[str]:
    """Lists the names of this machine's GPUs, or of its CPUs if it has no GPU."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def copies_on_other_devices(model: keras.Model) -> list[keras.Model]:
    """Copies a model to the other devices of this machine, see `device_names`.

    Args:
        model: on the first device.

    Returns:
        A copy on each device but the first. They do not follow later changes of the model's weights.
    """
    copies = []
    for name in device_names()[1:]:
        with tf.device(name):
            copies.append(type(model).from_config(model.get_config()))
            copies[-1].set_weights(model.get_weights())
    return copies


def device_of(model: keras.Model) -> AbstractContextManager:
    """Makes the device scope of a model: operations in it run on the model's device.

    Args:
        model: built.

    Returns:
        A context manager.
    """
    # Ask a float weight: TensorFlow keeps some integer variables on the CPU of a machine with a GPU.
    weight = next(weight for weight in model.variables if tf.as_dtype(weight.dtype).is_floating)
    return tf.device(weight.value.device)


def map_round_robin(functions: Sequence[Callable], items: Iterable) -> Iterator:
    """Calls N functions with the items in turn; each function runs in its own thread.

    Args:
        functions: functions of an item; function i gets the items i, i + N, i + 2 N, ..., one by one.
        items: what they are called with.

    Yields:
        The results, in the order of the items.
    """
    if len(functions) == 1:
        yield from map(functions[0], items)
        return
    threads = [ThreadPoolExecutor(1) for _ in functions]
    results: deque[Future] = deque()
    try:
        for thread, function, item in zip(itertools.cycle(threads), itertools.cycle(functions), items, strict=False):
            if len(results) == WAITING_BATCHES * len(functions):
                yield results.popleft().result()
            results.append(thread.submit(function, item))
        while results:
            yield results.popleft().result()
    finally:
        for thread in threads:
            thread.shutdown(cancel_futures=True)
