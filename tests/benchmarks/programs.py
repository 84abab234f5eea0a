"""Whole programs, timed from outside: from the command to the first step, a conversion, several processes.

As in paddle_steps.py, each function takes a case and returns turn(times) -> answer, and what is to be told of the case.
The same for both frameworks; what runs for PyTorch is torch_programs.py.
"""
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = Path(__file__).with_name('torch_programs.py')
STEP = re.compile(r'time ([\d.]+) s  data ([\d.]+) s')


def memory():
    """The largest of the programs that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def started(command, until=None, **environ):
    """Seconds until a line of the program's output has the text `until`, or without it until the end; all its output."""
    start, output, found = time.perf_counter(), '', None
    with subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          cwd=ROOT, env={**os.environ, **environ}) as process:
        for line in process.stdout:
            output += line
            if until and found is None and until in line:
                found = time.perf_counter() - start
    if process.returncode or (until and found is None):
        raise RuntimeError(f'{command[0]} ended with {process.returncode}: {(output.strip().splitlines() or [""])[-1]}')
    return time.perf_counter() - start if found is None else found, output


def timed(function):
    def turn(count):
        return {'seconds': [function() for _ in range(count)], 'memory': memory()}
    return turn


def import_seconds(framework, scratch):
    """Measured once, for all programs; the best of three."""
    kept = scratch / f'import_{framework}.txt'
    if not kept.exists():
        kept.write_text(str(min(started(['-c', f'import {framework}'])[0] for _ in range(3))))
    return float(kept.read_text())


def startup(case):
    """To the line after the first step, over a folder of 16 PNGs of 32 x 32; the floor is to import the framework."""
    data, out = Path(case['scratch']) / 'small', Path(case['scratch']) / 'startup'
    told = {'floor_ms': 1000 * import_seconds(case['framework'], Path(case['scratch']))}
    if case['framework'] == 'torch':
        return timed(lambda: started([TORCH, json.dumps(case), data], 'loss')[0]), told
    model = ('mae_vit_' if case['what'] == 'pretrain' else 'vit_') + case['model']
    training = ['--data_path', data, '--batch_size', case['batch'], '--epochs', 1, '--warmup_epochs', 0, '--num_workers', 2,
                '--input_size', case['side'], '--log_dir', '', '--output_dir']
    classes = ['--nb_classes', 2]
    command = [f'main_{case["what"]}.py', '--model', model, *training, '', *(classes if case['what'] != 'pretrain' else [])]
    if case['what'] != 'infer':
        return timed(lambda: started(command, 'epoch 1/1')[0]), told
    started(['main_finetune.py', '--model', model, *training, out, *classes])
    command = ['main_infer.py', '--resume', out / 'checkpoint-0.pd', '--img_path', data / 'val/0/00.png']
    return timed(lambda: started(command, 'Inference results')[0]), told


def convert(case):
    """A whole masked autoencoder with random weights, a PyTorch file with the official names."""
    source = Path(case['scratch']) / f'{case["model"]}.pth'
    if case['framework'] == 'torch':
        return timed(lambda: started([TORCH, json.dumps(case), source])[0]), {'model': 'torch.load, torch.save'}
    command = ['-m', 'util.convert', source, source.with_suffix('.pd')]
    return timed(lambda: started(command)[0]), {'bytes': source.stat().st_size}


def processes(case):
    """Steps of the program with so many processes over the same images, without waiting for data."""
    count, threads = int(case['what']), int(os.environ['OMP_NUM_THREADS'])
    share = {'OMP_NUM_THREADS': str(max(1, threads // count))}
    if case['framework'] == 'torch':
        launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', count] if count > 1 else []

        def run(times):
            lines = started([*launcher, TORCH, json.dumps(case), times], **share)[1].splitlines()
            return [float(line.split()[1]) for line in lines if line.startswith('step ')]
    else:
        log = Path(case['scratch']) / 'launch'
        launcher = ['-m', 'paddle.distributed.launch', '--log_level', 'ERROR', '--nproc_per_node', count, '--log_dir', log]
        share['MAE_NUM_THREADS'] = share['OMP_NUM_THREADS']
        command = [*(launcher if count > 1 else []), 'main_pretrain.py', '--data_path', Path(case['scratch']) / 'some.txt',
                   '--model', f'mae_vit_{case["model"]}', '--input_size', case['side'], '--batch_size',
                   case['batch'] // count, '--warmup_epochs', 0, '--norm_pix_loss', '--num_workers', 0, '--print_freq', 1,
                   '--output_dir', '', '--log_dir', '', '--epochs', 1]

        def run(times):
            shown = STEP.findall(started(command, **share)[1])[:times]
            return [float(whole) - float(data) for whole, data in shown]

    def turn(count):
        return {'seconds': run(count + 1)[1:], 'memory': memory()}  # the first step allocates
    return turn, {'processes': count, 'threads_each': int(share['OMP_NUM_THREADS'])}
