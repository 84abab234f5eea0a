"""Two GPUs against one, or two processes on a CPU."""

import shutil

from gpu import programs
from gpu.report import Report, Settings
from gpu.resume import differences

TITLE = 'two devices against one'
MINUTES = 5
# Gradients are summed in another order; with SGD weights stay as close as gradients
CLOSE = 1e-5


def run(settings: Settings, report: Report) -> None:
    """Train on one device with the doubled batch, on two, and on two with a shared optimizer."""
    equal = 'SGD on two devices equals one with the doubled batch'
    sharded = '--shard_optimizer changes nothing'
    if settings.devices < 2:
        for case in (equal, sharded):
            report.skipped(case, 'this machine has one GPU')
        return
    if report.wants(equal):
        with report.case(equal):
            one = train(settings, 'one', 'sgd', 1, '--batch_size', 20)
            two = train(settings, 'two', 'sgd', 2, '--batch_size', 10)
            apart, note = differences(one, two)
            report.measured(equal, apart, CLOSE, note)
    if report.wants(sharded):
        with report.case(sharded):
            whole = train(settings, 'whole', '', 2, '--batch_size', 10)
            shares = train(settings, 'shares', '', 2, '--batch_size', 10, '--shard_optimizer')
            apart, note = differences(whole, shares)
            report.measured(sharded, apart, 0.0, note)


def train(settings: Settings, name: str, what: str, processes: int, *flags):
    """The last checkpoint of a pre-training in float32."""
    out = settings.folder / name
    shutil.rmtree(out, ignore_errors=True)
    words = [*programs.pretraining(settings, out), '--amp', 'off', '--epochs', 1, *flags]
    environ = programs.EXACT | programs.SAME
    programs.run(settings, programs.CHANGED, what, *words, processes=processes, **environ)
    return out / 'checkpoint-0.pd'
