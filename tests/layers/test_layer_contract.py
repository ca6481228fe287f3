"""What Keras users expect of every layer, checked the same way for all of them."""

import json
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import dvpvae_tf  # noqa: F401  (registers every class)
from dvpvae_tf.layers import DCT, InverseDCT, ResBlock, TopDownBlock, UNet
from dvpvae_tf.layers.group_norm import AdaptiveGroupNorm
from dvpvae_tf.layers.pseudoinputs import DCTPseudoinput, DownsamplePseudoinput, LearnablePseudoinput
from dvpvae_tf.layers.unet import SelfAttention, TimeEmbedding, UNetBlock
from dvpvae_tf.models.bottom_up import BottomUp
from dvpvae_tf.models.top_down import TopDown
from dvpvae_tf.priors import DiffusionPrior, MixturePrior, StandardPrior


class Case(NamedTuple):
    """A layer, the shapes of its call's arguments without the batch axis, and what is special about it."""

    layer: type
    arguments: dict[str, Any]
    inputs: dict[str, Any]
    float32_outputs: str | set = ()  # indices of the flattened outputs, or "all"
    without_gradient: tuple = ()  # weights that the call does not use


STEP_IN_FLOAT32 = {1, 2, 3, 4, 5}  # all of a TopDownStep but its features
FEATURES, CONDITION, LATENT = (4, 4, 8), (4, 4, 1), (4, 4, 2)
TOP_DOWN = {
    "image_size": 8,
    "scales": (4, 2),
    "layers_per_scale": (1, 2),
    "channels": 8,
    "hidden_channels": 6,
    "latent_channels": 2,
    "output_channels": 3,
}
TOP_DOWN_INPUTS = {
    "noise": [(2, 2, 2), (2, 2, 2), LATENT],
    "condition": (8, 8, 1),
    "encoder_features": {4: (4, 4, 8), 2: (2, 2, 8)},
}
TOP_DOWN_FLOAT32 = {0} | {1 + 6 * layer + index for layer in range(3) for index in STEP_IN_FLOAT32}

