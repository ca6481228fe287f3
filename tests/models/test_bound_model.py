"""Training and evaluation as Keras users know them: logs, callbacks, batches, data sets, and what is refused."""

import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import DVPVAE, FusedAdamax, evaluation
from dvpvae_tf.layers.pseudoinputs import DownsamplePseudoinput
from dvpvae_tf.models.likelihoods import BernoulliLikelihood
from dvpvae_tf.pictures import samples_of_one_pseudoinput
from dvpvae_tf.priors import StandardPrior
from dvpvae_tf.serving.saved_model import write_version

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN_SHAPE = tf.data.Dataset.from_generator(lambda: iter([]), output_signature=tf.TensorSpec(None, tf.uint8))
TERMS = ["negative_elbo", "bits_per_dim", "reconstruction", "kl_z", "kl_u"]


@pytest.fixture(scope="module")
def model(tiny, images):
    """A small model, compiled and trained for an epoch."""
    model = tiny(pseudoinput="none")
    model.compile(keras.optimizers.SGD(0.03, global_clipnorm=5.0))
    model.fit(images(16), batch_size=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def not_adapted(tiny):
    model = tiny()
    model.compile(keras.optimizers.SGD(0.03))
    return model


def as_dataset(images, kind="images"):
    elements = {
        "images": images,
        "tuple": (images, np.arange(len(images))),
        "dictionary": {"image": images, "label": np.arange(len(images))},
    }
    return tf.data.Dataset.from_tensor_slices(elements[kind]).batch(8)


# Logs and callbacks


def test_the_loss_is_the_bits_per_dimension(model, images):
    x = images(16)
    logs = model.fit(x, batch_size=8, validation_data=(x, None), verbose=0).history
    assert logs["loss"] == logs["bits_per_dim"] and logs["val_loss"] == logs["val_bits_per_dim"]
    assert set(model.metrics_names) == {"loss", *TERMS, "gradient_norm", "skipped_steps"}
    named = model.evaluate(x, verbose=0, return_dict=True)
    assert set(named) == {"loss", *TERMS}
    assert dict(zip(model.metrics_names, model.evaluate(x, verbose=0), strict=False)) == named
    listed = dict(zip(model.metrics_names, model.train_on_batch(x[:8]), strict=True))
    assert listed["skipped_steps"] == 0 and 0 < listed["gradient_norm"] < math.inf


def test_callbacks_of_keras_follow_the_loss_by_default(model, images, tmp_path):
    x, weights, rate = images(16), model.get_weights(), float(model.optimizer.learning_rate)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", save_best_only=True, save_weights_only=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=1e3)
    stop = keras.callbacks.EarlyStopping(patience=2, min_delta=1e3)  # no epoch is so much better than the first
    logs = model.fit(
        x, batch_size=8, epochs=6, validation_data=(x, None), callbacks=[checkpoint, plateau, stop], verbose=0
    ).history
    assert len(logs["loss"]) == 3
    assert checkpoint.best == min(logs["val_loss"]) and (tmp_path / "best.weights.h5").exists()
    assert float(model.optimizer.learning_rate) < rate
    model.optimizer.learning_rate = rate
    model.set_weights(weights)


def test_what_is_skipped_or_breaks_the_weights_is_no_progress(model, images, tmp_path):
    x, weights, rate = images(16), model.get_weights(), float(model.optimizer.learning_rate)
    model.optimizer.learning_rate = math.inf  # the first step makes the weights infinite, the second is skipped
    logs = model.fit(x, batch_size=8, verbose=0).history
    assert np.isnan(logs["loss"]).all() and logs["skipped_steps"] == [1]
    file = tmp_path / "never.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(
        file, "loss", save_best_only=True, save_weights_only=True, initial_value_threshold=1e9
    )
    stop = keras.callbacks.TerminateOnNaN()
    logs = model.fit(x, batch_size=8, epochs=3, callbacks=[checkpoint, stop], verbose=0).history
    assert len(logs["loss"]) == 1
    assert all(np.isnan(logs[name]).all() for name in ("loss", *TERMS, "gradient_norm"))
    assert checkpoint.best == 1e9 and not file.exists()
    model.optimizer.learning_rate = rate
    model.set_weights(weights)
    assert np.isfinite(model.evaluate(x, verbose=0)).all()


