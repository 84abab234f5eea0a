"""Compare the speed and memory of pre-training steps, each model in its own process, taking turns.

    python tests/benchmarks/compare.py mae_swin_tiny_256 simmim_swin_tiny_256 --batch_size 4
    python tests/benchmarks/compare.py mae_vit_base_patch16 mask_tokens_in_encoder --batch_size 4

Prints the median and the quartiles of a step's time, the peak of memory, and both relative to the
first model's.
"""

import argparse
import os

import numpy as np
import turns


def main(args):
    threads = int(os.environ.get('OMP_NUM_THREADS', 0)) or len(os.sched_getaffinity(0))
    workers = [turns.Worker('paddle', asked(name, args.batch_size), threads) for name in args.cases]
    try:
        answers = turns.take(workers, args.rounds, args.steps)
    except turns.Failed as error:
        raise SystemExit(str(error)) from None
    finally:
        for worker in workers:
            worker.close()
    first = answers[0]
    for name, answer in zip(args.cases, answers):
        low, median, high = np.percentile(answer['seconds'], [25, 50, 75])
        print(
            f'{name:24} {1000 * median:8.0f} ms '
            f'({1000 * low:.0f} to {1000 * high:.0f}, n = {len(answer["seconds"])}), '
            f'{answer["memory"]:.0f} MB: {median / np.median(first["seconds"]):.2f} x the time, '
            f'{answer["memory"] / first["memory"]:.2f} x the memory'
        )


def asked(name, batch):
    return {
        'name': name,
        'kind': 'pretrain',
        'model': name,
        'batch': batch,
        'side': 256 if name.endswith('_256') else 224,
        'mask_ratio': 0.75,
        'products': [],
    }


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument(
    'cases', nargs='+', metavar='CASE', help='a masked autoencoder, or mask_tokens_in_encoder'
)
PARSER.add_argument('--batch_size', type=int, default=4)
PARSER.add_argument('--steps', type=int, default=1, help='steps a turn')
PARSER.add_argument('--rounds', type=int, default=3, help='turns that count')

if __name__ == '__main__':
    main(PARSER.parse_args())