CASES = {
    "DCT": Case(DCT, {"size": 3}, {"inputs": (8, 8, 2)}),
    "DCT of all frequencies": Case(DCT, {}, {"inputs": (5, 5, 1)}),
    "InverseDCT": Case(InverseDCT, {"size": 8}, {"inputs": (3, 3, 2)}),
    "ResBlock": Case(ResBlock, {"channels": 8, "hidden_channels": 6}, {"inputs": FEATURES}),
    "ResBlock with skip": Case(
        ResBlock,
        {"channels": 5, "hidden_channels": 6, "activation_first": False, "output_gain": 0.5},
        {"inputs": FEATURES},
    ),
    "TopDownBlock": Case(
        TopDownBlock,
        {"channels": 8, "hidden_channels": 6, "latent_channels": 2, "residual_gain": 0.5},
        {"features": FEATURES, "condition": CONDITION, "encoder_features": FEATURES, "noise": LATENT},
        STEP_IN_FLOAT32,
    ),
    "TopDownBlock without output": Case(
        TopDownBlock,
        {"channels": 8, "hidden_channels": 6, "latent_channels": 2, "has_output": False},
        {"features": FEATURES, "encoder_features": FEATURES, "noise": LATENT},
        STEP_IN_FLOAT32,
    ),
    "TopDownBlock without prior": Case(
        TopDownBlock,
        {"channels": 8, "hidden_channels": 6, "latent_channels": 2, "has_prior": False},
        {"features": FEATURES, "encoder_features": FEATURES, "noise": LATENT},
        STEP_IN_FLOAT32,
    ),
    "TimeEmbedding": Case(TimeEmbedding, {"channels": 16}, {"time": ()}),
    "AdaptiveGroupNorm": Case(AdaptiveGroupNorm, {"groups": 4, "epsilon": 1e-5}, {"inputs": FEATURES}),
    "AdaptiveGroupNorm with scale": Case(
        AdaptiveGroupNorm, {"groups": 4}, {"inputs": FEATURES, "scale": (8,), "shift": (8,)}
    ),
    "UNetBlock": Case(UNetBlock, {"channels": 16}, {"inputs": (3, 3, 32), "embedding": (16,)}),
    "SelfAttention": Case(SelfAttention, {}, {"inputs": (3, 3, 16)}),
    "UNet": Case(UNet, {"channels": 16, "blocks": 1, "dropout": 0.1}, {"inputs": (3, 3, 2), "time": ()}),
    "BottomUp": Case(
        BottomUp, {"scales": (8, 4), "channels": 8, "hidden_channels": 6, "blocks": 1}, {"inputs": (8, 8, 1)}
    ),
    "TopDown": Case(TopDown, TOP_DOWN, TOP_DOWN_INPUTS, TOP_DOWN_FLOAT32),
    "TopDown without aggregation": Case(
        TopDown, TOP_DOWN | {"likelihood_input": "last_features"}, TOP_DOWN_INPUTS, TOP_DOWN_FLOAT32
    ),
    "DCTPseudoinput": Case(DCTPseudoinput, {"size": 3}, {"images": (8, 8, 1)}, "all", ("log_var",)),
    "DownsamplePseudoinput": Case(
        DownsamplePseudoinput,
        {"size": 3, "sigma_per_element": False, "initial_log_var": -2.0, "log_var_range": (-3.0, 1.0)},
        {"images": (8, 8, 1)},
        "all",
        ("log_var",),
    ),
    "LearnablePseudoinput": Case(LearnablePseudoinput, {"size": 3}, {"images": (8, 8, 1)}, "all", ("log_var",)),
    "DiffusionPrior": Case(
        DiffusionPrior,
        {"blocks": 1, "gamma_min": -3.0, "gamma_max": 2.0, "steps": 4, "clip": False, "dropout": 0.1},
        {"u": (3, 3, 1), "noise": (10,)},
        "all",
    ),
    "MixturePrior": Case(MixturePrior, {"components": 3}, {"u": (3, 3, 1)}, "all"),
    "StandardPrior": Case(StandardPrior, {}, {"u": (3, 3, 1)}, "all"),
}
DTYPES = ("float32", "mixed_bfloat16")
OLD_NAMES = {AdaptiveGroupNorm: "GroupNorm"}  # which saved models have


def is_shape(value):
    return isinstance(value, tuple)


def map_shapes(function, inputs):
    if is_shape(inputs):
        return function(inputs)
    if isinstance(inputs, dict):
        return {key: map_shapes(function, value) for key, value in inputs.items()}
    return [map_shapes(function, value) for value in inputs]


def random_inputs(case, rows):
    rng = np.random.default_rng(0)
    return map_shapes(lambda shape: tf.constant(rng.random((7, *shape), "float32")[:rows]), case.inputs)


def flat(outputs):
    return [np.array(tf.cast(value, tf.float32)) for value in keras.tree.flatten(outputs)]


def randomise(layer):
    """Weights all over the place: a zero weight would hide those before it."""
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.1, 0.5, weight.shape) * rng.choice([-1.0, 1.0], weight.shape))
    if isinstance(layer, DCTPseudoinput):
        layer.scale.assign(np.abs(layer.scale) * 20)


class Layers(NamedTuple):
    """A layer in float32 and the same in mixed precision, built by calling them, with two sets of weights."""

    exact: keras.layers.Layer
    mixed: keras.layers.Layer
    initial_weights: list
    random_weights: list

    def set_weights(self, weights):
        self.exact.set_weights(weights)
        self.mixed.set_weights(weights)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def built(case):
    """Both layers: all tests of a case share them."""
    exact, mixed = (case.layer(**case.arguments, dtype=dtype) for dtype in DTYPES)
    for layer in (exact, mixed):
        layer(**random_inputs(case, 3))
    initial_weights = exact.get_weights()
    randomise(exact)
    return Layers(exact, mixed, initial_weights, exact.get_weights())


@pytest.fixture
def layers(built):
    """Both layers with the random weights."""
    built.set_weights(built.random_weights)
    return built


