"""Exported models, which run without the code of the model: in Paddle Inference or ONNX Runtime.

An exported folder holds model.json, model.pdiparams, perhaps model.onnx, and export.yaml. The last
one describes inputs and outputs, and has a few output numbers for a known input. Loading a folder
compares them, so a damaged file, or an engine that computes something else, is found before the
first image. Shapes: N images, any number.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import inference

from util import device, dist, kernels, log, onnx_file
from util.errors import InputError

PROGRAM, PARAMS, ABOUT = 'model.json', 'model.pdiparams', 'export.yaml'
ONNX, INT8 = 'model.onnx', 'model_int8.onnx'
NEEDED = ('what', 'model', 'inputs', 'outputs', 'input_size', 'in_chans', 'mean', 'std', 'probe')
ENGINES = ('inference', 'onnx')
PRECISIONS = ('fp32', 'bf16', 'int8')
# Largest difference that an engine may have, relative to the largest output. The factors of a
# product have 8 bits in bfloat16, and 11 in TF32, which GPUs from Ampere on take for float32; in
# int8 a value that rounds the other way on another processor counts as much as in bfloat16
CLOSE = {'fp32': 1e-3, 'tf32': 0.0125, 'bf16': 0.1, 'int8': 0.1}
KEPT = 8  # numbers of each output that export.yaml keeps for the comparison
GPU_MEMORY = 256  # MB that Paddle Inference allocates at first
OPSET = 17  # of ONNX, the first with a LayerNormalization of its own
TINY = 1e-30  # against a division by zero


def save(
    layer: paddle.nn.Layer,
    inputs: dict[str, list[int | None] | dict],
    folder: Path,
    as_list: bool = False,
) -> None:
    """Write model.json and model.pdiparams.

    inputs: name of each argument of the layer's forward -> its shape, None for any size. An
    argument that is not float32 is {'shape': ..., 'dtype': ..., 'known': its value in known_input}.
    as_list: the layer's forward takes all of them as one list.

    This replaces the layer's own forward, so compute the live outputs before.
    """
    specs = []
    for name, shape in inputs.items():
        dtype = 'float32'
        if isinstance(shape, dict):
            shape, dtype = shape['shape'], shape['dtype']
        copy = list(shape)  # InputSpec changes it
        specs.append(paddle.static.InputSpec(copy, dtype, name))
    specs = [specs] if as_list else specs
    static = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
    with kernels.plain_linear():
        paddle.jit.save(static, str(folder / Path(PROGRAM).stem))


def describe(folder: Path, about: dict) -> None:
    """Write export.yaml."""
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    (folder / ABOUT).write_text(text, encoding='utf-8')


def description(folder: str | Path) -> dict:
    """The contents of export.yaml; InputError where it is missing or incomplete."""
    file = Path(folder) / ABOUT
    try:
        about = yaml.safe_load(file.read_text(encoding='utf-8'))
        for name in NEEDED:
            about[name]
        if about['what'] == 'classify':
            about['classes']
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        kind = type(error).__name__
        first_line = str(error).splitlines()[0]
        raise InputError(
            f'{folder} is not a folder that main_export.py wrote: {file.name} cannot be read '
            f'({kind}: {first_line})'
        ) from None
    return about


def known_input(inputs: dict[str, list[int | None] | dict], batch: int = 2) -> list[np.ndarray]:
    """Arrays of pseudo-random numbers in (-1, 1), float32, the same on every machine.

    `batch` of them stand for any size. Other types have the numbers that `inputs` gives.
    """
    arrays = []
    for shape in inputs.values():
        if isinstance(shape, dict):
            arrays.append(np.array(shape['known'], shape['dtype']))
            continue
        shape = [batch if side is None else side for side in shape]
        places = np.arange(1, np.prod(shape) + 1)
        fractions, _ = np.modf(np.sin(places) * 1e4)
        arrays.append(fractions.reshape(shape).astype('float32'))
    return arrays


def probe(outputs: list[np.ndarray]) -> list[dict]:
    """The part of each output that export.yaml keeps: some numbers of image 0, and the largest."""
    kept = []
    for output in outputs:
        first = output[0].ravel()[:KEPT]
        largest = np.abs(output).max()
        kept.append({'first': first.tolist(), 'largest': float(largest)})
    return kept


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference of any output, relative to the largest number of that output.

    Infinite where shapes differ.
    """
    if [output.shape for output in found] != [output.shape for output in expected]:
        return float('inf')
    differences = []
    for ours, theirs in zip(found, expected):
        largest = max(np.abs(theirs).max(), TINY)
        difference = np.abs(ours - theirs).max() / largest
        differences.append(float(difference))
    return max(differences)


