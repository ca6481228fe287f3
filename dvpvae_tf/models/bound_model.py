"""Training and evaluation of a model whose call gives the terms of a bound for each image."""

import math
import numbers
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.backend.keras_internals import BuiltModel, parameters_of, set_untracked, start_averages
from dvpvae_tf.distribute import workers
from dvpvae_tf.distribute.replicas import pad_images, place_in_global_batch, sum_over_replicas
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.models.outputs import Elbo
from dvpvae_tf.models.training_data import (
    bind_arguments,
    check_arrays_are_bright,
    checked_data,
    images_of,
    one_line_for_pixels,
    refuse,
)
from dvpvae_tf.optimizers import apply_if, as_tensors, as_vector


class BoundModel(BuiltModel):
    """The base of a model that is trained on a bound of the log-likelihood.

    A subclass is called as `model(images, seeds=None, training=False)` and returns the `Elbo` of each image. Its
    constructor makes all weights. `fit` minimises the mean negative ELBO in bits per dimension; `evaluate` reports it
    in nats too. Both work on one device, on several, or on several machines (`tf.distribute`), with the same result.

    To save memory, set the attribute `gradient_accumulation` before `fit`. Each device then computes its share of a
    batch in so many parts, one after the other. The steps are the same, apart from dropout.

    Args:
        image_shape: `(D, D, C)`.
        seed: random seed of training and evaluation.
        **kwargs: passed to `keras.Model`.

    Raises:
        ValueError: if a setting of Keras, or `dtype`, is one that the model cannot compute with, or the seed has more
            than 32 bits.
    """

    train_function: Any  # these three are Keras's, made again where they are None
    test_function: Any
    predict_function: Any

    def __init__(self, image_shape: tuple[int, int, int], seed: int = 0, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)  # pixels and noise stay float32
        _check_dtype(self.dtype_policy)
        height, width, channels = image_shape
        self.image_shape = height, width, channels
        self.seed = seed
        self._gradient_accumulation = 1
        names = ["negative_elbo", "bits_per_dim", "reconstruction", "kl_z", "kl_u"]
        self.bound_metrics = {name: keras.metrics.Mean(name=name) for name in names}
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self.last_gradient_norm = keras.metrics.Mean(name="last_gradient_norm")  # of one step
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")

    def build(self, input_shape: Shape) -> None:
        # int64: TensorFlow keeps int32 variables on the CPU, which a step that XLA compiles for a GPU cannot reach.
        self.training_steps = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="training_steps",
            aggregation="only_first_replica",
        )
        # How many images this evaluation has seen, which is no state of the model.
        seen = keras.Variable(0, dtype="int64", trainable=False, aggregation="only_first_replica", name="images_seen")
        set_untracked(self, "_images_seen", seen)

    @property
    def input_dtype(self) -> str:
        """The dtype of the images that `keras.Model.export` takes, also where the model computes in bfloat16."""
        return "float32"

    @property
    def seed(self) -> int:
        """The random seed of training and evaluation."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        noise.check_seed(seed)
        self._seed = seed
        self.train_function = self.test_function = self.predict_function = None  # their graphs hold the old seed

    @property
    def gradient_accumulation(self) -> int:
        """The number of parts that each device computes its share of a batch in. It is 1 again in a loaded model."""
        return self._gradient_accumulation

    @gradient_accumulation.setter
    def gradient_accumulation(self, parts: int) -> None:
        if not isinstance(parts, numbers.Integral) or parts < 1:
            raise ValueError(f"gradient_accumulation is a whole number from 1 on, got {parts!r}.")
        self._gradient_accumulation = int(parts)
        self.train_function = None  # its graph has the old number of parts

    @property
    def bits_per_nat(self) -> float:
        """Nats of a whole image times this are bits per dimension (Section 6.1)."""
        return 1.0 / (math.prod(self.image_shape) * math.log(2.0))

    @property
    def num_parameters(self) -> int:
        """The number of parameters, including frozen ones; `count_params` counts all variables."""
        return sum(math.prod(weight.shape) for weight in parameters_of(self))

    @property
    def metrics_names(self) -> list[str]:
        """The names of the values that `evaluate` returns, in order, and then of those that only training has."""
        return ["loss", *self.bound_metrics, "gradient_norm", "skipped_steps"]

    @property
    def adapted(self) -> bool:
        """Whether everything that `adapt` computes is there."""
        return True

    def check_adapted(self) -> None:
        """Checks that the model has all that is computed from data, apart from what gradients train.

        Raises:
            ValueError: if it has not.
        """
        if not self.adapted:
            raise ValueError("Call model.adapt(train) first, on the training images: it prepares the pseudoinputs.")

    # What users call

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Prepares the model for training. Takes the arguments of `keras.Model.compile`.

        Raises:
            ValueError: if a loss or metrics are given, no optimizer, or one that scales the loss.
        """
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        refuse(given, "the model has its own loss and metrics")
        if optimizer is None:
            raise ValueError("None is no optimizer: give one, such as dvpvae_tf.FusedAdamax(1e-2).")
        optimizer = keras.optimizers.get(optimizer)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor
        refuse({"loss_scale_factor": scaled or None}, "only float16 needs it, and the model does not compute in that")
        super().compile(optimizer, **kwargs)

    def compile_from_config(self, config: dict) -> None:
        """Compiles a loaded model as it was when it was saved. Keras calls this, as `compile` is our own.

        Args:
            config: what `get_compile_config` returns.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the model. Takes and returns what `keras.Model.fit` does.

        Images are an array or a data set of batches, `[N, D, D, C]`: uint8, or float32 in [0, 1]. A data set may yield
        tuples of images and labels, or dictionaries with "image", too; labels are not used.

        Raises:
            ValueError: if the images are of another shape, type or range, or an array of uint8 images of 0 and 1, there
                are weights of samples or classes, or `adapt` has not been called.
        """
        given = self._checked_arguments(super().fit, x, *args, **kwargs)
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            given.setdefault("shuffle", False)  # else Keras warns that it does not shuffle a data set
        if "validation_data" in given:
            pair = given["validation_data"]
            given["validation_data"] = self._checked_data(tuple(pair) if isinstance(pair, list) else pair)
        check_arrays_are_bright(given["x"], given.get("validation_data"))
        with one_line_for_pixels():
            return super().fit(**given)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> list[float] | dict[str, float]:
        """Evaluates the bound. Takes and returns what `keras.Model.evaluate` does; images are as in `fit`.

        The values are means over the images: "loss" and "bits_per_dim" in bits per dimension; "negative_elbo" and its
        terms "reconstruction", "kl_z" and "kl_u" in nats. A diffusion prior has its bound in continuous time (Eq. 31).

        Raises:
            ValueError: as `fit` does.
        """
        given = self._checked_arguments(super().evaluate, x, *args, **kwargs)
        check_arrays_are_bright(given["x"])
        with one_line_for_pixels():
            return super().evaluate(**given)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Elbo:
        """Computes the terms of the bound of each image. Takes the arguments of `keras.Model.predict`.

        Returns:
            `Elbo` of arrays; it does not depend on the batch size, and its mean is what `evaluate` gives.

        Raises:
            ValueError: as `fit` does.
        """
        self._images_seen.assign(0)
        with one_line_for_pixels():
            return super().predict(self._checked_data(x), *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> list[float] | dict[str, float]:
        """Takes one training step. Takes and returns what `keras.Model.train_on_batch` does.

        Raises:
            ValueError: as `fit` does.
        """
        return super().train_on_batch(**self._checked_arguments(super().train_on_batch, x, *args, **kwargs))

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> list[float] | dict[str, float]:
        """Evaluates the bound of one batch. Takes and returns what `keras.Model.test_on_batch` does.

        Raises:
            ValueError: as `fit` does.
        """
        return super().test_on_batch(**self._checked_arguments(super().test_on_batch, x, *args, **kwargs))

    def predict_on_batch(self, x: Any) -> Elbo:
        """Computes the terms of the bound of each image of one batch, as `predict` does for its first batch.

        Raises:
            ValueError: as `fit` does.
        """
        self._images_seen.assign(0)
        return super().predict_on_batch(self._checked_data(x))

    def _checked_arguments(self, method, *args, **kwargs):
        """The arguments of a call by their names, the images checked."""
        given = bind_arguments(method, args, kwargs)
        return given | {"x": self._checked_data(given["x"])}

    def _checked_data(self, data):
        return checked_data(data, self.image_shape, bool(self.jit_compile))

    def reset_metrics(self) -> None:
        """Resets the metrics and the count of evaluated images."""
        super().reset_metrics()
        self._images_seen.assign(0)

    # Training

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        batch, global_rows = self._batch(data, self.training_steps.value, parts=self.gradient_accumulation)
        with tf.control_dependencies([batch[0]]):  # where the data end, Keras asks for one more step
            self.training_steps.assign_add(1)
        num_images = tf.cast(global_rows, tf.float32)
        # Summed over the replicas the loss is the mean over the global batch.
        sums, gradients = self._accumulated_gradients(batch, self.bits_per_nat / num_images)
        sums, *gradients = sum_over_replicas([sums, *gradients])
        gradient_norm = tf.norm(as_vector(gradients))
        finite = tf.math.is_finite(sums[0]) & tf.math.is_finite(gradient_norm)
        apply_if(self.optimizer, finite, gradients, self.trainable_variables)
        intact = tf.math.is_finite(tf.norm(as_vector([weight.value for weight in self.trainable_variables])))
        counts = tf.cast(finite, tf.float32)  # a skipped step leaves no trace in the means
        # A step after which weights are not finite must not look like progress.
        self._update_bound_metrics(tf.where(intact, sums, math.nan), counts * num_images)
        self.gradient_norm.update_state(tf.where(finite, gradient_norm, 0.0), counts)
        self.last_gradient_norm.reset_state()
        self.last_gradient_norm.update_state(gradient_norm)
        self.skipped_steps.update_state(1.0 - counts)
        return self._bound_results() | {
            "gradient_norm": _mean_or_nan(self.gradient_norm),
            "skipped_steps": self.skipped_steps.result(),
        }

    def _batch(self, data, stream, rows_before=0, parts=1):
        """This replica's images, keys and weights, and the number of images of the global batch.

        `stream` is that of the keys: the number of a training step, or `Stream.EVALUATION`.
        """
        images = images_of(data)
        first_row, global_rows = place_in_global_batch(tf.shape(images)[0])
        images, weights = pad_images(images, parts)
        seeds = noise.row_seeds(self.seed, stream, first_row + rows_before, tf.shape(images)[0])
        return (images, seeds, weights), global_rows

    def _accumulated_gradients(self, batch, scale):
        """The sums of the bound's terms over the images, and the gradients of the loss, part by part.

        The parts take a loop in the graph: only parts that wait for one another share the memory of one.
        """
        parts = self.gradient_accumulation
        if parts == 1:
            return self._sums_and_gradients(batch, scale)

        def add(totals, part):
            sums, gradients = self._sums_and_gradients(part, scale)
            return totals[0] + sums, totals[1] + as_vector(gradients)

        size = sum(math.prod(weight.shape) for weight in self.trainable_variables)
        zeros = tf.zeros(len(self.bound_metrics)), tf.zeros(size)
        split = tuple(tf.reshape(each, [parts, -1, *each.shape[1:]]) for each in batch)
        sums, gradient = tf.foldl(add, split, zeros, parallel_iterations=1)
        return sums, as_tensors(gradient, self.trainable_variables)

    def _sums_and_gradients(self, batch, scale):
        images, seeds, weights = batch
        with tf.GradientTape() as tape:
            elbo = self(images, seeds=seeds, training=True)
            loss = tf.reduce_sum(elbo.negative_elbo * weights) * scale
        if self.losses:
            raise ValueError(
                "The model is trained on its bound alone: leave out add_loss and regularizers of its parts."
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        return self._weighted_sums(elbo, weights), gradients

    # Evaluation

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        (images, seeds, weights), global_rows = self._evaluation_batch(data)
        sums = sum_over_replicas(self._weighted_sums(self(images, seeds=seeds), weights))
        self._update_bound_metrics(sums, tf.cast(global_rows, tf.float32))
        return self._bound_results()

    def predict_step(self, data: Any) -> Elbo:
        (images, seeds, _), _ = self._evaluation_batch(data)
        rows = tf.shape(images_of(data))[0]
        return tf.nest.map_structure(lambda values: values[:rows], self(images, seeds=seeds))

    def _evaluation_batch(self, data):
        """As `_batch`; the keys go on where those of the batch before ended."""
        batch, global_rows = self._batch(data, noise.Stream.EVALUATION, tf.cast(self._images_seen, tf.int32))
        with tf.control_dependencies([batch[0]]):  # as in `train_step`
            self._images_seen.assign_add(tf.cast(global_rows, tf.int64))
        return batch, global_rows

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
        results = {name: _mean_or_nan(metric) for name, metric in self.bound_metrics.items()}
        return {"loss": results["bits_per_dim"], **results}

    # The compiled functions

    def make_train_function(self, force: bool = False) -> None:
        self.check_adapted()
        if not self.trainable_variables:
            raise ValueError("All weights are frozen: set model.trainable = True to train.")
        with self.distribute_strategy.scope():
            if not self.optimizer.built:  # else the first step makes its variables, and is traced twice
                self.optimizer.build(self.trainable_variables)
            start_averages(self.optimizer)
        super().make_train_function(force)
        if workers.are_several(self.distribute_strategy):
            self.train_function = workers.compile_step(self, self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        self.check_adapted()
        super().make_test_function(force)
        if workers.are_several(self.distribute_strategy):
            self.test_function = workers.compile_step(self, self.test_step)

    def make_predict_function(self, force: bool = False) -> None:
        self.check_adapted()
        super().make_predict_function(force)


def _check_dtype(policy: keras.DTypePolicy) -> None:
    """Checks that the model can compute with a dtype policy: float32 or mixed_bfloat16."""
    if policy.name not in ("float32", "mixed_bfloat16"):
        raise ValueError(
            f'The model cannot compute with the dtype policy {policy.name}: give dtype="float32" or '
            'dtype="mixed_bfloat16", or call keras.config.set_dtype_policy with one of these.'
        )


def _mean_or_nan(metric):
    """The result of a mean; NaN, not 0, where all steps were skipped."""
    return tf.where(metric.count > 0, metric.result(), math.nan)
