"""Parts of a step that only a GPU can show: `python -m gpu.parts '{"device": ...}'`.

Prints a line of JSON: where the batches of a loader arrive, and how many milliseconds the gradients
of a table of relative positions take by util.lookup and by Paddle's embedding.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import paddle
from paddle.nn import functional as F

from gpu.report import Settings
from util import lookup, pos_embed, program
from util.data import feed

ROUNDS = 10
HEADS = 12  # of ViT-B
SIDE = 32  # of a grid of patches, of UPerNet's images of 512 x 512
TINY = 4


def arrival() -> str:
    """The kind of place of the tensors that util.data.feed gives."""
    batches = feed.batches(
        SimpleNamespace(sample=lambda key: np.full([3, 8, 8], key, 'float32'), name=str),
        collate=lambda samples: (np.stack(samples), None),
        order=[[0, 1], [2, 3]],
        num_workers=1,
        timeout=60,
    )
    places = {str(images.place) for images, _ in batches}
    return ', '.join(sorted(places))


def table_times(side: int) -> dict[str, float]:
    """Milliseconds of a gradient, the better of ROUNDS, by both ways in turns."""
    numbers = pos_embed.relative_positions(side, side)
    rows = int(numbers.max()) + 1
    index = lookup.Index(paddle.to_tensor(numbers), rows)
    table = paddle.zeros([rows, HEADS])
    table.stop_gradient = False
    dy = paddle.ones([*numbers.shape, HEADS])
    ways = {
        'sorted': lookup.Rows.apply,
        'atomic': lambda table, index: F.embedding(index.numbers, table),
    }
    best = dict.fromkeys(ways, float('inf'))
    for _ in range(ROUNDS):
        for name, look_up in ways.items():
            found = look_up(table, index)
            wait(found)
            begun = time.perf_counter()
            (gradient,) = paddle.grad(found, table, dy)
            wait(gradient)
            best[name] = min(best[name], 1e3 * (time.perf_counter() - begun))
    return best


def wait(tensor: paddle.Tensor) -> None:
    """Wait until a tensor is computed."""
    tensor.sum().item()


def main(asked: dict) -> dict:
    settings = Settings(**asked)
    program.start(settings.flag, seed=0)
    settings.spend_memory()
    return {'place': arrival(), 'times': table_times(TINY if settings.tiny else SIDE)}


if __name__ == '__main__':
    print(json.dumps(main(json.loads(sys.argv[1]))))
