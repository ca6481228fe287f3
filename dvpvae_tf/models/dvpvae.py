"""The model: a TopDown hierarchical VAE whose priors are conditioned on a pseudoinput (Sections 3 and 4)."""

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.distribute.devices import device_of, in_turn
from dvpvae_tf.distribute.sharding import smaller_batch
from dvpvae_tf.layers.pseudoinputs import to_unit_range
from dvpvae_tf.models.bottom_up import BottomUp
from dvpvae_tf.models.top_down import TopDown
from dvpvae_tf.optimizers import as_tensors, as_vector

# Streams of noise beside those of the training steps 0, 1, ...
EVALUATION_STREAM = -1
SAMPLING_STREAM = -2
# On each device: many operations of a sampling step are too small to keep one busy.
BATCHES_AT_ONCE = 2


class Elbo(NamedTuple):
    """The terms of the bound for each image (Eq. 15), float32, in nats.

    `reconstruction` `[N]` is -log p(x|z), `kl_z` `[N, L]` the KL of each layer, top first, `kl_u` `[N]` that of u.
    """

    reconstruction: object
    kl_z: object
    kl_u: object

    @property
    def negative_elbo(self):
        """Their sum, float32 `[N]`, nats."""
        return self.reconstruction + keras.ops.sum(self.kl_z, axis=1) + self.kl_u


class Encoding(NamedTuple):
    """What needs images alone and is computed once for however many draws.

    `features` are those of the bottom-up path, a dict from the side of each scale to `[N, side, side, channels]` in the
    compute dtype; `pseudoinput_mean` is f(x), float32 `[N, d, d, C]`, or None for the Ladder VAE; `top_components` are
    those of a VampPrior, a mean and a log-variance `[K, h, w, latent channels]`, or None.
    """

    features: dict
    pseudoinput_mean: object
    top_components: object


class Inference(NamedTuple):
    """What the model infers of images. Lists run over the layers, top first; all float32.

    `pseudoinput` `[N, d, d, C]` is u (None for the Ladder VAE), `kl` and `log_ratio` (log p(z_l) - log q(z_l) at the
    latents drawn) have shape `[N]` a layer, in nats, `latents`, means and log-variances
    `[N, side, side, latent channels]`, and `likelihood_params` `[N, D, D, parameters]`. Under a VampPrior the top layer
    has the posterior's mean and log-variance for the prior's, and the KL of the draw.
    """

    pseudoinput: object
    posterior_means: list
    posterior_log_vars: list
    prior_means: list
    prior_log_vars: list
    kl: list
    log_ratio: list
    latents: list
    likelihood_params: object


