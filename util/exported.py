"""Models that run without the code they are written in: a folder that Paddle Inference and ONNX Runtime can take.

It holds model.json and model.pdiparams, perhaps model.onnx, and export.yaml, which says what goes in, what comes out, and
a few numbers that the model gave for a known input. Whoever loads it compares them: a damaged file, or an engine that
computes something else, is found out before the first picture.
Shapes: N images, any number of them.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import inference

from util import dist, log
from util.errors import InputError

PROGRAM, PARAMS, ONNX, ABOUT = 'model.json', 'model.pdiparams', 'model.onnx', 'export.yaml'
NEEDED = ('what', 'model', 'inputs', 'outputs', 'input_size', 'in_chans', 'mean', 'std', 'probe')
ENGINES, PRECISIONS = ('inference', 'onnx'), ('fp32', 'bf16')
# of the largest output; what an engine may depart by. bfloat16 has 8 bits
CLOSE = {'fp32': 1e-3, 'bf16': 0.1}
KEPT = 8  # numbers of an output that are kept for the comparison


def save(layer: paddle.nn.Layer, inputs: dict[str, list[int | None]], folder: Path) -> None:
    """Write model.json and model.pdiparams. `inputs`: name of each float32 argument of the layer's forward -> its shape,
    None where it is open. The layer's own forward is replaced by this: compute what to compare with before."""
    # copies, for InputSpec writes into them
    specs = [paddle.static.InputSpec([*shape], 'float32', name) for name, shape in inputs.items()]
    paddle.jit.save(
        paddle.jit.to_static(layer, input_spec=specs, full_graph=True),
        str(folder / Path(PROGRAM).stem),
    )


def describe(folder: Path, about: dict) -> None:
    """Write export.yaml."""
    (folder / ABOUT).write_text(
        yaml.safe_dump(about, sort_keys=False, allow_unicode=True), encoding='utf-8'
    )


def description(folder: str | Path) -> dict:
    """What export.yaml says; InputError where it is not there, or not of this kind."""
    file = Path(folder) / ABOUT
    try:
        about = yaml.safe_load(file.read_text(encoding='utf-8'))
        for name in (*NEEDED, *(['classes'] if about['what'] == 'classify' else [])):
            about[name]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(
            f'{folder} is no folder that main_export.py wrote: {file.name} cannot be read '
            f'({type(error).__name__}: {str(error).splitlines()[0]})'
        ) from None
    return about


def known_input(inputs: dict[str, list[int | None]], batch: int = 2) -> list[np.ndarray]:
    """Arrays of numbers in (-1, 1) that look random and are the same everywhere, float32."""
    arrays = []
    for shape in inputs.values():
        shape = [batch if side is None else side for side in shape]
        numbers = np.modf(np.sin(np.arange(1, np.prod(shape) + 1)) * 1e4)[0]
        arrays.append(numbers.reshape(shape).astype('float32'))
    return arrays


def probe(outputs: list[np.ndarray]) -> list[dict]:
    """What is kept of a model's outputs for its known input: the first image's first numbers, and the largest of all."""
    return [
        {'first': output[0].ravel()[:KEPT].tolist(), 'largest': float(np.abs(output).max())}
        for output in outputs
    ]


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference of any output, relative to the output's largest number; infinite where shapes differ."""
    if [output.shape for output in found] != [output.shape for output in expected]:
        return float('inf')
    return max(
        float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
        for ours, theirs in zip(found, expected)
    )


def predictor(
    program: str | Path, params: str | Path, onednn: bool = False, bf16: bool = False
) -> inference.Predictor:
    """A model on Paddle's device; on a CPU with oneDNN's kernels, and its bfloat16, where they are asked for."""
    config = inference.Config(str(program), str(params))
    config.disable_glog_info()
    if paddle.get_device() == 'cpu':
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        if bf16:
            config.enable_mkldnn_bfloat16()
            # What this one fuses has another shape to the pass that places bfloat16: without it, Swin and PVT run
            config.delete_pass('operator_reshape_onednn_fuse_pass')
    else:
        precision = inference.PrecisionType.Bfloat16 if bf16 else inference.PrecisionType.Float32
        config.enable_use_gpu(256, dist.device_id(), precision)
    return inference.create_predictor(config)


@contextlib.contextmanager
def chatter_to_stderr() -> Iterator[None]:
    """What libraries print on stdout, C++ ones too, goes to stderr: a program's own output may be for another program."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C++ has a buffer of its own
        os.dup2(kept, 1)
        os.close(kept)


def outputs(model: inference.Predictor, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs of a predictor for its inputs, in order."""
    for name, array in zip(model.get_input_names(), arrays):
        model.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array))
    model.run()
    return [model.get_output_handle(name).copy_to_cpu() for name in model.get_output_names()]