def predictor(
    program: str | Path, params: str | Path, onednn: bool = False, bf16: bool = False
) -> inference.Predictor:
    """An exported model on Paddle's device.

    onednn: use its kernels, on a CPU; bf16: compute in bfloat16, on a CPU only with onednn.
    """
    config = inference.Config(str(program), str(params))
    config.disable_glog_info()
    kind = device.kind()
    if kind != 'cpu':
        _enable(config, kind, bf16)
        return inference.create_predictor(config)

    config.disable_gpu()
    threads = os.environ.get('OMP_NUM_THREADS', 1)
    config.set_cpu_math_library_num_threads(int(threads))
    if onednn:
        config.enable_mkldnn()
    else:
        config.disable_mkldnn()
    if bf16:
        config.enable_mkldnn_bfloat16()
        # Swin and PVT do not run with this pass: the pass that inserts bfloat16 expects the shapes
        # from before the fusion
        config.delete_pass('operator_reshape_onednn_fuse_pass')
    return inference.create_predictor(config)


def _enable(config: inference.Config, kind: str, bf16: bool) -> None:
    """Have a model computed on a device that is not a CPU."""
    if kind == 'gpu':
        precision = inference.PrecisionType.Bfloat16 if bf16 else inference.PrecisionType.Float32
        config.enable_use_gpu(GPU_MEMORY, dist.device_id(), precision)
    elif kind == 'xpu':
        config.enable_xpu()
    else:
        config.enable_custom_device(kind, dist.device_id())


@contextlib.contextmanager
def chatter_to_stderr() -> Iterator[None]:
    """Redirect what libraries print on stdout to stderr, C++ output too.

    Another program may read this program's stdout.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C++ has its own buffer
        os.dup2(kept, 1)
        os.close(kept)


def outputs(model: inference.Predictor, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs of a predictor for its inputs, in order."""
    for name, array in zip(model.get_input_names(), arrays):
        handle = model.get_input_handle(name)
        handle.copy_from_cpu(np.ascontiguousarray(array))
    model.run()
    handles = [model.get_output_handle(name) for name in model.get_output_names()]
    return [handle.copy_to_cpu() for handle in handles]


def to_onnx(
    folder: Path,
    inputs: dict[str, list[int | None]],
    check: Callable[[Callable], float | str],
) -> float | str:
    """Write model.onnx beside model.json, if `check` accepts it; returns what `check` gives.

    check: a function of the ONNX model, which takes a list of arrays. InputError where paddle2onnx
    or ONNX Runtime lacks something that this model needs, or where `check` raises.
    """
    onnx_file.runtime()
    import paddle2onnx

    with tempfile.TemporaryDirectory(dir=folder) as draft:
        file = Path(draft) / ONNX
        try:
            with chatter_to_stderr():
                # no optimizer: they install packages by themselves, and ONNX Runtime does it too
                paddle2onnx.export(
                    str(folder / PROGRAM),
                    str(folder / PARAMS),
                    str(file),
                    opset_version=OPSET,
                    optimize_tool='none',
                )
            onnx_file.repair(file)
            result = check(onnx_file.session(file, list(inputs)))
        except Exception as error:
            raise InputError(
                f'--onnx: paddle2onnx {paddle2onnx.__version__} cannot convert this model '
                f'({gist(error)}); what Paddle Inference needs is in {folder}'
            ) from None
        file.replace(folder / ONNX)
    return result


def gist(error: Exception) -> str:
    """The most telling line of an error of Paddle or ONNX Runtime, at most 250 characters.

    They print a stack before it and hints in brackets after it.
    """
    stripped = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in stripped if line]
    if not lines:
        return type(error).__name__
    for line in reversed(lines):
        if not line.startswith('['):
            return line[:250]
    return lines[-1][:250]


