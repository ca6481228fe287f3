"""Graphs are made once, and anew for a model that has changed; nothing is in them that a GPU would suffer from."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry

from dvpvae_tf import FusedAdamax
from dvpvae_tf.evaluation.evaluator import Evaluator

LOOPS = {"While", "StatelessWhile", "MapDefun"}
OF_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
COLOUR = {"image_channels": 3, "likelihood": "discretized_logistic_mixture", "mixtures": 2}


def parts_of(function):
    """The nodes of a concrete function, and those of each function that it calls, by name."""
    graph = function.graph.as_graph_def()
    parts = [graph.node, *(each.node_def for each in graph.library.function)]
    return [{node.name: node for node in part} for part in parts]


def nodes_of(function):
    nodes = [node for part in parts_of(function) for node in part.values()]
    assert len(nodes) > 100
    return nodes


def loops_of(nodes):
    assert not OF_PYTHON & {node.op for node in nodes}
    return [node.op for node in nodes if node.op in LOOPS]


def types_of(value):
    """The types that the value of an attribute holds: one, several, or none."""
    return [value.type] if value.WhichOneof("value") == "type" else list(value.list.type)


def strings_of(nodes):
    string = tf.string.as_datatype_enum
    return [node.name for node in nodes if any(string in types_of(value) for value in node.attr.values())]


@functools.cache
def kernels_of(operation):
    return [kernel for kernel in kernels.get_registered_kernels_for_op(operation).kernel if not kernel.label]


def kernel_of(node, device):
    """TensorFlow's code for a node's operation and types on a kind of device; None if it has none."""
    fitting = (
        kernel
        for kind in (device, "DEFAULT")
        for kernel in kernels_of(node.op)
        if kernel.device_type == kind
        and all(set(types_of(node.attr[each.name])) <= set(each.allowed_values.list.type) for each in kernel.constraint)
    )
    return next(fitting, None)


def without_kernel(nodes, device):
    """Operations and types of the nodes that cannot run on a kind of device."""
    found = {
        (
            node.op,
            *(f"{name}={tf.dtypes.as_dtype(t).name}" for name in sorted(node.attr) for t in types_of(node.attr[name])),
        )
        for node in nodes
        if kernel_of(node, device) is None
    }
    return sorted(found)


def names_of(arguments, node):
    """The name of each tensor among a node's inputs or outputs: those of a list have one name."""

    def length(argument):
        if argument.number_attr:
            return node.attr[argument.number_attr].i
        return len(node.attr[argument.type_list_attr].list.type) if argument.type_list_attr else 1

    return [argument.name for argument in arguments for _ in range(length(argument))]


def copies_to_the_host(nodes):
    """The pairs of nodes of a function where a GPU's memory is copied to the host, so that the host waits for the GPU.

    What constants determine is left out: TensorFlow computes it once.
    """

    def sources(node):
        return [each.split(":") for each in node.input if not each.startswith("^")]

    @functools.cache
    def is_constant(name):
        node = nodes.get(name)  # None for an argument of the function
        before = [source[0] for source in sources(node)] if node else []
        return bool(node) and (node.op == "Const" or bool(before) and all(map(is_constant, before)))

    def on_host(node, output):
        """`output` is what follows the name of the node: nothing, a number, or the name of an output and a number."""
        names = names_of(op_def_registry.get(node.op).output_arg, node)
        name = output[0] if len(output) == 2 else names[int(output[0]) if output else 0]
        return name in kernel_of(node, "GPU").host_memory_arg

    def is_copied(source, output):
        node = nodes.get(source)
        if node is None or node.op == "Placeholder" or is_constant(source):  # two kinds of arguments, and constants
            return False
        return not on_host(node, output)

    return [
        (source, node.name)
        for node in nodes.values()
        for name, (source, *output) in zip(
            names_of(op_def_registry.get(node.op).input_arg, node), sources(node), strict=True
        )
        if name in kernel_of(node, "GPU").host_memory_arg and is_copied(source, output)
    ]


def train_step_of(model):
    with tf.device(None):
        step = tf.function(model.train_step, autograph=False)  # as Keras compiles it
        return step.get_concrete_function(tf.TensorSpec([4, 8, 8, 1], tf.uint8))


def sampling_of(model):
    return model.generate_function.get_concrete_function(tf.TensorSpec([None, 2], tf.int32))


def need_kernels(device):
    if not any(kernel.device_type == device for kernel in kernels_of("Conv2D")):
        pytest.skip(f"this build of TensorFlow has no kernels for a {device}")


@pytest.fixture(scope="module")
def model(tiny, images):
    model = tiny()
    model.adapt(images())
    model.compile(FusedAdamax(1e-3, weight_decay=1e-6, global_clipnorm=5.0, use_ema=True))  # as in training
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def train_step(model):
    return train_step_of(model)


def test_a_training_step_has_no_loops_strings_or_calls_of_python(train_step):
    nodes = nodes_of(train_step)
    assert not loops_of(nodes)
    assert not strings_of(nodes)


def test_a_training_step_in_parts_has_one_loop(model):
    """That over the parts, which wait for one another so that they share memory."""
    model.gradient_accumulation = 2
    try:
        nodes = nodes_of(train_step_of(model))
    finally:
        model.gradient_accumulation = 1
    assert len(loops_of(nodes)) == 1
    assert not strings_of(nodes)


