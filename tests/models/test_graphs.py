"""Graphs are made once, and anew for a model that has changed; nothing is in them that a GPU would suffer from."""

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import FusedAdamax
from dvpvae_tf.evaluation.evaluator import Evaluator

LOOPS = {"While", "StatelessWhile", "MapDefun"}
OF_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def nodes_of(function):
    """All nodes of a concrete function and of the functions that it calls."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for each in graph.library.function for node in each.node_def)]


def dtypes_of(node):
    return {value.type for value in node.attr.values() if value.WhichOneof("value") == "type"}


@pytest.fixture(scope="module")
def model(tiny, images):
    model = tiny()
    model.adapt(images())
    model.compile(FusedAdamax(1e-3))
    return model


def test_a_training_step_has_no_loops_strings_or_calls_of_python(model):
    step = tf.function(model.train_step, autograph=False)  # as Keras compiles it
    nodes = nodes_of(step.get_concrete_function(tf.TensorSpec([4, 8, 8, 1], tf.uint8)))
    assert len(nodes) > 100
    assert not (LOOPS | OF_PYTHON) & {node.op for node in nodes}
    assert not [node.name for node in nodes if tf.string.as_datatype_enum in dtypes_of(node)]


def test_no_variable_is_int32(model):
    """TensorFlow keeps int32 variables on the CPU, where a step that XLA compiles for a GPU cannot reach them."""
    variables = [*model.variables, *model.optimizer.variables]
    assert variables and not [each.path for each in variables if np.dtype(each.dtype) == np.int32]


def test_the_bound_of_several_draws_has_no_loops(model):
    nodes = nodes_of(Evaluator(model)._draw_sums_function(None, False))
    assert len(nodes) > 100
    assert not (LOOPS | OF_PYTHON) & {node.op for node in nodes}


def test_a_model_that_has_changed_is_compiled_anew(tiny):
    model, made = tiny(), []
    for clip, expected in ((True, 1), (True, 1), (False, 2), (False, 2), (True, 3)):
        model.prior.clip = clip
        assert model.graphs.get(("clipped", 5), lambda clip=clip: made.append(clip) or made[-1]) == clip
        assert ("clipped", 5) in model.graphs and ("clipped", 6) not in model.graphs
        assert len(made) == expected
    assert model.generate_function is model.generate_function
