"""The optimizer against Keras's own, weight by weight."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import FusedAdamax
from dvpvae_tf.backend.keras_internals import disable_gradient_reduction

SHAPES = [(3, 3, 2, 4), (4,), (), (5, 2)]


def trained(optimizer, steps=6):
    """Weights, averaged weights and the count of steps, after some steps in a graph."""
    rng = np.random.default_rng(0)
    weights = [keras.Variable(rng.normal(size=shape), dtype="float32") for shape in SHAPES]
    optimizer.build(weights)
    apply = tf.function(lambda *gradients: optimizer.apply(gradients, weights))
    for step in range(steps):
        optimizer.learning_rate = 0.1 / (1 + step)
        apply(*(tf.constant(10.0**-step * rng.normal(size=shape), tf.float32) for shape in SHAPES))
    averaged = optimizer._model_variables_moving_average if optimizer.use_ema else []
    return [each.numpy() for each in (*weights, *averaged, optimizer.iterations)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"global_clipnorm": 0.5},
        {"clipvalue": 0.01},
        {"weight_decay": 0.1},
        {"use_ema": True, "ema_momentum": 0.9},
        {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.1},
        {"weight_decay": 0.1, "global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.99, "epsilon": 1e-8},
    ],
)
def test_its_steps_are_those_of_keras(settings):
    ours = trained(FusedAdamax(**settings))
    theirs = trained(keras.optimizers.Adamax(**settings))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("excluded", [{"var_names": ["bias"]}, {"var_list": [0]}])
def test_weights_may_be_left_out_of_the_decay(excluded):
    found = []
    for kind in (FusedAdamax, keras.optimizers.Adamax):
        shapes = {"kernel": (2, 3), "bias": (3,)}
        weights = [keras.Variable(np.ones(shape), dtype="float32", name=name) for name, shape in shapes.items()]
        optimizer = kind(0.1, weight_decay=0.5)
        names = {name: [weights[each] for each in value] if name == "var_list" else value
                 for name, value in excluded.items()}  # fmt: skip
        optimizer.exclude_from_weight_decay(**names)
        optimizer.build(weights)
        optimizer.apply([tf.zeros(weight.shape) for weight in weights], weights)
        found.append([weight.numpy() for weight in weights])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs)
    assert sorted(weight.mean() for weight in found[0]) == pytest.approx([0.95, 1.0])


@pytest.mark.parametrize("kind, size", [(FusedAdamax, 2), (keras.optimizers.Adamax, 3), (keras.optimizers.Adam, 3)])
def test_a_state_of_other_weights_or_of_another_optimizer_is_not_loaded(kind, size):
    ours, theirs = FusedAdamax(), kind()
    ours.build([keras.Variable(np.ones(3), dtype="float32")])
    theirs.build([keras.Variable(np.ones(size), dtype="float32") for _ in range(2)])
    store = {}
    theirs.save_own_variables(store)
    with pytest.warns(
        UserWarning, match="state of the optimizer does not fit these weights: training starts with a new one"
    ):
        ours.load_own_variables(store)
    assert ours.momentum.shape == (3,)


@pytest.mark.parametrize("steps", [1, 30])
def test_the_average_is_over_a_tenth_of_the_steps_by_default(steps):
    optimizer = FusedAdamax(use_ema=True)
    weight = keras.Variable(np.zeros(2), dtype="float32")
    optimizer.build([weight])
    average = 0.0
    for step in range(steps):
        optimizer.apply([tf.constant([1.0, -0.5])], [weight])
        kept = step / (step + 10)
        average = kept * average + (1 - kept) * weight.numpy()
    np.testing.assert_allclose(optimizer.averages[0], average, rtol=1e-5)
    rebuilt = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert rebuilt.grows_window and not FusedAdamax(use_ema=True, ema_momentum=0.9).grows_window


def test_the_average_is_of_weights_within_their_constraints():
    """Keras averages before it constrains. A pixel that is clipped to 0 at each step has no negative average."""
    optimizer = FusedAdamax(0.1, use_ema=True)
    weights = [
        keras.Variable(np.array([0.0, 0.5, 1.0]), dtype="float32"),
        keras.Variable(np.zeros(2), dtype="float32"),
    ]
    weights[0].constraint = lambda value: tf.clip_by_value(value, 0.0, 1.0)
    optimizer.build(weights)
    average = 0.0
    for step in range(7):
        optimizer.apply([tf.constant([1.0, 1.0, -1.0]), tf.constant([1.0, -1.0])], weights)
        kept = step / (step + 10)
        average = kept * average + (1 - kept) * weights[0].numpy()
    np.testing.assert_allclose(optimizer.averages[0], average, rtol=1e-5)
    np.testing.assert_allclose(weights[0], [0, 0, 1])
    np.testing.assert_allclose(weights[1], [-0.7, 0.7], rtol=1e-4)  # without a constraint


def test_its_state_is_two_vectors_and_what_keras_keeps():
    optimizer = FusedAdamax(use_ema=True)
    trained(optimizer)
    size = sum(int(np.prod(shape)) for shape in SHAPES)
    shapes = [tuple(variable.shape) for variable in optimizer.variables]
    assert sorted(shapes) == sorted([(), (), *SHAPES, (size,), (size,)])  # step, learning rate, averages, two vectors


def test_a_rebuilt_optimizer_has_the_same_settings():
    optimizer = FusedAdamax(0.01, weight_decay=0.1, global_clipnorm=2.0, use_ema=True, ema_momentum=0.5, epsilon=1e-8)
    rebuilt = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(rebuilt, FusedAdamax)
    assert rebuilt.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    "settings", [{"clipnorm": 1.0}, {"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 2}]
)
def test_what_it_does_not_do_is_refused(settings):
    with pytest.raises(ValueError, match="use keras.optimizers.Adamax"):
        FusedAdamax(**settings)


def test_a_weight_without_gradient_is_refused():
    weights = [keras.Variable(np.zeros(2), dtype="float32") for _ in range(2)]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="gradients of all weights"):
        FusedAdamax().apply([tf.ones(2), None], weights)


def test_optimizers_within_another_do_not_sum_gradients_again():
    """The training step has summed them over the replicas. On two machines, steps were twice as long."""
    inner = [keras.optimizers.SGD(), keras.optimizers.Adam()]
    of_paths = keras.optimizers.OptimizerMap(inner[0], {".*bias": inner[1]})
    disable_gradient_reduction(keras.optimizers.MultiOptimizer(of_paths))
    assert [optimizer._all_reduce_sum_gradients for optimizer in inner] == [list, list]