# Batches and data sets


def test_predictions_depend_on_no_batch_size(model, images):
    x = images(12)
    expected = model(x)
    for batch_size in (5, 12):
        for values, wanted in zip(model.predict(x, batch_size=batch_size, verbose=0), expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.predict_on_batch(x).negative_elbo, expected.negative_elbo, rtol=1e-4)
    mean = model.evaluate(x, batch_size=5, verbose=0, return_dict=True)["negative_elbo"]
    np.testing.assert_allclose(mean, np.mean(expected.negative_elbo), rtol=1e-4)


@pytest.mark.parametrize("kind", ["tuple", "dictionary"])
def test_data_sets_of_the_usual_kinds_are_read(model, not_adapted, images, kind):
    x = images(12)
    expected = model.evaluate(x, verbose=0)
    np.testing.assert_allclose(model.evaluate(as_dataset(x, kind), verbose=0), expected, rtol=1e-5)
    part = not_adapted.pseudoinput
    scale = part.scale.numpy()
    not_adapted.adapt(as_dataset(x, kind))
    found = part.scale.numpy()
    not_adapted.adapt(x)
    np.testing.assert_allclose(found, part.scale)
    part.scale.assign(scale)


def test_parts_of_a_batch_need_not_be_equal(tiny, images):
    """A batch of 8 and one of 3, in 4 parts each, give the steps that they give as a whole."""
    x, results = images(11), []
    start = tiny(pseudoinput="none").get_weights()
    for parts in (1, 4):
        model = tiny(pseudoinput="none")
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.05), run_eagerly=parts == 1)  # a graph less to trace
        model.gradient_accumulation = parts
        logs = model.fit(x, batch_size=8, shuffle=False, verbose=0).history
        results.append((logs["loss"], model.get_weights()))
    (whole, weights), (parts, others) = results
    np.testing.assert_allclose(parts, whole, rtol=1e-4)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(other, weight, rtol=1e-3, atol=1e-5)


def test_the_parts_of_a_batch_may_be_set_after_a_first_training(tiny, images):
    model = tiny(pseudoinput="none")
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    seen = []
    model._sums_and_gradients, whole = lambda *inputs: seen.append(0) or whole(*inputs), model._sums_and_gradients
    model.fit(images(8), batch_size=8, verbose=0)
    model.gradient_accumulation = 4
    model.fit(images(8), batch_size=8, verbose=0)
    assert len(seen) == 5
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="gradient_accumulation is a whole number from 1 on"):
            model.gradient_accumulation = wrong


def test_the_seed_may_be_set_after_a_first_use(tiny, images):
    model, other = tiny(pseudoinput="none"), tiny(pseudoinput="none", seed=1)
    other.set_weights(model.get_weights())
    model.compile(keras.optimizers.SGD(0.05))
    model.train_function = trained = object()
    expected = other(images(8)).negative_elbo
    for _ in range(2):
        evaluated, predicted = model.evaluate(images(8), verbose=0)[1], model.predict(images(8), verbose=0)
        is_other = np.isclose([evaluated, np.mean(predicted.negative_elbo)], np.mean(expected), rtol=1e-6)
        np.testing.assert_array_equal(is_other, model.seed == 1)
        assert (model.train_function is trained) == (model.seed == 0)
        model.seed = 1
    with pytest.raises(ValueError, match="A seed is a whole number from"):
        model.seed = 1.5


def test_no_images_give_no_terms(model, images):
    none = images(1)[:0]
    assert model(none).kl_z.shape == (0, 2) and model(none).negative_elbo.shape == (0,)
    assert model.reconstruct(none).shape == (0, 8, 8, 1)


def test_a_frozen_model_does_all_but_train(tiny, images):
    model = tiny(pseudoinput="none")
    samples, parameters, bound = model.sample(2), model.num_parameters, model(images(4)).negative_elbo
    model.trainable = False
    assert model.num_parameters == parameters > 0
    np.testing.assert_array_equal(model.sample(2), samples)
    np.testing.assert_array_equal(model(images(4)).negative_elbo, bound)
    model.compile(keras.optimizers.SGD(0.1))
    model.evaluate(images(4), verbose=0)
    with pytest.raises(ValueError, match="All weights are frozen: set model.trainable = True to train"):
        model.fit(images(4), verbose=0)


