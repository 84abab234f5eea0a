"""Whether this machine can run the suite: `python -m gpu.check DEVICE` prints a line of JSON.

`problem` is the first thing that is wrong, in one line, or nothing.
"""

import ctypes
import json
import os
import sys

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import paddle

from util import provenance

GPUS = 'requirements/gpu.txt in an environment of its own'


def driver() -> int | None:
    """The newest CUDA that the driver supports, 12020 for 12.2; None without a driver."""
    try:
        library = ctypes.CDLL('libcuda.so.1')
    except OSError:
        return None
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def problem() -> str:
    """What is wrong with Paddle, the driver, the devices or NCCL; nothing if all is well."""
    if not paddle.device.is_compiled_with_cuda():
        return f'this Paddle {paddle.__version__} was built for CPUs only; install {GPUS}'
    supported = driver()
    if supported is None:
        return (
            'there is no NVIDIA driver (libcuda.so.1 cannot be loaded); install one, or start '
            'the container with --gpus all'
        )
    built = paddle.version.cuda()
    if int(built.split('.')[0]) > supported // 1000:
        shown = f'{supported // 1000}.{supported % 1000 // 10}'
        return (
            f'the driver supports CUDA {shown}, but Paddle was built for {built}; update the '
            f'driver, or take another index in {GPUS.split()[0]}'
        )
    count = paddle.device.cuda.device_count()
    if count == 0:
        hidden = os.environ.get('CUDA_VISIBLE_DEVICES')
        return f'the driver shows no GPU; CUDA_VISIBLE_DEVICES is {hidden!r}'
    if count > 1 and nccl() == '0':
        return (
            f'{count} GPUs, but this Paddle has no NCCL; install {GPUS}, or hide all GPUs but one'
        )
    return ''


def nccl() -> str:
    """The version of NCCL; 0 without it."""
    version = getattr(paddle.version, 'nccl', lambda: '0')
    return str(version())


def compute(device: str, count: int) -> None:
    """A matrix product and a convolution on each device; they raise where kernels do not fit."""
    places = [f'gpu:{number}' for number in range(count)] if device == 'gpu' else ['cpu']
    for place in places:
        paddle.set_device(place)
        product = paddle.matmul(paddle.ones([8, 8]), paddle.ones([8, 8]))
        images = paddle.nn.functional.conv2d(paddle.ones([1, 1, 8, 8]), paddle.ones([1, 1, 3, 3]))
        if product[0, 0].item() != 8 or images[0, 0, 0, 0].item() != 9:
            raise RuntimeError(f'{place} computes wrong numbers')


def about(device: str) -> dict:
    """Versions and devices, for the record."""
    found = provenance.environment()
    if device == 'gpu':
        properties = paddle.device.cuda.get_device_properties(0)
        found |= {
            'devices': paddle.device.cuda.device_count(),
            'memory, MB': properties.total_memory // 2**20,
            'compute capability': f'{properties.major}.{properties.minor}',
            'CUDA of Paddle': paddle.version.cuda(),
            'CUDA of the driver': driver(),
            'cuDNN': str(paddle.version.cudnn()),
            'NCCL': nccl(),
        }
    return found


def main(device: str) -> dict:
    """The problem, the number of devices, the device's name, and the environment."""
    wrong = problem() if device == 'gpu' else ''
    if wrong:
        return {'problem': wrong}
    count = paddle.device.cuda.device_count() if device == 'gpu' else 2  # processes on a CPU
    compute(device, count)
    found = about(device)
    name = paddle.device.cuda.get_device_name() if device == 'gpu' else found['processor']
    return {'problem': '', 'devices': count, 'name': name, 'environment': found}


if __name__ == '__main__':
    print(json.dumps(main(sys.argv[1])))
