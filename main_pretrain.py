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
import models_mae
from engine_pretrain import reconstruct, train_one_epoch
from util import amp, checkpoint, cli, dist, masking, metrics, optim, picture, run
from util.augment import crop
from util.data import folder, loader, pictures

PICTURES = 4  # images whose reconstruction is recorded


def main(args):
    run.begin(args.device, args.seed, args.output_dir)
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    images = folder.find(args.data_path, 'train', pictures.suffixes(args.in_chans))
    model = models_mae.create(args.model, img_size=args.input_size, in_chans=args.in_chans, norm_pix_loss=args.norm_pix_loss)
    patches = model.patch_embed.num_patches
    masking.check(patches, args.mask_ratio)
    if args.recompute:
        layer.enable_recompute(model)
    samples = loader.TrainSet(images, partial(pictures.read, in_chans=args.in_chans),
                              crop.CropAndFlip(args.input_size, crop.Normalize(mean, std)),
                              lambda index, rng: masking.random(patches, rng), args.seed)
    data = loader.TrainLoader(samples, args.batch_size, args.accum_iter, args.num_workers, args.pin_mem,
                              dist.rank(), dist.world_size())
    effective_batch = args.batch_size * args.accum_iter * dist.world_size()
    lr = optim.absolute_lr(args.lr, args.blr, effective_batch)
    schedule = optim.Cosine(lr, args.min_lr, args.warmup_epochs, args.epochs)
    optimizer = optim.adamw(optim.decay_groups(model, args.weight_decay), beta2=0.95)
    step = amp.Step(optimizer, args.accum_iter, args.amp)
    start = checkpoint.resume(args.resume, model, optimizer, step) if args.resume else args.start_epoch
    network = dist.wrap(model)
    recorder = run.Recorder(args.output_dir, args.log_dir)
    run.say(f'{args.model} with {run.parameters(model)} parameters, {len(images)} images, effective batch '
            f'{effective_batch}, rate {lr:.3g}, {args.epochs - start} epochs of {len(data)} iterations')

    for epoch in range(start, args.epochs):
        progress = metrics.Progress(epoch, args.epochs, len(data), args.print_freq, quiet=not dist.is_main())
        stats = train_one_epoch(network, data.batches(epoch), schedule, step, progress, recorder, args.mask_ratio)
        recorder.epoch(train_lr=stats['lr'], train_loss=stats['loss'], epoch=epoch)
        if epoch % args.save_every == 0 or epoch + 1 == args.epochs:
            checkpoint.save(args.output_dir, epoch, model, optimizer, step, vars(args))
            recorder.picture('reconstruction', epoch, pictures_of(model, samples, args.mask_ratio, mean, std))


def pictures_of(model, samples, mask_ratio, mean, std):
    """How the model reconstructs the first few images, always with the same crops and masks."""
    images, noise, _ = (paddle.to_tensor(np.stack(part)) for part in zip(*(samples[0, i] for i in range(PICTURES))))
    shown, masks = reconstruct(model, images, mask_ratio, noise)
    return picture.panels(images.numpy(), shown.numpy(), masks.numpy(), mean, std)


PARSER = cli.parser(__doc__, cli.training, cli.rate, cli.masking, cli.data, cli.runtime)

if __name__ == '__main__':
    run.program(main, PARSER)