class Samples(NamedTuple):
    """Generated images `[N, D, D, C]` and the pseudoinputs they came from, decoded, both float32 in [0, 1].

    `pseudoinputs` is None for the Ladder VAE.
    """

    images: object
    pseudoinputs: object


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DVPVAE(keras.Model):
    """The hierarchical VAE with a diffusion-based VampPrior, or, without a pseudoinput, the Ladder VAE (Table 5).

    Images go in as uint8, or float32 in [0, 1], `[N, D, D, C]`. Called as `model(images, seeds=None)` it gives the
    `Elbo` of each image. `fit` minimises the negative ELBO in bits per dimension; `evaluate` reports it in nats too.

    Example:
        >>> model = DVPVAE.from_preset("mnist5k")
        >>> model.adapt(train)
        >>> model.compile(dvpvae_tf.Adamax(1e-2, global_clipnorm=5.0, use_ema=True))
        >>> model.fit(train, validation_data=validation, epochs=2)
        >>> images = model.sample(16, temperature=0.9, seed=0)

    Its attribute `gradient_accumulation`, 1 unless set before `fit`, is the number of parts that each device computes
    its share of a batch in, one after the other: the same steps (apart from dropout) in less memory. It divides that
    share.

    Args:
        image_shape: `(D, D, C)`.
        scales: sides of the latents, fine to coarse; each divides the one before, the first divides D.
        layers_per_scale: how many stochastic layers each of them has.
        likelihood: p(x|z), from `dvpvae_tf.models.likelihoods`.
        pseudoinput: r(u|x), a `Pseudoinput`; None for the Ladder VAE.
        prior: r(u), from `dvpvae_tf.priors`; None for the Ladder VAE.
        top_prior: a `VampPrior` over the top latent, in place of its conditional Gaussian, or None (Table 6).
        channels: int, channels of the features (Table 7: C_in).
        hidden_channels: int, channels of the residual blocks' bottleneck (C_hid).
        latent_channels: int, channels of each z.
        encoder_blocks: int, residual blocks a scale of the bottom-up path (N_enc).
        likelihood_input: str, what the likelihood sees: "all_latents" (Eq. 18: latent aggregation), "last_latent"
            (Eq. 21) or "last_features" (Eq. 22).
        binary_encoder_input: bool, whether the encoder and the pseudoinput see the likelihood's binary target instead
            of the grey image.
        input_mean: float, subtracted from the pixels in 0..255 before the encoder.
        input_std: float, what they are then divided by.
        seed: int, of all noise in training and evaluation.
        **kwargs: passed to `keras.Model`.

    Raises:
        ValueError: if the sizes do not fit one another.

    Source: Sections 3 and 4, Figure 2.
    """

    def __init__(
        self,
        image_shape,
        scales,
        layers_per_scale,
        likelihood,
        pseudoinput=None,
        prior=None,
        top_prior=None,
        channels=32,
        hidden_channels=32,
        latent_channels=1,
        encoder_blocks=3,
        likelihood_input="all_latents",
        binary_encoder_input=False,
        input_mean=127.5,
        input_std=127.5,
        seed=0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # pixels and noise stay float32
        self.image_shape = tuple(image_shape)
        self.likelihood = likelihood
        self.pseudoinput = pseudoinput
        self.prior = prior
        self.top_prior = top_prior
        self.binary_encoder_input = binary_encoder_input
        self.input_mean = input_mean
        self.input_std = input_std
        self.seed = seed
        self.gradient_accumulation = 1
        self.bottom_up = BottomUp(
            scales, channels, hidden_channels, encoder_blocks, dtype=self.dtype_policy, name="bottom_up"
        )
        self.top_down = TopDown(
            self.image_shape[0],
            scales,
            layers_per_scale,
            channels,
            hidden_channels,
            latent_channels,
            likelihood.num_parameters(self.image_shape[-1]),
            likelihood_input,
            top_prior=top_prior is None,
            dtype=self.dtype_policy,
            name="top_down",
        )
        self._check_sizes()
        self._make_metrics()
        self.build((None, *self.image_shape))
        self._generate = tf.function(self.generate, reduce_retracing=True)

    def _check_sizes(self):
        height, width, _ = self.image_shape
        sides = (height, *self.top_down.scales)
        if height != width or any(fine % coarse for fine, coarse in zip(sides, sides[1:], strict=False)):
            raise ValueError(
                f"Images must be square and each scale must divide the one before, got images of {height} x {width} "
                f"and scales {list(self.top_down.scales)}."
            )
        if (self.pseudoinput is None) != (self.prior is None):
            raise ValueError("Give both a pseudoinput and its prior, or neither (the Ladder VAE).")
        if self.pseudoinput is not None and self.top_prior is not None:
            raise ValueError("Give a pseudoinput or a VampPrior over the top latent, not both.")

    def build(self, input_shape):
        self.bottom_up.build(input_shape)
        condition_shape = None
        if self.pseudoinput is not None:
            if not self.pseudoinput.built:  # Keras builds what it deserialises
                self.pseudoinput.build(input_shape)
            if not self.prior.built:
                self.prior.build((None, *self.pseudoinput.shape))
            condition_shape = (None, *self.image_shape)
        if self.top_prior is not None and not self.top_prior.built:
            self.top_prior.build(input_shape)
        self.top_down.build(None, condition_shape=condition_shape)
        # int64: TensorFlow keeps int32 variables on the CPU, which a step that XLA compiles for a GPU cannot reach.
        self.training_steps = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="training_steps",
            aggregation="only_first_replica",
        )
        # How many images this evaluation has seen: kept from Keras's tracking, as it is no state of the model.
        seen = keras.Variable(0, dtype="int64", trainable=False, aggregation="only_first_replica", name="images_seen")
        object.__setattr__(self, "_images_seen", seen)

    def _make_metrics(self):
        names = ["negative_elbo", "bits_per_dim", "reconstruction", "kl_z", "kl_u"]
        self.bound_metrics = {name: keras.metrics.Mean(name=name) for name in names}
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self.last_gradient_norm = keras.metrics.Mean(name="last_gradient_norm")  # of one step
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")

    @property
    def bits_per_nat(self):
        """float: nats of a whole image times this are bits per dimension (Section 6.1)."""
        return 1.0 / (math.prod(self.image_shape) * math.log(2.0))

    @property
    def num_parameters(self):
        """int: how many trainable numbers the model has; `count_params` counts its state, too."""
        return sum(math.prod(weight.shape) for weight in self.trainable_weights)

    @property
    def num_layers(self):
        """int, L: the number of stochastic layers."""
        return len(self.top_down.blocks)

    # The bound

    def call(self, images, seeds=None, training=False):
        images = self.prepare(images)
        if seeds is None:
            seeds = noise.row_seeds(self.seed, EVALUATION_STREAM, 0, tf.shape(images)[0])
        target = self.target(images, seeds)
        bound_noise, *walk_noise = self._draw_for_bound(seeds)
        inference = self.walk(self.encode(target if self.binary_encoder_input else images), walk_noise)
        log_likelihood = self.likelihood.distribution(inference.likelihood_params).log_prob(target)
        kl_u = self._kl_u(inference.pseudoinput, bound_noise, training)
        return Elbo(-log_likelihood, tf.stack(inference.kl, axis=1), kl_u + tf.zeros_like(log_likelihood))

    def prepare(self, images):
        """Gives images as `encode` and `target` take them.

        Args:
            images: tensor `[N, D, D, C]`: uint8, or float in [0, 1].

        Returns:
            float32 tensor `[N, D, D, C]` in [0, 1].

        Raises:
            ValueError: if the images are of another shape.
            tf.errors.InvalidArgumentError: if float images leave [0, 1].
        """
        if tuple(images.shape[1:]) != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"The model takes images [N, {expected}], got {tuple(images.shape)}.")
        return to_unit_range(images)

    def target(self, images, seeds):
        """What the likelihood scores: of grey images, one binary draw each (dynamic binarization).

        Args:
            images: float32 tensor `[N, D, D, C]` in [0, 1].
            seeds: int32 tensor `[N, 2]`, one key an image.

        Returns:
            float32 tensor `[N, D, D, C]`.
        """
        if not self.likelihood.needs_uniform:
            return self.likelihood.target(images)
        uniform = noise.uniform(seeds, math.prod(self.image_shape))
        return self.likelihood.target(images, tf.reshape(uniform, tf.shape(images)))

    @property
    def walk_noise_shapes(self):
        """Shapes a row, a list of tuples, of the noise that `walk` takes, of u and of each z."""
        return [self.pseudoinput.shape if self.pseudoinput else (0,), *self.top_down.latent_shapes]

    def _draw_for_bound(self, seeds):
        """The noise of the bound of u, and that of `walk`."""
        bound_size = self.prior.bound_noise_size if self.prior else 0
        return noise.normals(noise.fork(seeds, 1), [(bound_size,), *self.walk_noise_shapes])

    def encode(self, images):
        """The bottom-up path and the mean of the pseudoinput.

        Args:
            images: float32 tensor `[N, D, D, C]` in [0, 1].

        Returns:
            `Encoding`.
        """
        mean = None if self.pseudoinput is None else self.pseudoinput(images)
        if self.top_prior is None:
            return Encoding(self._features(images), mean, None)
        # One pass for the images and the pseudoinputs of the VampPrior.
        features = self._features(tf.concat([images, self.top_prior.pseudoinputs.value], axis=0))
        rows, top_side = tf.shape(images)[0], self.top_down.sides[0]
        components = self.top_down.top_posterior(features[top_side][rows:])
        return Encoding({side: values[:rows] for side, values in features.items()}, mean, components)

    def _features(self, images):
        features = self.bottom_up((255.0 * images - self.input_mean) / self.input_std)
        return dict(zip(self.top_down.scales, features, strict=True))

    def walk(self, encoding, walk_noise, temperature=1.0):
        """Draws u and then z down the TopDown path: from the posterior at the scales encoded, below from the prior.

        Args:
            encoding: `Encoding`; where features of a scale are left out, z is drawn from the prior there.
            walk_noise: float32 tensors `[N, ...]`, standard normal, shaped as u (None for the Ladder VAE) and as each
                z, top first.
            temperature: float, factor of the standard deviation of those z that come from the prior.

        Returns:
            `Inference`.
        """
        noise_u, *noise_z = walk_noise
        u, condition = None, None
        if self.pseudoinput is not None:
            u = self.pseudoinput.sample(encoding.pseudoinput_mean, noise_u)
            condition = self.pseudoinput.decode(u)
        parameters, steps = self.top_down(noise_z, condition, encoding.features, temperature=temperature)
        return Inference(
            u,
            [step.posterior_mean for step in steps],
            [step.posterior_log_var for step in steps],
            [step.prior_mean for step in steps],
            [step.prior_log_var for step in steps],
            *self._divergences(steps, encoding.top_components),
            [step.latent for step in steps],
            parameters,
        )

    def _divergences(self, steps, top_components):
        """The KL and the log-ratio of each layer; under a VampPrior the KL of the top one is that of the draw."""
        if self.top_prior is None:
            return [step.kl() for step in steps], [step.log_ratio() for step in steps]
        top, *others = steps
        ratio = self.top_prior.log_prob(top.latent, *top_components) - top.posterior_log_prob()
        return [-ratio, *(step.kl() for step in others)], [ratio, *(step.log_ratio() for step in others)]

    def _kl_u(self, u, bound_noise, training):
        """KL(r(u|x) || r(u)), or its bound: minus the entropy of the first, minus log r(u) (Eq. 15, 17)."""
        if self.pseudoinput is None:
            return 0.0
        return tf.add_n(self.prior.negative_bound(u, bound_noise, training)) - self.pseudoinput.entropy()

    # What users call

    @classmethod
    def from_preset(cls, name, **kwargs):
        """Makes the model of a preset.

        Args:
            name: str, a preset of `configs/` such as "mnist", or the path of a YAML file.
            **kwargs: passed to the constructor, e.g. `seed` or `dtype`.

        Returns:
            A built `DVPVAE` with starting weights.

        Raises:
            UserError: if there is no such preset or it is not valid.
        """
        from dvpvae_tf.config import load_config
        from dvpvae_tf.models.build import build_model

        return build_model(load_config(name).model, **kwargs)

    def adapt(self, images):
        """Prepares the pseudoinputs, in one pass: S of Algorithm 1, or where those of a VampPrior start.

        Args:
            images: `tf.data.Dataset` of batches, or array, `[N, D, D, C]`: uint8, or float32 in [0, 1].

        Raises:
            ValueError: if there are no images, fewer than a VampPrior has components, or they are of another shape.
        """
        for part in (self.pseudoinput, self.top_prior):
            if part is not None:
                part.adapt(images)

    def infer(self, images, sample=True, seed=0):
        """Infers the pseudoinput and the latents of images.

        Args:
            images: array or tensor `[N, D, D, C]`: uint8, or float32 in [0, 1]. It goes to the encoder as it is.
            sample: bool. True draws u and z from their posteriors, False takes their means: no noise anywhere.
            seed: int, of the noise.

        Returns:
            `Inference`.

        Raises:
            ValueError: if the images are of another shape.
        """
        images = self.prepare(tf.convert_to_tensor(images))
        rows = tf.shape(images)[0]
        if sample:
            _, *walk_noise = self._draw_for_bound(noise.row_seeds(seed, EVALUATION_STREAM, 0, rows))
        else:
            walk_noise = [tf.zeros([rows, *shape]) if math.prod(shape) else None for shape in self.walk_noise_shapes]
        return self.walk(self.encode(images), walk_noise)

    def reconstruct(self, images):
        """Reconstructs images without noise: from the means of u and z to the likelihood's mean or mode.

        Args:
            images: array or tensor `[N, D, D, C]`: uint8, or float32 in [0, 1].

        Returns:
            float32 array `[N, D, D, C]` in [0, 1], or tensor where this is part of a graph.
        """
        reconstructions = self.likelihood.images(self.infer(images, sample=False).likelihood_params)
        return reconstructions.numpy() if tf.executing_eagerly() else reconstructions

    def generate(self, seeds, temperature=1.0, prior_temperature=1.0, steps=None, deterministic=False):
        """Generates images with their pseudoinputs, one for each key: u, then z from the priors, then x.

        Args:
            seeds: int32 tensor `[N, 2]`, one key an image, see `dvpvae_tf.noise.row_seeds`.
            temperature: float or float32 tensor, scalar or `[N, 1, 1, 1]`, factor of the standard deviation of every
                p(z_l|...) and of the scale of the logistic mixture.
            prior_temperature: float or float32 tensor, factor of the noise of the prior over u.
            steps: int or None, T of the diffusion prior; None takes the prior's own. z does not depend on it.
            deterministic: bool, whether the diffusion prior takes its steps without noise (DDIM).

        Returns:
            `Samples`. Of a Bernoulli likelihood the images are probabilities.
        """
        condition, pseudoinputs = None, None
        if self.pseudoinput is not None:
            condition = self.pseudoinput.decode(self._sample_prior(seeds, prior_temperature, steps, deterministic))
            pseudoinputs = tf.clip_by_value((condition + 1.0) / 2.0, 0.0, 1.0)
        noise_z = noise.normals(noise.fork(seeds, 1), self.top_down.latent_shapes)
        top_features = None
        if self.top_prior is not None:
            chosen = self.top_prior.choose(noise.uniform(noise.fork(seeds, 4), 1)[:, 0])
            top_features = self._features(chosen)[self.top_down.sides[0]]
            noise_z[0] *= temperature
        parameters, _ = self.top_down(noise_z, condition, top_features=top_features, temperature=temperature)
        return Samples(self.likelihood.images(parameters, noise.fork(seeds, 2), temperature), pseudoinputs)

    def _sample_prior(self, seeds, temperature, steps, deterministic):
        seeds = noise.fork(seeds, 3)
        if not deterministic:
            return self.prior.sample(noise.normal(seeds, self.prior.sample_noise_size(steps)), steps, temperature)
        drawn = noise.normal(seeds, self.prior.deterministic_noise_size)
        return self.prior.sample_deterministic(drawn, steps, temperature)

    def sample(self, num, temperature=1.0, seed=0, prior_temperature=1.0, steps=None, deterministic=False):
        """Generates images; image i depends on the seed and i alone.

        Args:
            num: int, how many.
            temperature: float, at least 0, see `generate`.
            seed: int.
            prior_temperature: float, at least 0, see `generate`.
            steps: int or None, see `generate`.
            deterministic: bool, see `generate`.

        Returns:
            float32 array `[num, D, D, C]` in [0, 1].

        Raises:
            ValueError: see `sample_in_batches`.
        """
        return self.sample_with_pseudoinputs(num, temperature, seed, prior_temperature, steps, deterministic).images

    def sample_with_pseudoinputs(
        self, num, temperature=1.0, seed=0, prior_temperature=1.0, steps=None, deterministic=False
    ):
        """Generates the images of `sample` and the pseudoinputs they came from (Figure 3).

        Args:
            num: int, how many.
            temperature: float, at least 0, see `generate`.
            seed: int.
            prior_temperature: float, at least 0, see `generate`.
            steps: int or None, see `generate`.
            deterministic: bool, see `generate`.

        Returns:
            `Samples` of arrays.

        Raises:
            ValueError: see `sample_in_batches`.
        """
        batches = self.sample_in_batches(num, temperature, seed, prior_temperature, steps, deterministic)
        images, pseudoinputs = zip(*batches, strict=True)
        return Samples(np.concatenate(images), None if pseudoinputs[0] is None else np.concatenate(pseudoinputs))

    def sample_in_batches(
        self,
        num,
        temperature=1.0,
        seed=0,
        prior_temperature=1.0,
        steps=None,
        deterministic=False,
        batch_size=250,
        first=0,
        copies=(),
    ):
        """Generates the images of `sample_with_pseudoinputs` batch by batch, for more than memory holds.

        Args:
            num: int, how many, at least 1.
            temperature: float, at least 0, see `generate`.
            seed: int.
            prior_temperature: float, at least 0, see `generate`.
            steps: int or None, at least 1, see `generate`.
            deterministic: bool, see `generate`.
            batch_size: int, images in a batch; no image depends on it.
            first: int, the index of the first image, where those before it are drawn elsewhere.
            copies: list of `DVPVAE` on other devices, which take batches in turn with this one, see
                `dvpvae_tf.distribute.devices.copies_on_other_devices`.

        Returns:
            An iterator of `Samples` of arrays, the last one with the images left.

        Raises:
            ValueError: if a number or temperature is out of its range, `deterministic` is asked of a model without
                a diffusion prior, or `adapt` has not been called.
        """
        self.check_adapted()
        if num < 1 or batch_size < 1 or (steps is not None and steps < 1):
            raise ValueError(f"num, batch_size and steps must be at least 1, got {num}, {batch_size} and {steps}.")
        if not (0 <= temperature < math.inf and 0 <= prior_temperature < math.inf):
            raise ValueError(f"Temperatures must be 0 or more, got {temperature} and {prior_temperature}.")
        if deterministic and not hasattr(self.prior, "sample_deterministic"):
            raise ValueError("Only a diffusion prior takes deterministic steps: leave out deterministic.")
        seeds = noise.row_seeds(seed, SAMPLING_STREAM, first, num)
        arguments = tf.constant(float(temperature)), tf.constant(float(prior_temperature)), steps, deterministic
        models = (self, *copies)
        size = smaller_batch(num, batch_size, len(models))
        samplers = [model._sampler(*arguments) for model in models] * BATCHES_AT_ONCE
        return in_turn(samplers, (seeds[start : start + size] for start in range(0, num, size)))

    def _sampler(self, *arguments):
        """The function from keys to `Samples` of arrays; its one graph is for batches of all sizes."""
        with device_of(self):
            self._generate.get_concrete_function(tf.TensorSpec([None, 2], tf.int32), *arguments)

        def sample(seeds):
            with device_of(self):
                drawn = self._generate(seeds, *arguments)
            return Samples(*(None if part is None else part.numpy() for part in drawn))

        return sample

    # Training and evaluation

    def fit(self, x=None, *args, **kwargs):
        """Trains the model; arguments and result are those of `keras.Model.fit`.

        Raises:
            ValueError: if `adapt` has not been called.
        """
        self.check_adapted()
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            kwargs.setdefault("shuffle", False)  # else Keras warns that a data set is shuffled by itself or not at all
        if self.compiled and not self.optimizer.built:
            # Else the first step makes its variables, and is traced twice for it.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """Evaluates the bound; arguments and result are those of `keras.Model.evaluate`.

        Raises:
            ValueError: if `adapt` has not been called.
        """
        self.check_adapted()
        return super().evaluate(*args, **kwargs)

    def check_adapted(self):
        """Checks that the pseudoinputs are ready.

        Raises:
            ValueError: if `adapt` has not been called.
        """
        if not self.adapted:
            raise ValueError("Call model.adapt(train) first, on the training images: it prepares the pseudoinputs.")

    @property
    def adapted(self):
        """bool, whether all is there that `adapt` prepares."""
        return all(part is None or part.adapted for part in (self.pseudoinput, self.top_prior))

    def make_train_function(self, force=False):
        """Keras's, but where machines train together: there Keras cannot reduce logs that are scalars."""
        super().make_train_function(force)
        if self._several_machines:
            self.train_function = self._make_function_of_several_machines(self.train_step)

    def make_test_function(self, force=False):
        """See `make_train_function`."""
        super().make_test_function(force)
        if self._several_machines:
            self.test_function = self._make_function_of_several_machines(self.test_step)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Nothing: all is built already, and Keras would average uint8 images over the devices to see their shape."""

    @property
    def _several_machines(self):
        return isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def _make_function_of_several_machines(self, step):
        """What `fit` and `evaluate` call with an iterator; logs are the same on all devices: the first gives them."""
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

    def reset_metrics(self):
        """Starts the metrics and the count of evaluated images anew."""
        super().reset_metrics()
        self._images_seen.assign(0)

    def train_step(self, data):
        images = _images_of(data)
        first_row, global_rows = _place_in_global_batch(tf.shape(images)[0])
        seeds = noise.row_seeds(self.seed, self.training_steps.value, first_row, tf.shape(images)[0])
        self.training_steps.assign_add(1)
        num_images = tf.cast(global_rows, tf.float32)
        # Summed over the replicas the loss is the mean over the global batch.
        sums, gradients = self._in_parts(images, seeds, self.bits_per_nat / num_images)
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
        return self._results() | {
            "gradient_norm": self.gradient_norm.result(),
            "skipped_steps": self.skipped_steps.result(),
        }

    def _in_parts(self, images, seeds, scale):
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

        nothing = tf.zeros(len(self.bound_metrics)), tf.zeros(self.num_parameters)
        split = [tf.reshape(each, [parts, -1, *each.shape[1:]]) for each in (images, seeds)]
        sums, gradient = tf.foldl(add, split, nothing, parallel_iterations=1)
        return sums, as_tensors(gradient, self.trainable_variables)

    def _sums_and_gradients(self, images, seeds, scale):
        with tf.GradientTape() as tape:
            elbo = self(images, seeds=seeds, training=True)
            loss = tf.reduce_sum(elbo.negative_elbo) * scale
        gradients = tape.gradient(loss, self.trainable_variables)
        return self._sums(elbo, tf.ones_like(elbo.kl_u)), gradients

    def _apply_if(self, finite, gradients):
        """Applies gradients that are summed over the replicas already, or, on all replicas alike, skips the step."""
        if _num_replicas() > 1:
            # Keras clips the gradients of each replica and then sums them; these are to be clipped as they are.
            self.optimizer._all_reduce_sum_gradients = list

        def apply():
            self.optimizer.apply(gradients, self.trainable_variables)

        def decide(strategy, finite):
            # The choice is made outside the replicas: the optimizer cannot update variables inside a replica's branch.
            finite = strategy.experimental_local_results(finite)[0]
            tf.cond(finite, lambda: strategy.extended.call_for_each_replica(apply), lambda: None)

        tf.distribute.get_replica_context().merge_call(decide, args=(finite,))

    def test_step(self, data):
        images = _images_of(data)
        first_row, global_rows = _place_in_global_batch(tf.shape(images)[0])
        weights = tf.ones(tf.shape(images)[0])
        if _num_replicas() > 1:
            # The last batch may leave a replica without images: each takes one more, of no weight.
            images = tf.pad(images, [[0, 1], [0, 0], [0, 0], [0, 0]])
            weights = tf.pad(weights, [[0, 1]])
        seen = tf.cast(self._images_seen, tf.int32)
        seeds = noise.row_seeds(self.seed, EVALUATION_STREAM, seen + first_row, tf.shape(images)[0])
        self._images_seen.assign_add(global_rows)
        sums = self._sums(self(images, seeds=seeds), weights)
        context = tf.distribute.get_replica_context()
        self._update_bound_metrics(
            context.all_reduce(tf.distribute.ReduceOp.SUM, sums), tf.cast(global_rows, tf.float32)
        )
        return self._results()

    def _sums(self, elbo, weights):
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

    def _results(self):
        return {name: metric.result() for name, metric in self.bound_metrics.items()}

    def get_config(self):
        """The arguments of the constructor, serialised.

        Returns:
            dict.
        """
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "scales": self.top_down.scales,
            "layers_per_scale": self.top_down.layers_per_scale,
            "likelihood": keras.saving.serialize_keras_object(self.likelihood),
            "pseudoinput": keras.saving.serialize_keras_object(self.pseudoinput),
            "prior": keras.saving.serialize_keras_object(self.prior),
            "channels": self.bottom_up.channels,
            "hidden_channels": self.bottom_up.hidden_channels,
            "latent_channels": self.top_down.latent_channels,
            "encoder_blocks": self.bottom_up.blocks,
            "top_prior": keras.saving.serialize_keras_object(self.top_prior),
            "likelihood_input": self.top_down.likelihood_input,
            "binary_encoder_input": self.binary_encoder_input,
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        """Makes a model from `get_config`.

        Args:
            config: dict.

        Returns:
            A `DVPVAE`.
        """
        names = ("likelihood", "pseudoinput", "prior", "top_prior")
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in names}
        return cls(**{**config, **parts})


def _images_of(data):
    """The images in what `fit` and `evaluate` pass on: alone, or first in a tuple."""
    return keras.utils.unpack_x_y_sample_weight(data)[0]


def _num_replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def _place_in_global_batch(rows):
    """The index of this replica's first row in the global batch, and the number of rows of that."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return 0, rows
    replica = context.replica_id_in_sync_group
    mine = tf.one_hot(replica, context.num_replicas_in_sync, on_value=rows, off_value=0, dtype=tf.int32)
    counts = context.all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return tf.reduce_sum(counts[:replica]), tf.reduce_sum(counts)


def _finite_or_zero(value):
    return tf.where(tf.math.is_finite(value), value, 0.0)