def test_frozen_parts_stay_frozen(tiny, images, tmp_path):
    model = tiny()
    model.adapt(images(8))
    model.bottom_up.trainable = model.prior.trainable = False
    model.compile(FusedAdamax(1e-3, use_ema=True))
    model.fit(images(8), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.bottom_up.trainable and not loaded.prior.trainable and loaded.top_down.trainable
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before, loaded_before = model.bottom_up.get_weights(), loaded.get_weights()
    loaded.fit(images(8), verbose=0)
    for one, two in zip(before, loaded.bottom_up.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(np.any(one != two) for one, two in zip(loaded_before, loaded.get_weights(), strict=True))


def adam_for_the_top_down_path():
    ours = keras.optimizers.OptimizerMap(keras.optimizers.SGD(1e-3, use_ema=True))
    ours[".*top_down.*"] = keras.optimizers.Adam(1e-3, use_ema=True)
    return keras.optimizers.MultiOptimizer(ours)


@pytest.mark.parametrize(
    ("optimizer", "few"),
    [
        (lambda: FusedAdamax(1e-3, use_ema=True), True),
        (lambda: FusedAdamax(1e-3, use_ema=True), False),
        (lambda: keras.optimizers.Adamax(1e-3, use_ema=True), False),
        (adam_for_the_top_down_path, False),
    ],
    ids=["no batch", "no epoch", "of Keras", "several"],
)
def test_a_fit_without_a_step_leaves_the_weights(tiny, images, optimizer, few):
    """Keras's averages start at 0, and replace the weights when `fit` ends."""
    model = tiny(pseudoinput="none")
    model.compile(optimizer())
    before = model.get_weights()
    if few:
        data = tf.data.Dataset.from_tensor_slices(images(4)).batch(8, drop_remainder=True)
        model.fit(data, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])
    else:
        model.fit(images(8), verbose=0, initial_epoch=2, epochs=2)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
from dvpvae_tf import DVPVAE
from dvpvae_tf.models.likelihoods import BernoulliLikelihood
x = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), "uint8")
keras.utils.set_random_seed(0)
results, start = [], None
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        sizes = {"channels": 8, "hidden_channels": 8, "encoder_blocks": 1}
        model = DVPVAE((8, 8, 1), (4, 2), (1, 1), BernoulliLikelihood(), **sizes)
        start = start or model.get_weights()
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.002))
    model.train_on_batch(x[:8])  # the first call
    model.fit(x, batch_size=8, shuffle=False, verbose=0)
    terms = model.predict(x, batch_size=8, verbose=0)
    results.append([*model.get_weights(), *terms, model.evaluate(x, batch_size=8, verbose=0)])
