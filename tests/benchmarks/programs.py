"""Whole programs, timed from outside: the way to the first step, a conversion, several processes.

As in paddle_steps.py, each function takes a case and returns turn(times) -> answer, and facts about
the case for its record. The same functions serve both frameworks; PyTorch runs torch_programs.py.
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
    """A program that has ended. memory: MB, of its largest process."""

    seconds: float
    output: str
    memory: int


def started(command, until=None, **environ):
    """Run a program until a line of its output has the text `until`, or until it ends."""
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
            f'{command[0]} ended with {process.returncode}: '
            f'{(output.strip().splitlines() or [""])[-1]}'
        )
    return Ended(
        time.perf_counter() - start if found is None else found, output, usage.ru_maxrss // 1024
    )


def timed(run):
    """turn(times) calls run() -> Ended `times` times."""

    def turn(count):
        runs = [run() for _ in range(count)]
        return {'seconds': [one.seconds for one in runs], 'memory': max(one.memory for one in runs)}

    return turn


def import_seconds(framework, scratch):
    """The seconds of importing a framework, the best of three; measured once for all programs."""
    kept = scratch / f'import_{framework}.txt'
    if not kept.exists():
        kept.write_text(str(min(started(['-c', f'import {framework}']).seconds for _ in range(3))))
    return float(kept.read_text())


def startup(case):
    """Time to the line after the first step, over a folder of 16 PNGs of 32 x 32.

    The floor is the import of the framework.
    """
    data, out = Path(case['scratch']) / 'small', Path(case['scratch']) / 'startup'
    told = {'floor_ms': 1000 * import_seconds(case['framework'], Path(case['scratch']))}
    if case['framework'] == 'torch':
        return timed(lambda: started([TORCH, json.dumps(case), data], 'loss')), told
    model = ('mae_vit_' if case['what'] == 'pretrain' else 'vit_') + case['model']
    flags = (
        f'--model {model} --batch_size {case["batch"]} --input_size {case["side"]} '
        '--epochs 1 --warmup_epochs 0 --num_workers 2 --log_dir='
    )
    training = [*flags.split(), '--data_path', data]
    classes = ['--nb_classes', 2] if case['what'] != 'pretrain' else []
    if case['what'] != 'infer':
        command = [f'main_{case["what"]}.py', *training, '--output_dir', '', *classes]
        return timed(lambda: started(command, 'epoch 1/1')), told
    started(['main_finetune.py', *training, '--output_dir', out, *classes])
    picture = data / 'val/0/00.png'
    command = ['main_infer.py', '--resume', out / 'checkpoint-0.pd', '--img_path', picture]
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
    """Time from a folder of pictures to labels, with two reading processes.

    The start of the program and the loading of weights do not count.
    """
    data = Path(case['scratch']) / 'pictures/val'
    if case['framework'] == 'torch':
        command = [TORCH, json.dumps(case), data]
    else:
        from paddle_steps import exported_folder

        exported = exported_folder(case)
        reading = f'--batch_size {pictures.AT_ONCE} --num_workers 2'.split()
        if case['what'] == 'inference':
            resume = [exported]
        else:
            live = f'--model vit_{case["model"]} --input_size {case["side"]} --global_pool'
            resume = [exported.with_suffix('.pd'), *live.split()]
        command = ['main_infer.py', '--img_path', data, *reading, '--resume', *resume]

    def run():
        ended = started(command)
        return ended._replace(seconds=float(PICTURES.search(ended.output)[1]))

    return timed(run), {'images': pictures.COUNT}


def processes(case):
    """Steps of the program with `what` processes over the same images, without waits for data."""
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
        launcher = (
            f'-m paddle.distributed.launch --log_level ERROR --nproc_per_node {count}'.split()
        )
        launcher += ['--log_dir', log]
        share['MAE_NUM_THREADS'] = share['OMP_NUM_THREADS']
        flags = (
            f'--model mae_vit_{case["model"]} --input_size {case["side"]} '
            f'--batch_size {case["batch"] // count} --epochs 1 --warmup_epochs 0 --norm_pix_loss '
            '--num_workers 0 --print_freq 1 --output_dir= --log_dir='
        )
        images = Path(case['scratch']) / 'some.txt'
        command = ['main_pretrain.py', *flags.split(), '--data_path', images]
        if count > 1:
            command = [*launcher, *command]

        def run(times):
            ended = started(command, **share)
            return [
                float(whole) - float(data) for whole, data in STEP.findall(ended.output)[:times]
            ], ended.memory

    def turn(count):
        seconds, memory = run(count + 1)
        return {'seconds': seconds[1:], 'memory': memory}  # the first step allocates

    return turn, {'processes': count, 'threads_each': int(share['OMP_NUM_THREADS'])}
