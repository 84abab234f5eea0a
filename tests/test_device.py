"""Devices, precisions and kernels; those of other machines by stand-ins for what Paddle finds."""

import importlib
import os
import sys
from functools import partial
from types import SimpleNamespace

import paddle
import pytest
from conftest import ROOT

from util import bfloat16, device, dist, program, provenance
from util.errors import InputError

AUTO_CAST = sys.modules['paddle.amp.auto_cast']  # the function of that name hides the module


@pytest.fixture
def finds(monkeypatch):
    """finds(gpu=2, npu=8): what Paddle finds here; returns the list of the devices then chosen."""

    def finds(**kinds):
        plugins = [kind for kind in kinds if kind not in ('gpu', 'xpu')]
        core = paddle.base.core
        monkeypatch.setattr(paddle.device, 'is_compiled_with_cuda', lambda: 'gpu' in kinds)
        monkeypatch.setattr(paddle.device, 'is_compiled_with_xpu', lambda: 'xpu' in kinds)
        monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: kinds['gpu'])
        monkeypatch.setattr(core, 'get_xpu_device_count', lambda: kinds['xpu'], raising=False)
        monkeypatch.setattr(paddle.device, 'get_all_custom_device_type', lambda: plugins)
        monkeypatch.setattr(core, 'get_custom_device_count', kinds.get, raising=False)
        monkeypatch.setattr(dist, 'device_id', lambda: 3)
        chosen = []
        monkeypatch.setattr(paddle, 'set_device', chosen.append)
        return chosen

    return finds


@pytest.mark.parametrize(
    'found, asked, chosen',
    [
        ({}, None, 'cpu'),
        ({'gpu': 0}, None, 'cpu'),
        ({'gpu': 8}, None, 'gpu:3'),
        ({'gpu': 8}, 'cuda', 'gpu:3'),
        ({'gpu': 8}, 'cuda:1', 'gpu:1'),
        ({'gpu': 8}, 'dcu', 'gpu:3'),
        ({'gpu': 8}, 'cpu', 'cpu'),
        ({'xpu': 4}, None, 'xpu:3'),
        ({'npu': 8}, None, 'npu:3'),
        ({'gpu': 1, 'npu': 8}, 'npu:7', 'npu:7'),
    ],
)
def test_any_device_that_paddle_finds_is_chosen_by_its_name(finds, found, asked, chosen):
    log = finds(**found)
    assert device.choose(asked) == chosen.partition(':')[0]
    assert log == [chosen]


@pytest.mark.parametrize(
    'found, asked, message',
    [
        ({}, 'gpu', 'this Paddle was built for CPUs only; install requirements/gpu.txt'),
        ({'gpu': 0}, 'cuda', 'Paddle finds no GPU on this machine'),
        ({'npu': 0}, 'npu', 'Paddle finds no npu on this machine'),
        ({'gpu': 1}, 'npu', r'this Paddle \(3.* has gpu and cpu; another device needs another'),
        ({}, 'tpu', r'this Paddle \(3.* has cpu; another device needs another build'),
        ({'gpu': 2}, 'gpu:2', 'there are 2, from gpu:0 on'),
        ({'gpu': 2}, 'gpu:x', 'expected a name, or name:number'),
        ({}, 'cpu:1', 'expected a name, or name:number'),
    ],
)
def test_a_device_that_is_missing_is_one_line(finds, found, asked, message):
    chosen = finds(**found)
    with pytest.raises(InputError, match=f'--device {asked}: {message}') as error:
        device.choose(asked)
    assert chosen == [] and '\n' not in str(error.value)


def test_the_launcher_numbers_the_devices(finds, monkeypatch):
    finds(gpu=2)
    monkeypatch.setattr(dist, 'world_size', lambda: 2)
    with pytest.raises(InputError, match='--device gpu:1: the launcher gives each process'):
        device.choose('gpu:1')


@pytest.fixture
def gpu(monkeypatch):
    """gpu(major, minor): Paddle's auto_cast believes that it runs on such a GPU."""

    def gpu(major, minor):
        place = SimpleNamespace(
            is_gpu_place=lambda: True,
            is_xpu_place=lambda: False,
            is_custom_place=lambda: False,
        )
        tracer = SimpleNamespace(
            _expected_place=place,
            _amp_level=paddle.base.core.AmpLevel.O0,
            _amp_dtype='float32',
            _get_amp_op_list=lambda: ([], []),
            _set_amp_op_list=lambda white, black: None,
        )
        monkeypatch.setattr(AUTO_CAST, '_dygraph_tracer', lambda: tracer)
        monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: (major, minor))
        monkeypatch.setattr(paddle.device.cuda, 'get_device_name', lambda: 'Tesla')
        monkeypatch.setattr(paddle.version, 'cuda', lambda: '12.6')
        monkeypatch.setattr(paddle.device, 'get_device', lambda: 'gpu:0')

    return gpu


@pytest.mark.parametrize(
    'capability, asked, chosen',
    [
        ((7, 0), None, 'float16'),  # V100
        ((7, 5), 'float16', 'float16'),  # T4
        ((8, 0), 'bfloat16', 'bfloat16'),  # A100
        ((8, 0), None, 'float16'),
        ((8, 0), 'off', 'off'),
        ((6, 1), None, 'off'),  # P40
    ],
)
def test_the_default_on_a_gpu_is_float16_where_it_has_that(gpu, capability, asked, chosen):
    gpu(*capability)
    assert device.precision(asked) == chosen


