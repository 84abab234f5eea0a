"""Compare the speed and memory of pre-training steps, each model in its own process, taking turns.

    python tests/benchmarks/compare.py mae_swin_tiny_256 simmim_swin_tiny_256 --batch_size 4
    python tests/benchmarks/compare.py mae_vit_base_patch16 mask_tokens_in_encoder --batch_size 4

Prints the median and the spread (quartiles) of a step, the peak of memory, and both relative to the first model's.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def main(args):
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    command = [sys.executable, Path(__file__).with_name('worker.py')]
    workers = [subprocess.Popen([*command, case, str(args.batch_size)], text=True, env=environment, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for case in args.cases]
    seconds, memory = [[] for _ in workers], [0.0] * len(workers)
    for number in range(1 + args.rounds):
        for i, worker in enumerate(workers):
            answer = ask(worker, args.cases[i], args.steps)
            memory[i] = answer['memory']
            if number:  # the first is to warm up
                seconds[i] += answer['seconds']
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    for case, times, peak in zip(args.cases, seconds, memory):
        low, median, high = np.percentile(times, [25, 50, 75])
        print(f'{case:24} {1000 * median:8.0f} ms ({1000 * low:.0f} to {1000 * high:.0f}, n = {len(times)}), {peak:.0f} MB: '
              f'{median / np.median(seconds[0]):.2f} x the time, {peak / memory[0]:.2f} x the memory')


def ask(worker, case, steps):
    worker.stdin.write(f'{steps}\n')
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f'{case}: the process ended with {worker.wait()}; run worker.py on its own to see why')
    return json.loads(line)


PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument('cases', nargs='+', metavar='CASE', help='a masked autoencoder, or mask_tokens_in_encoder')
PARSER.add_argument('--batch_size', type=int, default=4)
PARSER.add_argument('--steps', type=int, default=1, help='steps a turn')
PARSER.add_argument('--rounds', type=int, default=3, help='turns that count')

if __name__ == '__main__':
    main(PARSER.parse_args())
