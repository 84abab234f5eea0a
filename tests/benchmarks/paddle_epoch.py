"""An epoch of main_pretrain.py, timed by parts: checkpoints, records, waits for data, training."""

import time
from pathlib import Path

# This comes first, because it prepares the machine before Paddle is imported
import paddle_steps  # noqa: F401

# isort: split
import contextlib

import main_pretrain
from util import checkpoint, program, progress, recorder


def epoch(case):
    """A step is a run of one epoch; its answer has the seconds of each part."""
    program.start(None, seed=0)
    scratch, lost = Path(case['scratch']), {}

    @contextlib.contextmanager
    def clock(part):
        start = time.perf_counter()
        yield
        lost[part] = lost.get(part, 0.0) + time.perf_counter() - start

    def clocked(owner, name, part):
        plain = getattr(owner, name)

        def function(*args, **kwargs):
            with clock(part):
                return plain(*args, **kwargs)

        setattr(owner, name, function)

    clocked(checkpoint.Saver, 'save', 'saving')
    for name in ('scalars', 'picture', 'epoch'):
        clocked(recorder.Recorder, name, 'logging')
    clocked(main_pretrain, 'reconstruction', 'logging')
    follow = progress.Progress.follow

    def waiting(own, batches):
        batches = iter(batches)

        def waited():
            while True:
                with clock('waiting'):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

        return follow(own, waited())

    progress.Progress.follow = waiting
    flags = (
        f'--model mae_vit_{case["model"]} --input_size {case["side"]} --batch_size {case["batch"]} '
        '--epochs 1 --warmup_epochs 0 --norm_pix_loss --num_workers 1'
    ).split()
    out = scratch / 'epoch'
    flags += ['--data_path', scratch / 'pictures', '--output_dir', out, '--log_dir', out]

    def turn(count):
        seconds = []
        for _ in range(count):
            lost.clear()
            start = time.perf_counter()
            main_pretrain.main(main_pretrain.PARSER.parse_args(list(map(str, flags))))
            whole = time.perf_counter() - start
            seconds.append(sum(lost.values()))
        return {
            'seconds': seconds,
            'memory': progress.peak_memory(),
            'epoch_seconds': whole,
            'parts': dict(lost),
        }

    return turn, {}