@pytest.mark.parametrize(
    'capability, asked, message',
    [
        ((7, 0), 'bfloat16', r'gpu:0 \(Tesla\) cannot; bfloat16 needs .* use --amp float16'),
        ((6, 1), 'float16', r'gpu:0 \(Tesla\) cannot; it has no float16; use --amp off'),
    ],
)
def test_a_precision_that_the_gpu_lacks_is_not_left_out_silently(gpu, capability, asked, message):
    gpu(*capability)
    with pytest.raises(InputError, match=f'--amp {asked}: {message}'):
        device.precision(asked)


def test_a_cpu_has_bfloat16_where_its_processor_does(monkeypatch):
    monkeypatch.setattr(bfloat16, 'is_fast', lambda: True)
    assert device.precision('bfloat16') == 'bfloat16'
    assert device.precision(None) == device.precision('off') == 'off'
    assert 'precision: bfloat16 in products and convolutions, else float32;' in (
        device.summary('bfloat16', False)
    )
    monkeypatch.setattr(bfloat16, 'is_fast', lambda: False)
    with pytest.raises(InputError, match='neither avx512_bf16 nor amx_bf16.*; use --amp off'):
        device.precision('bfloat16')
    with pytest.raises(InputError, match='--amp float16 needs a GPU; on a CPU use --amp off or'):
        device.precision('float16')


def test_determinism_is_asked_of_paddle_and_cublas(finds, monkeypatch):
    flags = {}
    monkeypatch.setattr(paddle, 'set_flags', flags.update)
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    finds(gpu=1)
    device.make_deterministic()
    assert flags == {'FLAGS_cudnn_deterministic': True, 'FLAGS_embedding_deterministic': 1}
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':16:8')
    device.make_deterministic()
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':16:8', 'what the user has set stays'


def test_determinism_costs_nothing_on_cpus(finds, monkeypatch):
    flags = {}
    monkeypatch.setattr(paddle, 'set_flags', flags.update)
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    finds()
    device.make_deterministic()
    assert not flags, 'no kernel is another one; cuBLAS alone reads the environment'


def test_the_first_line_of_a_program_names_device_kernels_and_precision(capsys):
    program.start('cpu', seed=0, amp=None, unfixed='gradients of interpolation')
    (line,) = capsys.readouterr().out.splitlines()
    count = provenance.threads()
    assert line.startswith(f'device: cpu ({provenance.processor()}, {count} thread')
    rest = '; kernels: of oneDNN, others of Paddle; '
    assert line.endswith(f'{rest}precision: float32; deterministic with as many threads')


def test_the_first_line_on_a_gpu(gpu, monkeypatch):
    gpu(8, 0)
    monkeypatch.setattr(dist, 'world_size', lambda: 8)
    begin = 'device: 8 x gpu:0 (Tesla); kernels: of Paddle; precision: '
    unfixed = 'gradients of interpolation'
    assert device.summary('float16', False, unfixed) == (
        f"{begin}float16 with a loss scaler; not deterministic: cuDNN's convolutions, {unfixed} "
        '(--deterministic)'
    )
    assert device.summary('bfloat16', True) == (
        f'{begin}bfloat16; deterministic kernels, which are slower'
    )
    assert device.summary('off', True, unfixed) == (
        f'{begin}float32, products in TF32 where the GPU has it; deterministic but for {unfixed}, '
        'of which Paddle has no such kernel'
    )


def test_processes_on_cpus_stay_there_in_a_paddle_for_gpus(monkeypatch):
    """Paddle's own choice for --device cpu would be NCCL, which takes a GPU."""
    parallel = importlib.import_module('paddle.distributed.parallel')
    monkeypatch.setattr(paddle.base.core, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setenv('PADDLE_DISTRI_BACKEND', 'auto')
    monkeypatch.setattr(dist, 'world_size', lambda: 2)
    monkeypatch.setattr(dist, '_give_up', lambda waiting: None)
    taken = []

    def begin():
        taken.append(parallel._is_cpuonly(os.environ['PADDLE_DISTRI_BACKEND']))

    monkeypatch.setattr(paddle.distributed, 'init_parallel_env', begin)
    dist.begin()
    assert taken == [True]


COMPARING = ['main_export', 'main_parity', 'seg.export', 'det.export']
PROGRAMS = [
    *sorted(path.stem for path in ROOT.glob('main_*.py')),
    *[f'seg.{name}' for name in ('train', 'val', 'predict', 'export')],
    *[f'det.{name}' for name in ('train', 'eval', 'infer', 'export')],
]


@pytest.mark.parametrize('name', PROGRAMS)
def test_every_program_has_the_flags_of_the_device(name):
    flags = importlib.import_module(name).PARSER._option_string_actions
    assert {'--device', '--deterministic'} < flags.keys()
    assert ('--amp' in flags) != (name in COMPARING)


def test_programs_that_compare_do_so_on_the_cpu_or_without_tf32(finds, monkeypatch, capsys):
    switches = {}
    core = paddle.base.core
    monkeypatch.setattr(core, 'set_cublas_switch', partial(switches.__setitem__, 'cublas'))
    monkeypatch.setattr(core, 'set_cudnn_switch', partial(switches.__setitem__, 'cudnn'))
    monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', '1')
    chosen = finds(gpu=4)
    for name in COMPARING:
        parser = importlib.import_module(name).PARSER
        assert parser.get_default('device') == 'cpu', name
    for asked in ('cpu', 'gpu'):
        program.start(asked, seed=0, tf32=False)
        assert os.environ['NVIDIA_TF32_OVERRIDE'] == '0'
        assert switches == {'cublas': False, 'cudnn': False}
    assert chosen == ['cpu', 'gpu:3']
