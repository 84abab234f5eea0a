"""Whole programs, timed from outside: from the command to the first step, a conversion, several processes.

As in paddle_steps.py, each function takes a case and returns turn(times) -> answer, and what is to be told of the case.
The same for both frameworks; what runs for PyTorch is torch_programs.py.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pictures

ROOT = Path(__file__).resolve().parents[2]
TORCH = Path(__file__).with_name('torch_programs.py')
PICTURES = re.compile(r'pictures in ([\d.]+) s')
STEP = re.compile(r'time ([\d.]+) s  data ([\d.]+) s')


class Ended(NamedTuple):
    """A program that was run; memory: MB, of the largest of its processes."""

    seconds: float
    output: str
    memory: int


def started(command, until=None, **environ):
    """What it took until a line of the program's output has the text `until`, or without it until the end."""
    start, output, found = time.perf_counter(), '', None
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environ},
    ) as process:
        for line in process.stdout:
            output += line
            if until and found is None and until in line:
                found = time.perf_counter() - start
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or (until and found is None):
        raise RuntimeError(
            f'{command[0]} ended with {process.returncode}: {(output.strip().splitlines() or [""])[-1]}'
        )
    return Ended(
        time.perf_counter() - start if found is None else found, output, usage.ru_maxrss // 1024
    )


def timed(run):
    """turn(): so many times run() -> Ended."""

    def turn(count):
        runs = [run() for _ in range(count)]
        return {'seconds': [one.seconds for one in runs], 'memory': max(one.memory for one in runs)}

    return turn


def import_seconds(framework, scratch):
    """Measured once, for all programs; the best of three."""
    kept = scratch / f'import_{framework}.txt'
    if not kept.exists():
        kept.write_text(str(min(started(['-c', f'import {framework}']).seconds for _ in range(3))))
    return float(kept.read_text())


def startup(case):
    """To the line after the first step, over a folder of 16 PNGs of 32 x 32; the floor is to import the framework."""
    data, out = Path(case['scratch']) / 'small', Path(case['scratch']) / 'startup'
    told = {'floor_ms': 1000 * import_seconds(case['framework'], Path(case['scratch']))}
    if case['framework'] == 'torch':
        return timed(lambda: started([TORCH, json.dumps(case), data], 'loss')), told
    model = ('mae_vit_' if case['what'] == 'pretrain' else 'vit_') + case['model']
    training = [
        '--data_path',
        data,
        '--batch_size',
        case['batch'],
        '--epochs',
        1,
        '--warmup_epochs',
        0,
        '--num_workers',
        2,
        '--input_size',
        case['side'],
        '--log_dir',
        '',
        '--output_dir',
    ]
    classes = ['--nb_classes', 2]
    command = [
        f'main_{case["what"]}.py',
        '--model',
        model,
        *training,
        '',
        *(classes if case['what'] != 'pretrain' else []),
    ]
    if case['what'] != 'infer':
        return timed(lambda: started(command, 'epoch 1/1')), told
    started(['main_finetune.py', '--model', model, *training, out, *classes])
    command = [
        'main_infer.py',
        '--resume',
        out / 'checkpoint-0.pd',
        '--img_path',
        data / 'val/0/00.png',
    ]
    return timed(lambda: started(command, 'Inference results')), told


def convert(case):
    """A whole masked autoencoder with random weights, a PyTorch file with the official names."""
    source = Path(case['scratch']) / f'{case["model"]}.pth'
    if case['framework'] == 'torch':
        return timed(lambda: started([TORCH, json.dumps(case), source])), {
            'model': 'torch.load, torch.save'
        }
    command = ['-m', 'util.convert', source, source.with_suffix('.pd')]
    return timed(lambda: started(command)), {'bytes': source.stat().st_size}


def folder(case):
    """All pictures of a folder to labels, two processes reading; starting the program and loading weights is not in it."""
    data = Path(case['scratch']) / 'pictures/val'
    if case['framework'] == 'torch':
        command = [TORCH, json.dumps(case), data]
    else:
        from paddle_steps import exported_folder

        exported = exported_folder(case)
        resume = (
            [exported]
            if case['what'] == 'inference'
            else [
                exported.with_suffix('.pd'),
                '--model',
                f'vit_{case["model"]}',
                '--input_size',
                case['side'],
                '--global_pool',
            ]
        )
        command = [
            'main_infer.py',
            '--img_path',
            data,
            '--batch_size',
            pictures.AT_ONCE,
            '--num_workers',
            2,
            '--resume',
            *resume,
        ]

    def run():
        ended = started(command)
        return ended._replace(seconds=float(PICTURES.search(ended.output)[1]))

    return timed(run), {'images': pictures.COUNT}


def processes(case):
    """Steps of the program with so many processes over the same images, without waiting for data."""
    count, threads = int(case['what']), int(os.environ['OMP_NUM_THREADS'])
    share = {'OMP_NUM_THREADS': str(max(1, threads // count))}
    if case['framework'] == 'torch':
        launcher = (
            ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', count]
            if count > 1
            else []
        )

        def run(times):
            ended = started([*launcher, TORCH, json.dumps(case), times], **share)
            return [
                float(line.split()[1])
                for line in ended.output.splitlines()
                if line.startswith('step ')
            ], ended.memory
    else:
        log = Path(case['scratch']) / 'launch'
        launcher = [
            '-m',
            'paddle.distributed.launch',
            '--log_level',
            'ERROR',
            '--nproc_per_node',
            count,
            '--log_dir',
            log,
        ]
        share['MAE_NUM_THREADS'] = share['OMP_NUM_THREADS']
        command = [
            *(launcher if count > 1 else []),
            'main_pretrain.py',
            '--data_path',
            Path(case['scratch']) / 'some.txt',
            '--model',
            f'mae_vit_{case["model"]}',
            '--input_size',
            case['side'],
            '--batch_size',
            case['batch'] // count,
            '--warmup_epochs',
            0,
            '--norm_pix_loss',
            '--num_workers',
            0,
            '--print_freq',
            1,
            '--output_dir',
            '',
            '--log_dir',
            '',
            '--epochs',
            1,
        ]

        def run(times):
            ended = started(command, **share)
            return [
                float(whole) - float(data) for whole, data in STEP.findall(ended.output)[:times]
            ], ended.memory

    def turn(count):
        seconds, memory = run(count + 1)
        return {'seconds': seconds[1:], 'memory': memory}  # the first step allocates

    return turn, {'processes': count, 'threads_each': int(share['OMP_NUM_THREADS'])}
