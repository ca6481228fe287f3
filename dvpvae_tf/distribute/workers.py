"""Several machines that train one model: how they connect, which one writes files, and how they share its state.

Each machine runs the same command. `TF_CONFIG` lists all addresses and says which of them is the machine's own:

    TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'

The chief is worker 0, or the task of type `chief` where there is one. It alone reads and writes the run folder. A
machine that does not answer for ten seconds (a setting of TensorFlow's) counts as lost, and the others end, too.
"""

import contextlib
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.errors import UserError, WorkerLost

ADDRESS = re.compile(r"([^\s:]+|\[.+\]):\d+")
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


def cluster_size() -> int:
    """Counts the machines of `TF_CONFIG`, and checks that this is one of them.

    Returns:
        The number of machines.

    Raises:
        UserError: if the environment variable is missing, cannot be read, or does not list this machine.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(f"strategy multiworker needs the environment variable TF_CONFIG, such as {EXAMPLE}")
    try:
        settings = json.loads(text)
        cluster, task = settings["cluster"], settings["task"]
        jobs = dict(cluster.items())
        kind, index = str(task["type"]), int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise UserError(f"TF_CONFIG {reason}: it should look like {EXAMPLE}") from error
    for name, addresses in jobs.items():
        if not isinstance(addresses, list) or not all(ADDRESS.fullmatch(str(address)) for address in addresses):
            raise UserError(f"TF_CONFIG has {json.dumps(addresses)} as {name}: give a list of addresses host:port")
    if not set(jobs) <= {"chief", "worker"} or len(jobs.get("chief", [])) > 1:
        raise UserError(f"the cluster in TF_CONFIG has {', '.join(jobs)}: give workers, and at most one chief")
    if len(addresses := set(itertools.chain(*jobs.values()))) < sum(map(len, jobs.values())):
        raise UserError(f"TF_CONFIG has one of {', '.join(sorted(addresses))} twice: each process has its own")
    if not 0 <= index < len(jobs.get(kind, [])):
        raise UserError(f"TF_CONFIG says that this is {kind} {index}, which is not in its cluster: correct the task")
    return sum(map(len, jobs.values()))


def connect() -> tf.distribute.MultiWorkerMirroredStrategy:
    """Waits until all machines of `TF_CONFIG` are there.

    Returns:
        The strategy that trains on all of them.

    Raises:
        UserError: if the port is taken, or TensorFlow has been used before.
        WorkerLost: if the chief has not come in an hour (a setting of TensorFlow's).
    """
    interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would not see Ctrl-C before all are there
    print(f"Waiting for all {cluster_size()} workers", flush=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        own = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        address = own.cluster_spec().task_address(own.task_type, own.task_id)
        raise UserError(
            f"cannot listen at {address} ({error.message}): end the process that has the port, or give another"
        ) from error
    except tf.errors.DeadlineExceededError as error:
        raise WorkerLost("the chief has not come: check the addresses in TF_CONFIG, and start all workers") from error
    except RuntimeError as error:
        raise UserError("strategy multiworker must be made before TensorFlow is used for anything else") from error
    finally:
        signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow catches it, and would train on until killed
    return strategy


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that reads and writes files.

    Args:
        strategy: the strategy of the training.
    """
    return strategy.extended.should_checkpoint


def are_several(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy is for several machines.

    Args:
        strategy: any strategy.
    """
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def compile_step(model: keras.Model, step: Callable[[Any], dict[str, tf.Tensor]]) -> Callable:
    """Compiles a step for `fit` or `evaluate` on several machines, where Keras cannot reduce logs that are scalars.

    Args:
        model: compiled, its strategy one for several machines.
        step: `train_step` or `test_step` of the model.

    Returns:
        A function of the iterator over the batches. It takes `model.steps_per_execution` steps and returns the logs
        that the last of them has on the first device: all devices have the same.
    """
    strategy = model.distribute_strategy

    def run(batch):
        logs = strategy.run(step, args=(batch,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}

    if not model.run_eagerly:
        run = tf.function(run, reduce_retracing=True, jit_compile=model.jit_compile)

    def next_steps(iterator):
        for _ in range(model.steps_per_execution):
            logs = run(next(iterator))
        return logs

    return next_steps


@tf.function
def _sum_of_first_replica(values):
    context = tf.distribute.get_replica_context()
    first = tf.cast(context.replica_id_in_sync_group, tf.int32) == 0
    mine = [tf.where(first, value, tf.zeros_like(value)) for value in values]
    return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in mine]


def broadcast_from_chief(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> list[tf.Tensor]:
    """Sends the chief's values to all workers, which call this together.

    Args:
        strategy: the strategy of all workers.
        values: tensors, variables or numbers, of the same shapes and types on all workers.

    Returns:
        The chief's values.
    """
    received = strategy.run(_sum_of_first_replica, args=([tf.convert_to_tensor(value) for value in values],))
    return [strategy.experimental_local_results(value)[0] for value in received]


@contextlib.contextmanager
def raise_worker_lost() -> Iterator[None]:
    """Turns the errors that TensorFlow raises when another worker ends into one of ours.

    Raises:
        WorkerLost: in place of `UnavailableError` and `AbortedError`.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise WorkerLost(
            "another worker has ended or cannot be reached, and its own output may say why: start all workers again "
            "with the same command, and training goes on after the last finished epoch"
        ) from error
