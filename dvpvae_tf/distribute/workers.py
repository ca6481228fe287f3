"""Several machines that train one model: how they find one another, who writes, and what they must hold alike.

Each runs the same command, and `TF_CONFIG` tells it all addresses and which of them is its own:

    TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'

The chief is worker 0, or the task of type `chief` where there is one: it alone reads and writes the run folder. When a
machine is not heard of for ten seconds (a setting of TensorFlow's), it counts as lost, and the others end, too.
"""

import contextlib
import itertools
import json
import os
import re
import signal

import tensorflow as tf

from dvpvae_tf.errors import UserError, WorkerLost

ADDRESS = re.compile(r"([^\s:]+|\[.+\]):\d+")
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


def cluster_size():
    """Counts the machines of `TF_CONFIG`, and checks that this is one of them.

    Returns:
        int.

    Raises:
        UserError: if the environment variable is missing or is not as said above.
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


def connect():
    """Waits until all machines of `TF_CONFIG` are there.

    Returns:
        `tf.distribute.MultiWorkerMirroredStrategy`.

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


def is_chief(strategy):
    """Whether this process is the one that reads and writes files.

    Args:
        strategy: `tf.distribute.Strategy`.

    Returns:
        bool.
    """
    return strategy.extended.should_checkpoint


@tf.function
def _first_replica_holds(values):
    context = tf.distribute.get_replica_context()
    first = tf.cast(context.replica_id_in_sync_group, tf.int32) == 0
    mine = [tf.where(first, value, tf.zeros_like(value)) for value in values]
    return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in mine]


def of_chief(strategy, values):
    """What the chief holds.

    Args:
        strategy: `tf.distribute.Strategy`.
        values: list of tensors, variables or numbers, on all workers of the same shapes.

    Returns:
        list of tensors, the chief's.
    """
    held = strategy.run(_first_replica_holds, args=([tf.convert_to_tensor(value) for value in values],))
    return [strategy.experimental_local_results(value)[0] for value in held]


@contextlib.contextmanager
def loss_of_worker_told():
    """Turns the errors of TensorFlow that tell the loss of another worker into one of ours.

    Raises:
        WorkerLost: in their place.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise WorkerLost(
            "another worker has ended or cannot be reached, and its own output may say why: start all workers again "
            "with the same command, and training goes on after the last finished epoch"
        ) from error
