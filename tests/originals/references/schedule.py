"""mmengine's warm-up and polynomial decay in the published recipe: the rate at some iterations.

python schedule.py GIVEN.npz COMPUTED.npz       iterations [n] in rising order -> rates float64 [n]
"""

import sys

import numpy as np
import torch_ready  # noqa: F401  before mmengine

# isort: split
import torch
from mmengine.optim.scheduler import LinearLR, PolyLR


def main(given, computed):
    asked = np.load(given)['iterations']
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    schedulers = [
        LinearLR(optimizer, start_factor=1e-6, by_epoch=False, begin=0, end=1500),
        PolyLR(optimizer, eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
    ]
    rates = []
    for _ in range(asked[-1] + 1):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    np.savez(computed, rates=np.array(rates)[asked])


main(*sys.argv[1:])