class Exported:
    """The model of an exported folder, run by an engine: arrays -> arrays, as `about` names them.

    engine: one of ENGINES; precision: one of PRECISIONS. Where oneDNN, or its bfloat16, cannot run
    a model, or differs by more than rounding, `warn` is called and the next best way is taken.
    onednn: whether to try it.
    `how` names the way that was taken. InputError where the folder, the engine or the machine
    cannot do it.
    """

    def __init__(
        self,
        folder: str | Path,
        engine: str = 'inference',
        precision: str = 'fp32',
        warn: Callable[[str], None] = log.warn,
        onednn: bool = True,
    ):
        self.folder = Path(folder)
        self.about = description(folder)
        self.warn = warn
        self.onednn = onednn
        ways = self._onnx(precision) if engine == 'onnx' else self._inference(precision)

        previous = complaint = ''
        for self.how, make in ways:
            if previous:
                warn(
                    f'{self.folder}: {previous} does not run this model ({complaint}); '
                    f'{self.how} instead'
                )
            complaint = self._try(make)
            if not complaint:
                return
            previous = self.how
        raise InputError(
            f'{self.folder}: {self.how} does not run this model as it was exported ({complaint}); '
            'is it damaged? Export it again'
        )

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return self.run(list(arrays))

    def _try(self, make: Callable) -> str:
        """Set `run` to the model from `make`; returns what is wrong with it, '' if nothing."""
        known = known_input(self.about['inputs'])
        precision = self.how.split()[-1]
        if precision == 'fp32' and device.kind() == 'gpu':
            precision = 'tf32'
        try:
            with chatter_to_stderr():  # oneDNN prints in the first run
                self.run = make()
                found = self.run(known)
            return self._departs(found, precision)
        except InputError:
            raise
        except Exception as error:  # passes, kernels and files raise many types
            return gist(error)

    def _inference(self, precision: str) -> list[tuple[str, Callable]]:
        """The ways to run the model by Paddle Inference, the best first: (name, maker)."""
        for part in (PROGRAM, PARAMS):
            if not (self.folder / part).is_file():
                raise InputError(f'{self.folder} has no {part}; export the model again')
        if precision == 'int8':
            raise InputError('--precision int8: only --engine onnx offers it')

        def way(**kwargs):
            def make():
                model = predictor(self.folder / PROGRAM, self.folder / PARAMS, **kwargs)
                return lambda arrays: outputs(model, arrays)

            return make

        kind = device.kind()
        if kind != 'cpu':
            where = 'the GPU' if kind == 'gpu' else kind
            return [(f'Paddle Inference on {where}, {precision}', way(bf16=precision == 'bf16'))]

        ways = []
        if precision == 'bf16' and self._has_bfloat16():
            ways.append(('Paddle Inference with oneDNN, bf16', way(onednn=True, bf16=True)))
        if self.onednn:
            ways.append(('Paddle Inference with oneDNN, fp32', way(onednn=True)))
        ways.append(('Paddle Inference, fp32', way()))
        return ways

    def _has_bfloat16(self) -> bool:
        """Whether oneDNN can compute in bfloat16 here; warns where it cannot, or only slowly."""
        core = paddle.base.core
        if not core.supports_bfloat16():
            self.warn('this processor has no bfloat16; fp32 instead')
            return False
        if not core.supports_bfloat16_fast_performance():
            self.warn(
                'this processor has no bfloat16 (avx512_bf16): oneDNN simulates it, '
                'which is slower than fp32'
            )
        return True

    def _onnx(self, precision: str) -> list[tuple[str, Callable]]:
        """The way to run the model by ONNX Runtime."""
        files = {'fp32': (ONNX, '--onnx'), 'int8': (INT8, '--int8 --calibration PICTURES')}
        if precision not in files:
            raise InputError(f'--precision {precision}: --engine onnx offers fp32 and int8')
        name, flags = files[precision]
        if not (self.folder / name).is_file():
            raise InputError(f'{self.folder} has no {name}; export the model with {flags}')
        onnx_file.runtime()
        file, names = self.folder / name, list(self.about['inputs'])
        return [(f'ONNX Runtime, {precision}', lambda: onnx_file.session(file, names))]

    def _departs(self, found: list[np.ndarray], precision: str) -> str:
        """What is wrong with the outputs for the known input; empty if nothing is."""
        expected = self.about['probe']
        if precision == 'int8':
            expected = self.about['int8']['probe']
        if len(found) != len(expected):
            return f'{len(found)} outputs instead of {len(expected)}'
        for name, output, kept in zip(self.about['outputs'], found, expected):
            first = output[0].ravel()[:KEPT]
            difference = np.abs(first - np.array(kept['first'])).max()
            relative = difference / max(kept['largest'], TINY)
            if not relative <= CLOSE[precision]:  # also catches NaN
                return f'its {name} differ by {relative:.1e} of the largest'
        return ''
