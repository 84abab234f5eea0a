"""Pre-train a masked autoencoder.

    python -m paddle.distributed.launch main_pretrain.py --data_path DATA \\
        --model mae_vit_base_patch16 --norm_pix_loss --batch_size 64 --epochs 800 \\
        --warmup_epochs 40 --blr 1.5e-4 --weight_decay 0.05
"""

from functools import partial

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import engine_frozen
import layer
import models_features
import models_um
import models_zoo
from engine_loop import Run
from engine_pretrain import fit_pca, reconstruct, train_one_epoch
from util import (
    ablation_flags,
    archive_flags,
    cli,
    flags,
    log,
    masking,
    optim,
    panels,
    parallel_flags,
    program,
    sizes,
)
from util.augment import crop, transform
from util.data import folder, loader, pictures, rows, subset, summary
from util.data.window import window_of
from util.errors import InputError

PICTURES = 4  # images whose reconstruction is shown in VisualDL


def main(args):
    program.start(
        args.device,
        args.seed,
        args.output_dir,
        args.log_dir,
        amp=args.amp,
        deterministic=args.deterministic,
    )

    # Images, model and masks
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    images = folder.find_unlabelled(
        args.data_path, pictures.suffixes(args.in_chans), args.index_dir
    )
    log.info(summary.line('training', images))
    labelled = labelled_batches(args, mean, std) if args.knn_every else None
    model = autoencoder(args)
    if args.start_from:
        log.info(models_zoo.start_from(model, args.start_from, use_ema=args.use_ema))
    draw_mask = sampler(args, model)
    if args.recompute:
        layer.enable_recompute(model)

    # Batches
    augment = augmentation(args, mean, std)

    def target(index, rng):
        return draw_mask(rng)

    samples = loader.TrainSet(images, args.in_chans, augment, target, args.seed)
    data = loader.TrainLoader(
        samples,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        timeout=args.data_timeout,
        window=window_of(images, args.shuffle, args.window, args.window_parts),
    )

    # Training
    groups = optim.decay_groups(model, args.weight_decay)
    optimizer = optim.adamw(groups, args.beta2)
    run = Run(model, optimizer, data, args, clip_grad=args.clip_grad)
    if model.needs_pca:  # a resumed run has its basis already
        fit_pca(model, samples)

    for epoch in run.epochs():
        stats = train_one_epoch(run, args.mask_ratio)
        record = {'train_lr': stats['lr'], 'train_loss': stats['loss'], 'epoch': epoch}
        if labelled and (epoch + 1) % args.knn_every == 0:
            record |= nearest_neighbours(args, run, model, labelled)
        shown = partial(
            reconstruction, model, samples, mask_ratio=args.mask_ratio, mean=mean, std=std
        )
        run.finish_epoch(epoch, record, picture=shown)


def autoencoder(args):
    """The model that the flags describe."""
    return models_zoo.autoencoder(
        args.model,
        fix_um_positions=args.fix_um_positions,
        img_size=args.input_size,
        patch_size=args.patch_size,
        in_chans=args.in_chans,
        norm_pix_loss=args.norm_pix_loss,
        vis_mask_ratio=args.vis_mask_ratio,
        decoder_depth=args.decoder_depth,
        decoder_embed_dim=args.decoder_dim,
        encoder_mask_tokens=args.encoder_mask_tokens,
        pca_target=args.pca_target,
    )


def augmentation(args, mean, std):
    """The transform of the training images."""
    hflip = 0 if args.augmentation == 'none' else args.hflip
    cropping = crop.CropAndFlip(
        args.input_size,
        scale=args.scale,
        hflip=hflip,
        box=crop.BOXES[args.augmentation],
        fast=args.fast_resize,
    )
    return transform.Train(cropping, mean, std, color_jitter=args.color_jitter)


def sampler(args, model):
    """A function that draws the mask of an image; InputError if the flags do not fit the model."""
    if args.token_size and sizes.pair(args.token_size) != model.grid:
        raise InputError(
            f'--token_size {args.token_size}: {args.model} has {sizes.shown(model.grid)} patches '
            f'at --input_size {sizes.words(args.input_size)}; leave --token_size out'
        )
    if isinstance(model, models_um.UniformMasking) and not args.mask_regular:
        raise InputError(f'--model {args.model} needs uniform masks; add --mask_regular')
    kind = masking.kind_of(vars(args))
    draw = masking.sampler(model.grid, args.mask_ratio, kind, model.num_visible)

    visible = model.num_visible(model.num_patches, args.mask_ratio)
    unreplaced = masking.num_visible(visible, args.vis_mask_ratio)
    if not unreplaced:
        raise InputError(
            f'--vis_mask_ratio {args.vis_mask_ratio} replaces all {visible} kept patches; '
            'take a smaller one'
        )
    return draw


