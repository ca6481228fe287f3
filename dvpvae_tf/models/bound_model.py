"""Training and evaluation of a model whose call gives the terms of a bound for each image."""

import math

import keras
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.keras_internals import BuiltModel, sum_no_gradients
from dvpvae_tf.models.outputs import Elbo
from dvpvae_tf.optimizers import as_tensors, as_vector


class BoundModel(BuiltModel):
    """The base of a model that is trained on a bound of the log-likelihood.

    A subclass is called as `model(images, seeds=None, training=False)` and gives the `Elbo` of each image; all its
    weights are there when its constructor returns. `fit` minimises the mean negative ELBO in bits per dimension, and
    `evaluate` reports it in nats too. Both work on one device, several, or several machines (`tf.distribute`), with the
    same result.

    Its attribute `gradient_accumulation`, 1 unless set before `fit`, is the number of parts in which each device
    computes its share of a batch, one after the other: the same steps (apart from dropout) in less memory. It must
    divide that share.

    Args:
        image_shape: `(D, D, C)`.
        seed: int, of all noise in training and evaluation.
        **kwargs: passed to `keras.Model`.
    """

    def __init__(self, image_shape: tuple[int, int, int], seed: int = 0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # pixels and noise stay float32
        self.image_shape = tuple(image_shape)
        self.seed = seed
        self.gradient_accumulation = 1
        names = ["negative_elbo", "bits_per_dim", "reconstruction", "kl_z", "kl_u"]
        self.bound_metrics = {name: keras.metrics.Mean(name=name) for name in names}
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self.last_gradient_norm = keras.metrics.Mean(name="last_gradient_norm")  # of one step
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")

    def build(self, input_shape):
        # int64: TensorFlow keeps int32 variables on the CPU, which a step that XLA compiles for a GPU cannot reach.
        self.training_steps = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="training_steps",
            aggregation="only_first_replica",
        )
        # How many images this evaluation has seen. Hidden from Keras, as it is no state of the model.
        seen = keras.Variable(0, dtype="int64", trainable=False, aggregation="only_first_replica", name="images_seen")
        object.__setattr__(self, "_images_seen", seen)

    @property
    def bits_per_nat(self) -> float:
        """Nats of a whole image times this are bits per dimension (Section 6.1)."""
        return 1.0 / (math.prod(self.image_shape) * math.log(2.0))

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters; `count_params` counts all variables."""
        return sum(math.prod(weight.shape) for weight in self.trainable_weights)

    @property
    def adapted(self) -> bool:
        """Whether everything that `adapt` computes is there."""
        return True

    def check_adapted(self) -> None:
        """Checks that `adapt` has been called.

        Raises:
            ValueError: if it has not.
        """
        if not self.adapted:
            raise ValueError("Call model.adapt(train) first, on the training images: it prepares the pseudoinputs.")

    def fit(self, x=None, *args, **kwargs) -> keras.callbacks.History:
        """Trains the model. Arguments and result are those of `keras.Model.fit`.

        Raises:
            ValueError: if `adapt` has not been called.
        """
        self.check_adapted()
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            kwargs.setdefault("shuffle", False)  # else Keras warns that it does not shuffle a data set
        if self.compiled and not self.optimizer.built:
            # Else the first step makes the optimizer's variables, and is traced twice.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """Evaluates the bound. Arguments and result are those of `keras.Model.evaluate`.

        Raises:
            ValueError: if `adapt` has not been called.
        """
        self.check_adapted()
        return super().evaluate(*args, **kwargs)

    def reset_metrics(self) -> None:
        """Resets the metrics and the count of evaluated images."""
        super().reset_metrics()
        self._images_seen.assign(0)

    # Training

    def train_step(self, data):
        images = _images_of(data)
        first_row, global_rows = _place_in_global_batch(tf.shape(images)[0])
        seeds = noise.row_seeds(self.seed, self.training_steps.value, first_row, tf.shape(images)[0])
        self.training_steps.assign_add(1)
        num_images = tf.cast(global_rows, tf.float32)
        # Summed over the replicas the loss is the mean over the global batch.
        sums, gradients = self._accumulated_gradients(images, seeds, self.bits_per_nat / num_images)
        sums, *gradients = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [sums, *gradients]
        )
        gradient_norm = tf.norm(as_vector(gradients))
        finite = tf.math.is_finite(sums[0]) & tf.math.is_finite(gradient_norm)
        self._apply_if(finite, gradients)
        counts = tf.cast(finite, tf.float32)  # a skipped step leaves no trace in the means
        self._update_bound_metrics(sums, counts * num_images)
        self.gradient_norm.update_state(_finite_or_zero(gradient_norm), counts)
        self.last_gradient_norm.reset_state()
        self.last_gradient_norm.update_state(gradient_norm)
        self.skipped_steps.update_state(1.0 - counts)
        return self._bound_results() | {
            "gradient_norm": self.gradient_norm.result(),
            "skipped_steps": self.skipped_steps.result(),
        }

    def _accumulated_gradients(self, images, seeds, scale):
        """The sums of the bound's terms over the images, and the gradients of the loss, part by part."""
        parts = self.gradient_accumulation
        if parts == 1:
            return self._sums_and_gradients(images, seeds, scale)
        rows = images.shape[0]
        if rows is not None and rows % parts:
            raise ValueError(
                f"{rows} images cannot be shared out evenly to {parts} parts: change gradient_accumulation."
            )

        def add(totals, part):
            sums, gradients = self._sums_and_gradients(*part, scale)
            return totals[0] + sums, totals[1] + as_vector(gradients)

        zeros = tf.zeros(len(self.bound_metrics)), tf.zeros(self.num_parameters)
        split = [tf.reshape(each, [parts, -1, *each.shape[1:]]) for each in (images, seeds)]
        sums, gradient = tf.foldl(add, split, zeros, parallel_iterations=1)
        return sums, as_tensors(gradient, self.trainable_variables)

    def _sums_and_gradients(self, images, seeds, scale):
        with tf.GradientTape() as tape:
            elbo = self(images, seeds=seeds, training=True)
            loss = tf.reduce_sum(elbo.negative_elbo) * scale
        gradients = tape.gradient(loss, self.trainable_variables)
        return self._weighted_sums(elbo, tf.ones_like(elbo.kl_u)), gradients

    def _apply_if(self, finite, gradients):
        """Applies gradients that are summed over the replicas already, or, on all replicas alike, skips the step."""
        if _num_replicas() > 1:
            sum_no_gradients(self.optimizer)

        def apply():
            self.optimizer.apply(gradients, self.trainable_variables)

        def decide(strategy, finite):
            # The choice is made outside the replicas: the optimizer cannot update variables inside a replica's branch.
            finite = strategy.experimental_local_results(finite)[0]
            tf.cond(finite, lambda: strategy.extended.call_for_each_replica(apply), lambda: None)

        tf.distribute.get_replica_context().merge_call(decide, args=(finite,))

    # Evaluation

    def test_step(self, data):
        images = _images_of(data)
        first_row, global_rows = _place_in_global_batch(tf.shape(images)[0])
        weights = tf.ones(tf.shape(images)[0])
        if _num_replicas() > 1:
            # The last batch may leave a replica without images: each takes one more, of no weight.
            images = tf.pad(images, [[0, 1], [0, 0], [0, 0], [0, 0]])
            weights = tf.pad(weights, [[0, 1]])
        seen = tf.cast(self._images_seen, tf.int32)
        seeds = noise.row_seeds(self.seed, noise.Stream.EVALUATION, seen + first_row, tf.shape(images)[0])
        self._images_seen.assign_add(global_rows)
        sums = self._weighted_sums(self(images, seeds=seeds), weights)
        context = tf.distribute.get_replica_context()
        self._update_bound_metrics(
            context.all_reduce(tf.distribute.ReduceOp.SUM, sums), tf.cast(global_rows, tf.float32)
        )
        return self._bound_results()

    # Metrics of the bound

    def _weighted_sums(self, elbo: Elbo, weights):
        """Weighted sums over the images of what the metrics of the bound are means of, in their order."""
        values = {
            "negative_elbo": elbo.negative_elbo,
            "bits_per_dim": elbo.negative_elbo * self.bits_per_nat,
            "reconstruction": elbo.reconstruction,
            "kl_z": tf.reduce_sum(elbo.kl_z, axis=1),
            "kl_u": elbo.kl_u,
        }
        ordered = [values[name] for name in self.bound_metrics]
        return tf.stack([tf.reduce_sum(tf.where(weights > 0, value * weights, 0.0)) for value in ordered])

    def _update_bound_metrics(self, sums, num_images):
        """Adds the means over the global batch, so that every replica holds the same metrics."""
        for metric, value in zip(self.bound_metrics.values(), tf.unstack(sums), strict=True):
            metric.update_state(tf.math.divide_no_nan(value, num_images), num_images)

    def _bound_results(self):
        return {name: metric.result() for name, metric in self.bound_metrics.items()}

    # Several machines: there Keras cannot reduce logs that are scalars.

    def make_train_function(self, force=False):
        super().make_train_function(force)
        if self._several_machines:
            self.train_function = self._function_of_several_machines(self.train_step)

    def make_test_function(self, force=False):
        super().make_test_function(force)
        if self._several_machines:
            self.test_function = self._function_of_several_machines(self.test_step)

    @property
    def _several_machines(self):
        return isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def _function_of_several_machines(self, step):
        """What `fit` and `evaluate` call with an iterator. Logs are the same on all devices: the first gives them."""
        strategy = self.distribute_strategy

        def run(batch):
            logs = strategy.run(step, args=(batch,))
            return {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}

        if not self.run_eagerly:
            run = tf.function(run, reduce_retracing=True, jit_compile=self.jit_compile)

        def next_steps(iterator):
            for _ in range(self.steps_per_execution):
                logs = run(next(iterator))
            return logs

        return next_steps


def _images_of(data):
    """The images in what `fit` and `evaluate` pass on: alone, or first in a tuple."""
    return keras.utils.unpack_x_y_sample_weight(data)[0]


def _num_replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def _place_in_global_batch(rows):
    """The index of this replica's first row in the global batch, and the number of rows of that batch."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return 0, rows
    replica = context.replica_id_in_sync_group
    mine = tf.one_hot(replica, context.num_replicas_in_sync, on_value=rows, off_value=0, dtype=tf.int32)
    counts = context.all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return tf.reduce_sum(counts[:replica]), tf.reduce_sum(counts)


def _finite_or_zero(value):
    return tf.where(tf.math.is_finite(value), value, 0.0)
