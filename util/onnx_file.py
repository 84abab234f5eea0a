"""A model.onnx: mended after its conversion, and run by ONNX Runtime."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from util.errors import InputError

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


def runtime():
    """The module onnxruntime; InputError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            'ONNX needs the packages in requirements/export.txt: '
            'bash requirements/install.sh .venv requirements.txt requirements/export.txt'
        ) from None
    return onnxruntime


def session(file: Path, names: list[str]) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """A model.onnx on the CPU, as a function of arrays. `names`: its inputs, in their order."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only; errors are raised anyway
    options.intra_op_num_threads = int(os.environ.get('OMP_NUM_THREADS', 0))
    model = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])

    def run(arrays):
        inputs = dict(zip(names, arrays))
        return model.run(None, inputs)

    return run