def onnxruntime():
    """The module; InputError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            'ONNX needs what is in requirements/export.txt: bash requirements/install.sh .venv '
            'requirements.txt requirements/export.txt'
        ) from None
    return onnxruntime


def session(file: Path, names: list[str]) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """A model.onnx on the CPU, as a function of arrays that are called so."""
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    options.intra_op_num_threads = int(os.environ.get('OMP_NUM_THREADS', 0))
    model = runtime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    return lambda arrays: model.run(None, dict(zip(names, arrays)))


def gist(error: Exception) -> str:
    """One line of what Paddle and others say in many, with a stack before and a hint behind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    return next((line for line in reversed(lines) if not line.startswith('[')), lines[-1])[:250]


class Exported:
    """A folder's model, run by one of ENGINES in one of PRECISIONS: arrays -> arrays, as `about` names them.

    Where oneDNN, or its bfloat16, cannot run a model or departs by more than rounding, `warn` is told, and it is done
    without. `how` says what was arrived at. InputError where the folder, the engine or the machine does not have it.
    """

    def __init__(
        self,
        folder: str | Path,
        engine: str = 'inference',
        precision: str = 'fp32',
        warn: Callable[[str], None] = log.warn,
    ):
        self.folder, self.about = Path(folder), description(folder)
        self.warn, known = warn, known_input(self.about['inputs'])
        ways = self._onnx(precision) if engine == 'onnx' else self._inference(precision)
        for place, (self.how, make) in enumerate(ways):
            try:
                with chatter_to_stderr():  # of oneDNN, in the first run
                    self.run = make()
                    found = self.run(known)
                complaint = self._departs(found, 'bf16' if 'bf16' in self.how else 'fp32')
            except InputError:
                raise
            except Exception as error:  # of a pass, a kernel or a file, each with a type of its own
                complaint = gist(error)
            if not complaint:
                return
            if place + 1 < len(ways):
                warn(
                    f'{self.folder}: {self.how} does not run this model ({complaint}); {ways[place + 1][0]} instead'
                )
        raise InputError(
            f'{self.folder}: {self.how} does not run this model as it was exported ({complaint}); is it '
            'damaged? Export it again'
        )

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return self.run(list(arrays))

    def _inference(self, precision: str) -> list[tuple[str, Callable]]:
        """(name, how to make it) of what to try, the best first."""
        for part in (PROGRAM, PARAMS):
            if not (self.folder / part).is_file():
                raise InputError(f'{self.folder} has no {part}; export the model again')

        def way(**kwargs):
            def make():
                model = predictor(self.folder / PROGRAM, self.folder / PARAMS, **kwargs)
                return lambda arrays: outputs(model, arrays)

            return make

        if paddle.get_device() != 'cpu':
            return [(f'Paddle Inference on the GPU, {precision}', way(bf16=precision == 'bf16'))]
        if precision == 'bf16' and not paddle.base.core.supports_bfloat16():
            self.warn('this processor has no bfloat16; fp32 instead')
            precision = 'fp32'
        elif precision == 'bf16' and not paddle.base.core.supports_bfloat16_fast_performance():
            self.warn(
                'this processor has no bfloat16 (avx512_bf16): oneDNN simulates it, which is slower than fp32'
            )
        ways = [
            ('Paddle Inference with oneDNN, fp32', way(onednn=True)),
            ('Paddle Inference, fp32', way()),
        ]
        return (
            [('Paddle Inference with oneDNN, bf16', way(onednn=True, bf16=True)), *ways]
            if precision == 'bf16'
            else ways
        )

    def _onnx(self, precision: str) -> list[tuple[str, Callable]]:
        if precision != 'fp32':
            raise InputError(f'--precision {precision}: with --engine onnx there is fp32 alone')
        if not (self.folder / ONNX).is_file():
            raise InputError(f'{self.folder} has no {ONNX}; export the model with --onnx')
        onnxruntime()
        names = list(self.about['inputs'])
        return [('ONNX Runtime, fp32', lambda: session(self.folder / ONNX, names))]

    def _departs(self, found: list[np.ndarray], precision: str) -> str:
        """What is wrong with the outputs for the known input; empty where nothing is."""
        expected = self.about['probe']
        if len(found) != len(expected):
            return f'{len(found)} outputs instead of {len(expected)}'
        for name, output, kept in zip(self.about['outputs'], found, expected):
            apart = np.abs(output[0].ravel()[:KEPT] - np.array(kept['first'])).max() / max(
                kept['largest'], 1e-30
            )
            if not apart <= CLOSE[precision]:
                return f'its {name} differ by {apart:.1e} of the largest'
        return ''