def labelled_batches(args, mean, std):
    """Batches of labelled training and validation images without augmentation, for --knn_every."""
    rows.check(args.output_dir)
    path = args.knn_path or args.data_path
    try:
        suffixes = pictures.suffixes(args.in_chans)
        train, val = folder.find_both(path, suffixes, index_dir=args.index_dir)
        labels = np.array(train.labels)
        places = subset.choose(labels, args.knn_labels, args.seed, train.classes)
    except InputError as error:
        reason = str(error)
        if args.knn_path:
            reason = reason.replace('--data_path', '--knn_path')
        raise InputError(f'--knn_every needs labelled images: {reason}') from None
    return engine_frozen.loaders(
        (subset.of(train, places), val),
        args.in_chans,
        transform.Evaluate(args.input_size, mean, std),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        timeout=args.data_timeout,
    )


def nearest_neighbours(args, run, model, batches):
    """Print the k-NN accuracy of the features after an epoch, and return it for log.txt."""
    features = models_features.ManyFeatures(models_features.encoder_of(model), blocks=1)

    def features_of(images):
        with run.step.autocast():
            return features(images)

    epoch = run.progress.epoch
    with run.saver.evaluating(run.progress):
        found = engine_frozen.online(features_of, features.parts, batches, args.output_dir)
    shown = '  '.join(f'{name} {acc1:.2f}' for name, acc1 in found.items())
    log.info(f'epoch {epoch}: {shown}')
    run.recorder.evaluation(epoch, **{f'perf/{name}': acc1 for name, acc1 in found.items()})
    return found


def reconstruction(model, samples, mask_ratio, mean, std):
    """A picture of the first few images, their masks and the model's predictions.

    Crops and masks are those of epoch 0, so the pictures of all epochs can be compared.
    """
    images, noise = [], []
    for index in range(min(PICTURES, len(samples))):
        image, mask, _ = samples[0, index]
        images.append(image)
        noise.append(mask)
    images = paddle.to_tensor(np.stack(images))  # [N, C, height, width]
    noise = paddle.to_tensor(np.stack(noise))  # [N, L]
    shown, masks = reconstruct(model, images, mask_ratio, noise)
    arrays = [images.numpy(), shown.numpy(), masks.numpy()]
    return panels.reconstructions(*arrays, mean, std).drawn()


FLAGS = (
    flags.training,
    flags.rate,
    ablation_flags.adamw,
    flags.masking,
    ablation_flags.ablation,
    flags.crop,
    flags.data,
    archive_flags.shuffle,
    flags.runtime,
    parallel_flags.sharding,
)
PARSER = cli.parser(__doc__, *FLAGS)
PARSER.add_argument(
    '--start_from',
    '--load_from',
    default='',
    metavar='FILE',
    help='weights to start from: a whole masked autoencoder, or an encoder, which gets a new '
    'decoder. Positions and channels are adapted. It may be an https address. '
    '--load_from is its name in UM-MAE',
)
cli.average(PARSER)
PARSER.add_argument(
    '--knn_every',
    type=flags.count,
    default=0,
    metavar='EPOCHS',
    help='after every so many epochs, classify labelled images by the nearest neighbours of their '
    'features; 0 turns it off',
)
PARSER.add_argument(
    '--knn_path',
    nargs='+',
    default=None,
    metavar='PATH',
    help='the labelled images, with train/<class>/ and val/<class>/ (default: those of '
    '--data_path)',
)
PARSER.add_argument(
    '--knn_labels',
    type=subset.amount,
    default=subset.ALL,
    metavar='PART',
    help='the training images that vote: all, a share of each class as 10%%, or images a class '
    'as 20',
)
PARSER.set_defaults(scale=[0.2, 1.0], beta2=0.95)

if __name__ == '__main__':
    program.run(main, PARSER)
