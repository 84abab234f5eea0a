"""The plan of a pre-training on many GPUs, by arithmetic.

    python -m recipes.plan mae_vit_large_patch16 --devices 1000

Prints what each GPU holds, sends and reads, and how long that takes at the speeds that you give.
What is computed and what was measured stand side by side in docs/training.md.
"""

import math
from dataclasses import dataclass, fields

from models_sizes import SIZES, Size
from recipes import cost
from recipes.recipe import IMAGES
from util import cli, program
from util.errors import InputError

FLOAT = 4  # bytes of a float32
INDEX = 64  # bytes of an image in the index of an archive, at most
MOMENTS = 2  # of AdamW for each weight
MEGA, GIGA, TERA = 10**6, 10**9, 10**12


def block_parameters(width: int) -> int:
    """The weights of a transformer block: qkv, projection and MLP, and their biases and norms."""
    return 12 * width**2 + 13 * width


def parameters(size: Size) -> int:
    """The trainable weights of a masked autoencoder; its tables of positions are fixed."""
    pixels = 3 * size.patch**2
    encoder = size.depth * block_parameters(size.width)
    embedding = pixels * size.width + size.width
    tokens_and_norms = 3 * size.width + 3 * size.decoder_width
    decoder = size.decoder_depth * block_parameters(size.decoder_width)
    into_decoder = size.width * size.decoder_width + size.decoder_width
    prediction = size.decoder_width * pixels + pixels
    return encoder + embedding + tokens_and_norms + decoder + into_decoder + prediction


@dataclass(frozen=True)
class Plan:
    """A training of a model, its data in shards.

    devices: GPUs in total; rate: 10^12 operations a second of one. image_kb, shard_mb: 10^3 and
    10^6 bytes. network, disk: 10^9 bytes a second.
    """

    model: str
    devices: int = 8
    batch_size: int = 64
    images: int = IMAGES['ImageNet-1K']
    image_kb: int = 110
    shard_mb: int = 512
    network: float = 12.5
    disk: float = 1.0
    rate: float = cost.RATES['main_pretrain.py']
    shard_optimizer: bool = False

    @property
    def weights(self) -> int:
        """The trainable weights of the model."""
        return parameters(SIZES[self.model.removeprefix('mae_vit_')])

    @property
    def memory(self) -> float:
        """Bytes of weights, gradients, the buffers that send them, and AdamW's state."""
        parts = self.devices if self.shard_optimizer else 1
        return FLOAT * self.weights * (3 + MOMENTS / parts)

    @property
    def sent(self) -> float:
        """Bytes that a GPU sends in a step: a ring all-reduce, and the new weights if sharded."""
        around = (self.devices - 1) / self.devices
        times = 3 if self.shard_optimizer else 2
        return times * around * FLOAT * self.weights

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint: weights and AdamW's state."""
        return FLOAT * self.weights * (1 + MOMENTS)

    @property
    def computing(self) -> float:
        """Seconds of a step's forward and backward pass."""
        operations = 2 * 3 * cost.multiply_adds(self.model) * self.batch_size
        return operations / (self.rate * TERA)

    @property
    def shards(self) -> int:
        """The number of shards."""
        size = self.images * self.image_kb / 1000
        return math.ceil(size / self.shard_mb)


def rows(plan: Plan) -> dict[str, str]:
    """What the program prints: a name, and how much of it."""
    effective = plan.devices * plan.batch_size
    sending = plan.sent / (plan.network * GIGA)
    step = plan.computing + sending
    found = {'weights': f'{plan.weights:,}'}
    found['memory, without activations'] = f'{plan.memory / GIGA:.2f} GB a GPU'
    found['effective batch'] = f'{effective:,} with --accum_iter 1'
    found['steps of an epoch'] = f'{plan.images // effective:,}'
    found['computing a step'] = f'{plan.computing:.3f} s'
    megabytes = plan.sent / MEGA
    found['sent in a step'] = f'{megabytes:,.0f} MB a GPU, {sending:.3f} s if nothing overlaps'
    found['share of sending'] = f'{100 * sending / step:.0f} %'

    size = plan.checkpoint / GIGA
    found['checkpoint'] = f'{size:.2f} GB, {size / plan.disk:.1f} s'
    found['shards'] = shares(plan)
    index = INDEX * plan.images / MEGA
    found['index'] = f'{index:.0f} MB in the memory of a process'
    reading = plan.batch_size * plan.image_kb / 1000 / step
    total = plan.devices * reading / 1000
    found['read'] = f'{reading:.1f} MB/s a GPU, {total:.1f} GB/s in all'
    return found


def shares(plan: Plan) -> str:
    """How the shards are spread over the GPUs, as text."""
    each, more = divmod(plan.shards, plan.devices)
    text = f'{plan.shards:,}, {each} for each GPU'
    if more:
        text += f' and one more for {more} of {plan.devices}'
    if not each:
        even = plan.images * plan.image_kb // (1000 * plan.devices)
        text += f'; with --shard_mb {even} each has one'
    return text


def main(args):
    names = [f'mae_vit_{name}' for name in SIZES]
    if args.model not in names:
        raise InputError(f'{args.model}: the plan knows {", ".join(names)}')
    found = rows(Plan(**vars(args)))
    widest = max(map(len, found))
    for name, value in found.items():
        print(f'{name.ljust(widest)}  {value}')


PARSER = cli.parser(__doc__)
PARSER.prog = 'python -m recipes.plan'
WHOLE = cli.number(int, 1)
ABOVE_ZERO = cli.number(float, 1e-6)
PARSER.add_argument('model', metavar='MODEL', help='a masked autoencoder, mae_vit_...')
PARSER.add_argument('--devices', type=WHOLE, help='number of GPUs in total')
PARSER.add_argument('--batch_size', type=WHOLE, help='images per GPU and step')
PARSER.add_argument('--images', type=WHOLE, help='images of the data')
PARSER.add_argument('--image_kb', type=WHOLE, help='mean size of an image file, in kB')
PARSER.add_argument('--shard_mb', type=WHOLE, help='size of a shard, in MB')
PARSER.add_argument(
    '--network', type=ABOVE_ZERO, metavar='GB/s', help='what a GPU sends while all send'
)
PARSER.add_argument('--disk', type=ABOVE_ZERO, metavar='GB/s', help='what one process writes')
PARSER.add_argument(
    '--rate',
    type=ABOVE_ZERO,
    metavar='TFLOPS',
    help="10^12 operations a second of a GPU; the default is that of the published runs' V100",
)
PARSER.add_argument('--shard_optimizer', action='store_true', help='as in training')
PARSER.set_defaults(**{f.name: f.default for f in fields(Plan) if f.name != 'model'})

if __name__ == '__main__':
    program.run(main, PARSER)
