"""What tf2onnx writes at length, said shortly: layer norms as one node, GELUs as the runtime knows them, hardly a
computed shape.

Each rewrite is an identity that holds for any weights; a pattern that is not found is left as it was.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# A pattern is an operator with its inputs, or a name that binds a tensor: the same name is the same tensor.
_MEAN = ("ReduceMean", "x", "axes")
_CENTRED = ("Sub", "x", _MEAN)
_VARIANCE = ("ReduceMean", ("Mul", _CENTRED, _CENTRED), "axes")
_SCALE = ("Mul", ("Reciprocal", ("Sqrt", ("Add", _VARIANCE, "epsilon"))), "gamma")
LAYER_NORM = ("Add", ("Mul", "x", _SCALE), ("Add", ("Mul", ("Neg", _MEAN), _SCALE), "beta"))
GELU_ERF = ("Erf", ("Mul", "x", "factor"))


# Operators that only move numbers, or, the last, put a bias and a mask together.
FOLDED = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Pad", "Expand", "Add")


def bind(model, values):
    """Turns inputs into constants: {input name: array}. What merely rearranges constants, such as the relative bias of
    a window from its table, is done here and now.
    """
    graph = model.graph
    inputs = [given for given in graph.input if given.name not in values]
    graph.initializer.extend(
        numpy_helper.from_array(values[given.name], given.name) for given in graph.input if given.name in values
    )
    del graph.input[:]
    graph.input.extend(inputs)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        given = [name for name in node.input if name]  # optional ones may be left out
        if node.op_type in FOLDED and all(name in constants for name in given):
            arrays = {name: numpy_helper.to_array(constants[name]) for name in given}
            (result,) = ReferenceEvaluator(node).run(None, arrays)
            _constant(graph, constants, node.output[0], result)
    _keep_needed(graph, [node for node in graph.node if node.output[0] not in constants])


def simplify(model):
    """Rewrites an onnx ModelProto (opset 17 or later) in place; inputs, outputs and numbers stay what they were."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _dimensions(value) for value in (*inferred.value_info, *inferred.input)}
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        rewrites = (rewrite(graph, found, shapes, constants, node) for rewrite, found in _found(node, producers))
        nodes += next(filter(None, rewrites), [node])
    _keep_needed(graph, nodes)


def _found(node, producers):
    """(rewrite, its bindings) of every pattern that ends in this node."""
    for pattern, rewrite in ((LAYER_NORM, _layer_norm), (GELU_ERF, _gelu_erf)):
        found = _match(pattern, node, producers)
        if found:
            yield rewrite, found


def _match(pattern, node, producers):
    """{name: tensor} of the first way in which the pattern ends in this node, or None."""
    ways = _ways(pattern[1:], node, producers, {}) if node.op_type == pattern[0] else ()
    return next(iter(ways), None)


def _ways(patterns, node, producers, bound):
    """All bindings under which the inputs of a node match; sums and products match in either order."""
    orders = [list(node.input)]
    if node.op_type in ("Add", "Mul"):
        orders.append(orders[0][::-1])
    for names in orders:
        if len(names) == len(patterns):
            yield from _each(list(zip(patterns, names, strict=True)), producers, bound)


def _each(pairs, producers, bound):
    if not pairs:
        yield bound
        return
    (pattern, name), rest = pairs[0], pairs[1:]
    if isinstance(pattern, str):
        if bound.get(pattern, name) == name:
            yield from _each(rest, producers, bound | {pattern: name})
    elif name in producers and producers[name].op_type == pattern[0]:
        for further in _ways(pattern[1:], producers[name], producers, bound):
            yield from _each(rest, producers, further)


def _layer_norm(graph, found, shapes, constants, node):
    """x * s + (beta - mean * s) with s = gamma / sqrt(variance + epsilon), over the last axis."""
    if not all(found[name] in constants for name in ("axes", "epsilon", "gamma", "beta")):
        return None
    axes, epsilon, gamma, beta = (
        numpy_helper.to_array(constants[found[name]]) for name in ("axes", "epsilon", "gamma", "beta")
    )
    shape = shapes.get(found["x"], ())
    if axes.tolist() not in ([-1], [len(shape) - 1]) or not gamma.size == beta.size == shape[-1] or epsilon.size != 1:
        return None
    inputs = [
        found["x"],
        *(_vector(graph, constants, found[name], value) for name, value in (("gamma", gamma), ("beta", beta))),
    ]
    return [
        helper.make_node(
            "LayerNormalization", inputs, list(node.output), name=node.name, axis=-1, epsilon=float(epsilon.item())
        )
    ]


def _gelu_erf(graph, found, shapes, constants, node):
    """erf(x * 0.7071) as erf(x / sqrt(2)), the spelling in which onnxruntime knows a GELU and fuses it with its
    bias.
    """
    factor = constants.get(found["factor"])
    if factor is None or not np.allclose(numpy_helper.to_array(factor), 0.5**0.5, rtol=1e-6):
        return None
    root, scaled = _constant(graph, constants, "sqrt_2", np.float32(2**0.5)), f"{node.output[0]}/scaled"
    return [
        helper.make_node("Div", [found["x"], root], [scaled], name=scaled),
        helper.make_node("Erf", [scaled], list(node.output), name=node.name),
    ]


def _vector(graph, constants, name, value):
    """The name of a one-dimensional copy of a constant."""
    return name if value.ndim == 1 else _constant(graph, constants, f"{name}_vector", value.reshape(-1))


def _constant(graph, constants, name, value):
    """The name, after adding the constant to the graph where it was not there yet."""
    if name not in constants:
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        graph.initializer.append(constants[name])
    return name


def _dimensions(value):
    """The shape as a list, None where a size is open."""
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]


def _keep_needed(graph, nodes):
    """Makes `nodes` the graph's, without those, and the constants, that no output needs; notes on shapes go too."""
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