def test_a_layer_is_rebuilt_from_its_config(case, layers):
    layer, config = layers.mixed, layers.mixed.get_config()
    for name, value in case.arguments.items():
        assert config[name] == value
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert serialized["registered_name"] == f"dvpvae_tf>{OLD_NAMES.get(case.layer, case.layer.__name__)}"
    clone = keras.saving.deserialize_keras_object(serialized)
    assert type(clone) is case.layer
    assert clone.get_config() == config
    assert clone.dtype_policy.name == layer.dtype_policy.name
    inputs = random_inputs(case, 3)
    clone(**inputs)
    assert [weight.path for weight in clone.weights] == [weight.path for weight in layer.weights]
    clone.set_weights(layer.get_weights())
    for expected, actual in zip(flat(layer(**inputs)), flat(clone(**inputs)), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_outputs_are_shaped_alike_and_of_the_compute_dtype_except_where_float32_is_promised(case, layers):
    eager = keras.tree.flatten(layers.mixed(**random_inputs(case, 3)))
    symbolic = keras.tree.flatten(layers.mixed(**map_shapes(keras.Input, case.inputs)))
    in_float32 = set(range(len(eager))) if case.float32_outputs == "all" else set(case.float32_outputs)
    for index, (value, output) in enumerate(zip(eager, symbolic, strict=True)):
        assert output.shape == (None, *value.shape[1:])
        dtype = "float32" if index in in_float32 else layers.mixed.compute_dtype
        assert output.dtype == value.dtype.name == dtype, index
    assert {weight.dtype for weight in layers.mixed.weights} <= {"float32"}
    assert all(value.dtype == tf.float32 for value in keras.tree.flatten(layers.exact(**random_inputs(case, 3))))


def test_a_graph_of_unknown_batch_size_gives_what_eager_calls_give(case, layers):
    layer, everything = layers.exact, random_inputs(case, 7)
    names = list(case.inputs)
    signature = [map_shapes(lambda shape: tf.TensorSpec((None, *shape)), case.inputs[name]) for name in names]
    graph = tf.function(lambda *values: layer(**dict(zip(names, values, strict=True))), input_signature=signature)
    expected = flat(layer(**everything))
    for rows in (1, 7):
        outputs = flat(graph(*random_inputs(case, rows).values()))
        for actual, whole in zip(outputs, expected, strict=True):
            assert np.abs(actual - whole[:rows]).max() <= 1e-5 * max(1.0, np.abs(whole).max())


def test_gradients_reach_every_trainable_weight(case, layers):
    layer, rng = layers.mixed, np.random.default_rng(2)
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(layer(**random_inputs(case, 3)))
        loss = sum(tf.reduce_sum(tf.cast(y, "float32") * rng.normal(size=y.shape)) for y in outputs)
    gradients = tape.gradient(loss, layer.trainable_variables)
    for weight, gradient in zip(layer.trainable_variables, gradients, strict=True):
        if weight.name in case.without_gradient:
            continue
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, weight.path


def test_bfloat16_is_near_float32(case, built):
    built.set_weights(built.initial_weights)
    inputs = random_inputs(case, 3)
    for expected, actual in zip(flat(built.exact(**inputs)), flat(built.mixed(**inputs)), strict=True):
        assert np.abs(actual - expected).max() <= 0.03 * max(1.0, np.abs(expected).max())


def test_a_layer_in_a_functional_model_is_saved_and_loaded(case, tmp_path):
    # A saved functional model keeps only strings as keys of a dictionary.
    case = case._replace(inputs={name: shape for name, shape in case.inputs.items() if not isinstance(shape, dict)})
    inputs = map_shapes(keras.Input, case.inputs)
    outputs = case.layer(**case.arguments)(**inputs)
    model = keras.Model(keras.tree.flatten(inputs), keras.tree.flatten(outputs))
    randomise(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = keras.tree.flatten(random_inputs(case, 3))
    for expected, actual in zip(flat(model(values)), flat(loaded(values)), strict=True):
        np.testing.assert_array_equal(actual, expected)