for one, two in zip(*results, strict=True):
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)
"""


@pytest.mark.slow
def test_a_device_may_have_no_images_of_the_last_batch():
    """9 images in batches of 8, on two devices; small steps, as large ones enlarge rounding errors."""
    result = subprocess.run([sys.executable, "-c", TWO_DEVICES], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mse"}, "Leave out loss: the model has its own loss and metrics"),
        ({"metrics": ["mae"], "weighted_metrics": []}, "Leave out metrics and weighted_metrics: the model has its own"),
        ({"optimizer": keras.optimizers.SGD(0.1, loss_scale_factor=2.0)}, "Leave out loss_scale_factor: only float16"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())}, "Leave out loss_scale_factor"),
        ({"optimizer": None}, "^None is no optimizer: give one, such as dvpvae_tf.FusedAdamax.1e-2..$"),
    ],
)
def test_compile_refuses_what_it_would_not_use(model, arguments, message):
    optimizer = model.optimizer
    with pytest.raises(ValueError, match=message):
        model.compile(**arguments)
    assert model.optimizer is optimizer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weight": {0: 1.0}}, "Leave out class_weight: all images count alike"),
        ({"sample_weight": np.ones(8)}, "Leave out sample_weight: all images count alike"),
        ({"validation_data": (np.zeros((8, 8, 8, 1), "uint8"), np.zeros(8), np.ones(8))}, "Leave out sample weights"),
        (
            {"x": tf.data.Dataset.from_tensors({"picture": np.zeros((8, 8, 8, 1), "uint8")})},
            "have the key 'image', got .'picture'",
        ),
        ({"x": np.zeros((8, 9, 9, 1), "uint8")}, "The model takes images \\[N, 8, 8, 1\\], got \\(8, 9, 9, 1\\)"),
        ({"x": tf.data.Dataset.from_tensors(np.zeros((8, 9, 9, 1), "uint8"))}, "The model takes images \\[N, 8, 8, 1"),
        ({"x": tf.data.Dataset.from_tensors(np.zeros((8, 8, 8), "uint8"))}, "The model takes images \\[N, 8, 8, 1"),
        ({"x": [np.zeros((8, 8, 1), "uint8")] * 2}, "Give images as one array, such as np.stack.images."),
        (
            {"x": tf.data.Dataset.from_tensor_slices(np.zeros((8, 8, 8, 1), "uint8"))},
            "The data set yields one image at a time: make batches, as with .batch\\(100\\)",
        ),
        ({"x": np.eye(8, dtype="uint8")[None, ..., None]}, "These uint8 images have no value above 1 of 255"),
        (
            {"validation_data": (np.eye(8, dtype="uint8")[None, ..., None], None)},
            "These uint8 images have no value above 1 of 255",
        ),
        ({"x": UNKNOWN_SHAPE}, "does not know the shape of its images: .* tf.ensure_shape.images, .None, 8, 8, 1.."),
        ({"x": np.full((8, 8, 8, 1), 255.0)}, "Images must be uint8, or floats in \\[0, 1\\]: divide 0..255 by 255"),
    ],
)
def test_fit_refuses_in_one_line_what_it_would_not_use(model, images, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        model.fit(**{"x": images(8), "verbose": 0} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"pseudoinput": "none"}, {"pseudoinput": "downsample"}, {"vamp": True}])
@pytest.mark.parametrize("as_data", [np.asarray, as_dataset])
def test_black_and_white_as_bytes_0_and_1_is_refused(tiny, images, changes, as_data):
    if changes == {"vamp": True}:
        changes = {"pseudoinput": "none", "vamp_components": 3, "vamp_from_data": False}
    model = tiny(**{"prior": "standard"} | changes)
    binary = (images(300) > 99).astype("uint8")
    with pytest.raises(ValueError, match="no value above 1 of 255: multiply them by 255, or give float32"):
        model.adapt(as_data(binary))
    with pytest.raises(ValueError, match="The model takes images .N, 8, 8, 1., got"):
        model.adapt(as_data(images(9, side=9)))
    with pytest.raises(ValueError, match="was given no images"):
        model.adapt(as_data(binary[:0]))
    model.adapt(as_data(255 * binary))
    model.adapt(as_data(binary.astype("float32")))
    binary[-1, 0, 0] = 2  # after images that are all but black
    model.adapt(as_data(binary))


def test_one_image_may_be_all_but_black(model, images):
    dark = np.eye(8, dtype="uint8")[None, ..., None]
    with pytest.raises(ValueError, match="These uint8 images have no value above 1 of 255"):
        model.evaluate(dark, verbose=0)
    assert np.isfinite(model.predict(dark, verbose=0).negative_elbo).all()
    assert np.isfinite(model.test_on_batch(dark)).all()


@pytest.mark.parametrize("of", ["weights", "outputs"])
def test_losses_of_parts_are_refused(images, of):
    pseudoinput = DownsamplePseudoinput(3, activity_regularizer="l2" if of == "outputs" else None)
    model = DVPVAE((8, 8, 1), (4,), (1,), BernoulliLikelihood(), pseudoinput, StandardPrior(), channels=8)
    if of == "weights":
        model.bottom_up.conv_in.kernel.regularizer = keras.regularizers.L2(0.1)
    model.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="is trained on its bound alone: leave out add_loss and regularizers") as error:
        model.fit(images(8), verbose=0)
    assert "\n" not in str(error.value)


def test_parts_that_are_frozen_after_the_optimizer_was_built_are_named(tiny, images):
    model = tiny(pseudoinput="none")
    model.compile(FusedAdamax(1e-3))
    model.optimizer.build(model.trainable_variables)  # as in a model that is loaded
    model.bottom_up.trainable = False
    with pytest.raises(ValueError, match="^Parts were frozen or unfrozen after .*: call compile again") as error:
        model.fit(images(8), verbose=0)
    assert "\n" not in str(error.value)


def test_weights_given_by_position_are_refused_too(model, images):
    with pytest.raises(ValueError, match="Leave out sample_weight"):
        model.fit(images(8), None, 8, 1, 0, None, 0.0, None, True, None, np.ones(8))
    with pytest.raises(ValueError, match="Leave out sample_weight"):
        model.train_on_batch(images(8), None, np.ones(8))


def test_pixels_are_checked_under_xla_too(tiny, images):
    model = tiny(pseudoinput="none")
    model.compile(keras.optimizers.SGD(0.1), jit_compile=True)
    with pytest.raises(ValueError, match="^Images must be uint8, or floats in .0, 1.: divide 0..255 by 255.$"):
        model.fit(as_dataset(images(8).astype("float32")), verbose=0)


def test_what_needs_adapt_is_refused_before_it(not_adapted, images):
    x = images(8)
    uses = [
        *(not_adapted, not_adapted.infer, not_adapted.reconstruct),
        *(not_adapted.train_on_batch, not_adapted.test_on_batch, not_adapted.predict_on_batch),
        lambda x: not_adapted.predict(x, verbose=0),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="Call model.adapt\\(train\\) first"):
            use(x)


def test_a_clone_is_not_adapted_until_it_has_the_weights(tiny, images):
    model = tiny(prior="standard")
    model.adapt(images(16))
    clone = keras.models.clone_model(model)
    with pytest.raises(ValueError, match="Call model.adapt\\(train\\) first"):
        clone(images(4))
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(images(4)).negative_elbo, model(images(4)).negative_elbo)


def test_a_clone_has_no_fitted_prior_until_it_has_the_weights(tiny, images, tmp_path):
    model = tiny()
    model.adapt(images(16))
    calibrated = model.get_config()
    calibrated["prior"]["config"]["calibrated_steps"] = 2
    clone = type(model).from_config(calibrated)
    clone.pseudoinput.set_weights(model.pseudoinput.get_weights())
    uses = (
        lambda: clone.sample(1),
        lambda: evaluation.elbo(clone, images(1), verbose=0),
        lambda: samples_of_one_pseudoinput(clone),
        lambda: write_version(tmp_path, 1, clone),
    )
    for use in uses:
        with pytest.raises(ValueError, match="The prior over u was fitted to trained weights, which are not here"):
            use()
    assert np.isfinite(clone(images(1)).negative_elbo), "the bound of training needs no calibration"
    clone.calibrate(images(60, seed=1), images(20, seed=2), steps=2, draws=100)
    assert np.isfinite(clone.sample(1)).all()


def test_an_endless_data_set_is_not_adapted_to(not_adapted, images):
    with pytest.raises(ValueError, match="These data never end"):
        not_adapted.adapt(as_dataset(images(8)).repeat())


@pytest.mark.parametrize("policy", ["float64", "bfloat16", "mixed_float16"])
def test_a_dtype_that_the_model_cannot_compute_in_is_named(tiny, policy):
    with pytest.raises(ValueError, match=f"cannot compute with the dtype policy {policy}: give dtype="):
        tiny(pseudoinput="none", dtype=policy)


def test_an_export_of_keras_takes_float32(tiny, images, tmp_path):
    model = tiny(dtype="mixed_bfloat16")
    model.adapt(images(50))
    model(images(2))
    model.export(tmp_path / "exported", verbose=False)
    (spec,) = (
        tf.saved_model.load(tmp_path / "exported").signatures["serving_default"].structured_input_signature[1].values()
    )
    assert spec.dtype == tf.float32 and spec.shape[1:] == (8, 8, 1)


def test_the_order_of_axes_that_keras_is_set_to_changes_nothing(tiny, model, images):
    keras.config.set_image_data_format("channels_first")
    try:
        other = tiny(pseudoinput="none")
        other.set_weights(model.get_weights())
        bound = other(images(4)).negative_elbo
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(bound, model(images(4)).negative_elbo, rtol=1e-5)
