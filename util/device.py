"""The device that a program computes on: which one, in which precision, and with which kernels.

`choose` and `precision` refuse what this Paddle or this device lacks, each in one error. `summary`
is the line at a program's start.
"""

import os
import warnings

import paddle

from util import bfloat16, dist, kernels, provenance
from util.errors import InputError

SYNONYMS = {'cuda': 'gpu', 'dcu': 'gpu'}  # names that Paddle takes for its GPUs
BF16_NEEDS = 'a GPU of compute capability 8.0 or more (A100, RTX 30 and later)'

# Flags of Paddle, for GPUs. The first one concerns convolutions, pooling, fused attention and the
# gradients of selected rows too
DETERMINISTIC = {'FLAGS_cudnn_deterministic': True, 'FLAGS_embedding_deterministic': 1}
CUBLAS = 'CUBLAS_WORKSPACE_CONFIG'  # read by cuBLAS: a fixed workspace makes its sums repeatable
WORKSPACE = ':4096:8'
UNFIXED = "cuDNN's convolutions"


def counts() -> dict[str, int]:
    """How many devices of each kind this Paddle finds on this machine, the best kind first."""
    core = paddle.base.core
    found = {}
    if paddle.device.is_compiled_with_cuda():
        found['gpu'] = paddle.device.cuda.device_count()
    if paddle.device.is_compiled_with_xpu():
        found['xpu'] = core.get_xpu_device_count()
    if paddle.device.is_compiled_with_ipu():
        found['ipu'] = core.get_ipu_device_count()
    for kind in paddle.device.get_all_custom_device_type() or []:
        found[kind] = core.get_custom_device_count(kind)
    return {**found, 'cpu': 1}


def choose(asked: str | None) -> str:
    """Make a device Paddle's own for this process; returns its kind, such as gpu or cpu.

    asked: kind or kind:number, such as gpu, its synonym cuda, gpu:1, cpu, xpu or a plugin's npu.
    None takes the first kind that there is, the CPU last. InputError for what is not there.
    """
    found = counts()
    if asked is None:
        kind = next(name for name, count in found.items() if count)
        number = ''
    else:
        kind, _, number = asked.partition(':')
        kind = SYNONYMS.get(kind, kind)
        _require(asked, kind, number, found)
    if kind == 'cpu':
        paddle.set_device(kind)
    else:
        paddle.set_device(f'{kind}:{number or dist.device_id()}')
    return kind


def _require(asked: str, kind: str, number: str, found: dict[str, int]) -> None:
    """InputError where this machine has no such device, or the launcher numbers the devices."""
    if not found.get(kind):
        raise InputError(f'--device {asked}: {_why_none(kind, found)}')
    if not number:
        return
    if not number.isdecimal() or kind == 'cpu':
        raise InputError(f'--device {asked}: expected a name, or name:number as in gpu:1')
    if dist.world_size() > 1:
        raise InputError(
            f'--device {asked}: the launcher gives each process a device; leave out the number, '
            "and name the devices with the launcher's --devices"
        )
    if int(number) >= found[kind]:
        raise InputError(f'--device {asked}: there are {found[kind]}, from {kind}:0 on')


def _why_none(kind: str, found: dict[str, int]) -> str:
    if kind in found:
        name = 'GPU' if kind == 'gpu' else kind
        return f'Paddle finds no {name} on this machine'
    if kind == 'gpu' and len(found) == 1:
        return (
            'this Paddle was built for CPUs only; install requirements/gpu.txt in an environment '
            'of its own'
        )
    return (
        f'this Paddle ({paddle.__version__}) has {" and ".join(found)}; another device needs '
        'another build of Paddle, or its plugin'
    )


def kind() -> str:
    """The kind of the device in use, such as gpu or cpu."""
    return paddle.device.get_device().partition(':')[0]


# Precision


