"""Train a tiny segmentor, autoencoder and classifier by the programs.

    python tests/data/before/train.py OUT            # from the beginning
    python tests/data/before/train.py OUT BEFORE     # from checkpoints in a folder like this one

OUT receives checkpoints, log.txt files and losses.json. The files beside this one are what commit
56aad2f wrote when it ran from the beginning: for each run a checkpoint from its middle, and all
losses to its end. tests/test_before.py resumes them with the present code.
"""

import contextlib
import functools
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
from PIL import Image

import models_mae
import models_vit

# The smallest models with names are 100 times larger. models_zoo, imported later, finds these too
SIZES = {'patch_size': 4, 'embed_dim': 8, 'depth': 2, 'num_heads': 2}
DECODER = {'decoder_embed_dim': 8, 'decoder_depth': 1, 'decoder_num_heads': 2}
models_vit.vit_before = functools.partial(models_vit.VisionTransformer, **SIZES)
models_mae.mae_vit_before = functools.partial(models_mae.MaskedAutoencoderViT, **SIZES, **DECODER)

# isort: split
import main_finetune  # noqa: E402
import main_pretrain  # noqa: E402
from seg import train  # noqa: E402

COMMON = shlex.split(
    '--data_path data --input_size 16 --in_chans 1 --batch_size 10 --epochs 4 --warmup_epochs 1 '
    "--lr 2e-2 --save_every_iters 2 --num_workers 0 --device cpu --seed 3 --log_dir ''"
)
AUTOENCODE = ['--model', 'mae_vit_before']
CLASSIFY = '--model vit_before --nb_classes 3 --drop_path .1 --mixup .8 --ema_decay .5'.split()
SEGMENT = '--save_interval 4 --log_iters 1 --device cpu --seed 3 --save_dir seg --config'.split()
CONFIG = Path(__file__).resolve().parent / 'seg.yml'


def write_data() -> None:
    """Pictures of three classes, and pictures with a class for each pixel."""
    rng = np.random.default_rng(0)
    for number in range(36):
        label = number % 3
        folder = Path('data', 'train' if number < 30 else 'val', str(label))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, [16, 16]) // 2 + np.linspace(0, 40 * label, 16)
        Image.fromarray(pixels.astype('uint8')).save(folder / f'{number}.png')
    for number in range(8):
        labels = np.kron(rng.integers(0, 3, [4, 4]), np.ones([6, 6])).astype('uint8')
        pixels = rng.integers(0, 128, [24, 24, 3]) + 60 * labels[..., None]
        Image.fromarray(pixels.astype('uint8')).save(f'{number}.png')
        Image.fromarray(labels).save(f'{number}_label.png')
    Path('list.txt').write_text(''.join(f'{n}.png {n}_label.png\n' for n in range(8)))


def run(program, *flags: str) -> str:
    """Run a program; its output."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        program.main(program.PARSER.parse_args(flags))
    return printed.getvalue()


def main(out: Path, before: Path | None) -> None:
    out.mkdir(parents=True)
    os.chdir(out)
    write_data()
    # The segmentor first: PaddleSeg names an optimizer's state by counting the layers of a process
    resume = ['--resume_model', str(before / 'seg/iter_4')] if before else []
    printed = run(train, *SEGMENT, str(CONFIG), *resume)
    lines = re.findall(r'iter: (\d+)/8, loss: ([\d.]+)', printed)
    losses = {'seg': {number: float(loss) for number, loss in lines}}
    programs = {'pretrain': (main_pretrain, AUTOENCODE), 'finetune': (main_finetune, CLASSIFY)}
    for name, (program, flags) in programs.items():
        resume = ['--resume', str(before / name / 'checkpoint-1-20.pd')] if before else []
        run(program, *COMMON, '--output_dir', name, *flags, *resume)
        lines = map(json.loads, Path(name, 'log.txt').read_text().splitlines())
        losses[name] = {line['epoch']: line for line in lines}
    Path('losses.json').write_text(json.dumps(losses, indent=1))


if __name__ == '__main__':
    arguments = [Path(argument).resolve() for argument in sys.argv[1:]]
    main(arguments[0], arguments[1] if len(arguments) > 1 else None)
