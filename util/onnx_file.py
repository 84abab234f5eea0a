"""A model.onnx, mended after its conversion."""

from pathlib import Path

import numpy as np

EPSILON = 1e-5  # of group normalisation, Paddle's default


def repair(file: Path) -> None:
    """Write two numbers that paddle2onnx 2.1.0 leaves open into a model.onnx.

    The epsilon of group normalisations, which become InstanceNormalization, and the value of
    padding are whatever the memory held. Ours are EPSILON and 0; other ones would fail the check.
    """
    import onnx  # of requirements/export.txt

    model = onnx.load(str(file))
    padding = set()  # names of the constants
    for node in model.graph.node:
        if node.op_type == 'Pad':
            padding.update(node.input[2:3])
        elif node.op_type == 'InstanceNormalization':
            node.ClearField('attribute')  # epsilon is its only one
            node.attribute.append(onnx.helper.make_attribute('epsilon', EPSILON))
    for node in model.graph.node:
        if node.op_type == 'Constant' and node.output[0] in padding:
            shape = onnx.numpy_helper.to_array(node.attribute[0].t).shape
            zero = onnx.numpy_helper.from_array(np.zeros(shape, 'float32'))
            node.attribute[0].t.CopyFrom(zero)
    onnx.save(model, str(file))