def supports(dtype: str) -> bool:
    """Whether the device in use has mixed precision in float16 or bfloat16.

    Paddle is asked by entering its auto_cast, which turns itself off where it is not so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with paddle.amp.auto_cast(True, dtype=dtype):
            return paddle.amp.is_autocast_enabled()


def precision(asked: str | None) -> str:
    """'off', 'float16' or 'bfloat16': what --amp asks for, or the default of the device in use.

    The default is that of the official programs: float16, off on a CPU and where the device lacks
    float16. InputError for what the device does not have.
    """
    if asked == 'off':
        return asked
    if kind() == 'cpu':
        return _precision_of_cpu(asked)
    if supports(asked or 'float16'):
        return asked or 'float16'
    if not asked:
        return 'off'
    other = f'bfloat16 needs {BF16_NEEDS}' if asked == 'bfloat16' else f'it has no {asked}'
    remedy = 'off' if asked == 'float16' else 'float16'
    raise InputError(f'--amp {asked}: {name()} cannot; {other}; use --amp {remedy}')


def _precision_of_cpu(asked: str | None) -> str:
    """As `precision`, for a CPU."""
    if asked is None:
        return 'off'
    if asked != 'bfloat16':
        raise InputError(f'--amp {asked} needs a GPU; on a CPU use --amp off or bfloat16')
    if not bfloat16.is_fast():
        raise InputError(
            f'--amp bfloat16: this processor has neither {" nor ".join(bfloat16.FAST)}, so its '
            'products would be slower than in float32; use --amp off'
        )
    return asked


def without_tf32() -> None:
    """Compute products of float32 matrices in float32, for programs that compare results.

    GPUs from Ampere on round the factors to 10 bits otherwise. Call it before `choose`.
    """
    os.environ['NVIDIA_TF32_OVERRIDE'] = '0'  # read by cuBLAS and cuDNN
    if paddle.device.is_compiled_with_cuda():
        paddle.base.core.set_cublas_switch(False)
        paddle.base.core.set_cudnn_switch(False)


# Determinism


def make_deterministic() -> None:
    """Ask for deterministic kernels. Call it before the device computes; CPUs have no others."""
    os.environ.setdefault(CUBLAS, WORKSPACE)
    if paddle.device.is_compiled_with_cuda():
        paddle.set_flags(DETERMINISTIC)


def repeatability(deterministic: bool, unfixed: str = '') -> str:
    """Whether the same run gives the same bits again, and what of it does not.

    unfixed: what the program computes by kernels of which Paddle has no deterministic version on
    GPUs, '' for nothing.
    """
    device = kind()
    if device == 'cpu':
        return 'deterministic with as many threads'
    if device != 'gpu':
        return f'not known to be deterministic (Paddle has no switch for it on {device})'
    if not deterministic:
        listed = ', '.join(filter(None, [UNFIXED, unfixed]))
        return f'not deterministic: {listed} (--deterministic)'
    if unfixed:
        return f'deterministic but for {unfixed}, of which Paddle has no such kernel'
    return 'deterministic kernels, which are slower'


# The line at the start


def name() -> str:
    """The device in use with its model, such as gpu:0 (NVIDIA A100)."""
    details = [provenance.model_name()]
    if kind() == 'cpu':
        count = provenance.threads()
        details.append(f'{count} thread{"s" if count > 1 else ""}')
    return f'{paddle.device.get_device()} ({", ".join(filter(None, details))})'


def words(amp: str) -> str:
    """A precision as a person reads it."""
    if amp == 'float16':
        return 'float16 with a loss scaler'
    if amp == 'bfloat16':
        return f'{amp} in products and convolutions, else float32' if kind() == 'cpu' else amp
    return 'float32, products in TF32 where the GPU has it' if kind() == 'gpu' else 'float32'


def summary(amp: str, deterministic: bool, unfixed: str = '') -> str:
    """One line: device, kernels, precision, and what is not deterministic.

    amp: a value of `precision`; unfixed: see `repeatability`.
    """
    processes = dist.world_size()
    several = f'{processes} x ' if processes > 1 else ''
    parts = [
        f'device: {several}{name()}',
        f'kernels: {kernels.in_use()}',
        f'precision: {words(amp)}',
        repeatability(deterministic, unfixed),
    ]
    return '; '.join(parts)
