"""Pre-train a masked autoencoder.

    python -m paddle.distributed.launch main_pretrain.py --data_path DATA --model mae_vit_base_patch16 --norm_pix_loss \\
        --batch_size 64 --epochs 800 --warmup_epochs 40 --blr 1.5e-4 --weight_decay 0.05
"""

from functools import partial

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import layer
import models_um
import models_zoo
from engine_loop import Run
from engine_pretrain import reconstruct, train_one_epoch
from util import cli, flags, masking, optim, picture, program
from util.augment import crop, transform
from util.data import folder, loader, pictures
from util.errors import InputError

PICTURES = 4  # images whose reconstruction is recorded


def main(args):
    program.start(args.device, args.seed, args.output_dir, args.log_dir)
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    images = folder.find(args.data_path, 'train', pictures.suffixes(args.in_chans))
    model = models_zoo.autoencoder(
        args.model,
        args.fix_um_positions,
        img_size=args.input_size,
        in_chans=args.in_chans,
        norm_pix_loss=args.norm_pix_loss,
        vis_mask_ratio=args.vis_mask_ratio,
    )
    masks = sampler(args, model)
    if args.recompute:
        layer.enable_recompute(model)

    cropping = crop.CropAndFlip(args.input_size, args.scale, args.hflip, fast=args.fast_resize)
    augment = transform.Train(cropping, mean, std)
    samples = loader.TrainSet(
        images, args.in_chans, augment, lambda index, rng: masks(rng), args.seed
    )
    data = loader.TrainLoader(
        samples, args.batch_size, args.num_workers, args.pin_mem, args.data_timeout
    )
    optimizer = optim.adamw(optim.decay_groups(model, args.weight_decay), beta2=0.95)
    run = Run(model, optimizer, data, args)

    for epoch in run.epochs():
        stats = train_one_epoch(run, args.mask_ratio)
        record = {'train_lr': stats['lr'], 'train_loss': stats['loss'], 'epoch': epoch}
        shown = partial(reconstruction, model, samples, args.mask_ratio, mean, std)
        run.finish_epoch(epoch, record, picture=shown)


def sampler(args, model):
    """What draws a mask; an error where the model needs other ones."""
    if args.token_size not in (None, model.grid[0]):
        raise InputError(
            f'--token_size {args.token_size}: {args.model} has {model.grid[0]} patches a side at --input_size '
            f'{args.input_size}; leave --token_size out'
        )
    if isinstance(model, models_um.UniformMasking) and not args.mask_regular:
        raise InputError(f'--model {args.model} needs uniform masks; add --mask_regular')
    draw = masking.sampler(model.grid, args.mask_ratio, masking.kind_of(vars(args)))
    visible = masking.num_visible(model.num_patches, args.mask_ratio)
    if not masking.num_visible(visible, args.vis_mask_ratio):
        raise InputError(
            f'--vis_mask_ratio {args.vis_mask_ratio} replaces all {visible} kept patches; take a smaller one'
        )
    return draw


def reconstruction(model, samples, mask_ratio, mean, std):
    """The first few images, always with the same crops and masks, as the model sees them now."""
    first = [samples[0, index] for index in range(min(PICTURES, len(samples)))]
    images, noise, _ = (paddle.to_tensor(np.stack(part)) for part in zip(*first))
    shown, masks = reconstruct(model, images, mask_ratio, noise)
    return picture.panels(images.numpy(), shown.numpy(), masks.numpy(), mean, std)


PARSER = cli.parser(
    __doc__, flags.training, flags.rate, flags.masking, flags.crop, flags.data, flags.runtime
)
PARSER.set_defaults(scale=[0.2, 1.0])

if __name__ == '__main__':
    program.run(main, PARSER)