def test_no_size_in_a_training_step_depends_on_values(train_step):
    """TensorFlow's `repeat` and `boolean_mask` would: they make tables far larger than the weights, too."""
    assert not [node.name for node in nodes_of(train_step) if node.op in {"Where", "Unique"}]


def test_nothing_in_a_training_step_is_tied_to_the_host(train_step):
    assert not [(node.name, node.device) for node in nodes_of(train_step) if "CPU" in node.device]


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_all_operations_have_kernels(model, train_step, device):
    """TensorFlow runs an operation without a GPU kernel on the host, with copies to it and back."""
    need_kernels(device)
    for function in (train_step, sampling_of(model)):
        assert not without_kernel(nodes_of(function), device)


def test_the_host_waits_for_no_result_of_a_gpu(model, train_step):
    need_kernels("GPU")
    for function in (train_step, sampling_of(model)):
        assert not [pair for nodes in parts_of(function) for pair in copies_to_the_host(nodes)]


def test_a_copy_to_the_host_is_found():
    need_kernels("GPU")
    zeros = tf.function(lambda size: tf.fill([tf.cast(size, tf.int32), tf.cast(tf.constant(2.0), tf.int32)], 0.0))
    [nodes] = parts_of(zeros.get_concrete_function(tf.TensorSpec([], tf.float32)))
    assert [(nodes[source].op, nodes[name].op) for source, name in copies_to_the_host(nodes)] == [("Cast", "Pack")]


def test_an_operation_without_a_kernel_is_found():
    png, strings = tf.compat.v1.NodeDef(op="DecodePng"), tf.compat.v1.NodeDef(op="Relu")
    png.attr["dtype"].type = tf.uint8.as_datatype_enum
    strings.attr["T"].type = tf.string.as_datatype_enum
    assert without_kernel([png], "CPU") == []
    assert without_kernel([png], "GPU") == [("DecodePng", "dtype=uint8")]
    assert without_kernel([strings], "CPU") == [("Relu", "T=string")]


@pytest.mark.parametrize("likelihood", [{}, COLOUR])
@pytest.mark.parametrize(("prior", "most"), [("diffusion", 1), ("mixture", 0)])
def test_sampling_loops_over_the_steps_of_a_diffusion_prior_alone(tiny, likelihood, prior, most):
    model = tiny(prior=prior, **likelihood)
    nodes = nodes_of(sampling_of(model))
    assert len(loops_of(nodes)) <= most
    assert not strings_of(nodes)


@pytest.mark.parametrize("sample", [False, True])
def test_encoding_has_no_loops(model, sample):
    images, number = tf.TensorSpec([None, 8, 8, 1], tf.uint8), tf.TensorSpec([], tf.int32)
    nodes = nodes_of(model.encode_function.get_concrete_function(images, sample, number, number))
    assert not loops_of(nodes)
    assert not strings_of(nodes)


def test_the_bound_of_several_draws_has_no_loops(model):
    assert not loops_of(nodes_of(Evaluator(model)._draw_sums_function(None, False)))


def test_xla_computes_the_same_step(tiny, images):
    """One step of gradient descent, so long that the new weights are the gradients up to a factor."""
    model, rng, steps = tiny(scales=(4,), layers_per_scale=(1,)), np.random.default_rng(0), []
    model.adapt(images())
    for weight in model.trainable_variables:  # far from the start, where many gradients are 0
        weight.assign_add(0.1 * rng.standard_normal(weight.shape))
        weight.constraint = None
    weights = model.get_weights()
    for compiled in (False, True):
        model.set_weights(weights)
        model.compile(keras.optimizers.SGD(1e6), jit_compile=compiled)
        logs = model.train_on_batch(images(4), return_dict=True)
        steps.append((logs, [weight.numpy() for weight in model.trainable_variables]))
    (graph_logs, graph), (xla_logs, xla) = steps
    assert xla_logs == pytest.approx(graph_logs, rel=1e-4) and graph_logs["skipped_steps"] == 0
    norms = [np.linalg.norm(each) for each in graph]
    errors = [np.linalg.norm(one - other) for one, other in zip(graph, xla, strict=True)]
    rounding = 1e-7 * np.linalg.norm(norms)  # that of a gradient whose terms cancel
    paths = [weight.path for weight in model.trainable_variables]
    assert not [each for each in zip(paths, norms, errors, strict=True) if each[2] > 1e-4 * each[1] + rounding]
    assert np.median(norms) > 1e4 * rounding


def test_a_model_that_has_changed_is_compiled_anew(tiny):
    model, made = tiny(), []
    for clip, expected in ((True, 1), (True, 1), (False, 2), (False, 2), (True, 3)):
        model.prior.clip = clip
        assert model.graphs.get(("clipped", 5), lambda clip=clip: made.append(clip) or made[-1]) == clip
        assert ("clipped", 5) in model.graphs and ("clipped", 6) not in model.graphs
        assert len(made) == expected
    assert model.generate_function is model.generate_function


def test_a_model_with_adapters_is_compiled_anew(tiny):
    """`enable_lora` changes no config."""
    model = tiny(pseudoinput="none")
    layer, before, compiled = model.top_down.conv_out, model.sample(2), model.generate_function
    layer.enable_lora(1)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    assert model.generate_function is not compiled
    assert np.abs(model.sample(2) - before).max() > 0.01
