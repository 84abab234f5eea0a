"""Fine-tune a pre-trained encoder for classification, or evaluate a classifier.

    python -m paddle.distributed.launch main_finetune.py --data_path DATA \\
        --finetune mae_pretrain_vit_base.pd --model vit_base_patch16 --batch_size 128 \\
        --epochs 100 --blr 5e-4 --layer_decay 0.65 --drop_path 0.1 --weight_decay 0.05 \\
        --reprob 0.25 --mixup 0.8 --cutmix 1.0 --dist_eval
    python main_finetune.py --eval --resume checkpoint-best.pd --data_path DATA \\
        --model vit_base_patch16
    python main_finetune.py --eval --robustness --resume checkpoint-best.pd \\
        --data_path imagenet-c imagenet-a imagenet-r sketch --model vit_base_patch16
"""

import functools

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import engine_robustness
import layer
import models_labels
import models_variants
import models_zoo
from engine_finetune import evaluate, finish_epoch, report_evaluation, train_one_epoch
from engine_loop import Run
from util import (
    ablation_flags,
    amp,
    archive_flags,
    classes,
    cli,
    ema,
    flags,
    log,
    optim,
    parallel_flags,
    program,
)
from util.augment import crop, transform
from util.augment.erasing import RandomErasing
from util.augment.mixup import Mixup
from util.data import folder, loader, pictures, summary
from util.data.window import window_of
from util.errors import InputError


def main(args):
    program.start(
        args.device,
        args.seed,
        args.output_dir,
        args.log_dir,
        amp=args.amp,
        deterministic=args.deterministic,
    )
    model = models_zoo.classifier(
        args.model,
        img_size=args.input_size,
        patch_size=args.patch_size,
        in_chans=args.in_chans,
        num_classes=args.nb_classes,
        drop_path_rate=args.drop_path,
        global_pool=args.global_pool,
    )
    if args.eval or args.robustness:
        evaluate_this = evaluate_variants if args.robustness else evaluate_only
        evaluate_this(args, model)
        return

    # Images
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    suffixes = pictures.suffixes(args.in_chans)
    images, held_out = folder.find_both(args.data_path, suffixes, args.nb_classes, args.index_dir)
    log.info(summary.line('training', images))
    log.info(summary.line('validation', held_out))
    val = validation(args, held_out, plain)

    # Batches
    mix = mixup(args)
    begin_from(args, model)
    augment = augmentation(args, mean, std)
    samples = loader.TrainSet(images, args.in_chans, augment, images.label, args.seed)
    data = loader.TrainLoader(
        samples,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        timeout=args.data_timeout,
        window=window_of(images, args.shuffle, args.window, args.window_parts),
    )

    # Training
    groups = optim.layer_decay_groups(model, args.weight_decay, args.layer_decay)
    optimizer = optim.adamw(groups, args.beta2)
    average = ema.Ema(model, args.ema_decay) if args.ema_decay else None
    trained_on = classes.kept(images, args.data_path, args.classes_renamed)
    kept = {**trained_on, 'ema': average, 'best': {}}
    run = Run(model, optimizer, data, args, clip_grad=args.clip_grad, kept=kept)

    for epoch in run.epochs():
        stats = train_one_epoch(run, mix, average)
        with run.saver.evaluating(run.progress), ema.in_place(average):
            result = evaluate(model, val, run.step.autocast, shared=args.dist_eval)
        finish_epoch(run, epoch, stats, result)


def evaluate_only(args, model):
    """Evaluate the weights of --resume and print the figures, for --eval."""
    state = models_zoo.assign_from(model, args.resume, args.use_ema)
    trained = state.get('args', {})
    mean, std = crop.trained_statistics(trained, args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    val = validation(args, evaluation_images(args, state), plain)
    result = evaluate(model, val, amp.caster(args.amp), shared=args.dist_eval)
    report_evaluation(args.resume, result)


def evaluate_variants(args, model):
    """Evaluate the weights of --resume on variants of ImageNet, for --eval --robustness."""
    if not args.eval:
        raise InputError('--robustness evaluates a trained classifier; add --eval and --resume')
    variants = models_variants.find(args.data_path)
    state = models_zoo.assign_from(model, args.resume, args.use_ema)
    names = models_labels.output_names(args.nb_classes, state.get('classes'), args.class_names)
    mean, std = crop.trained_statistics(state.get('args', {}), args.in_chans, args.mean, args.std)
    suffixes = pictures.suffixes(args.in_chans)

    table = {}
    for variant in variants:
        plain = transform.Evaluate(args.input_size, mean, std)
        if variant.is_corrupted:  # cropped already
            plain = crop.CenterCrop(args.input_size, crop.Normalize(mean, std))
        chosen = models_variants.outputs_of(model, names, variant.classes)
        batches = functools.partial(validation, args, plain=plain)
        parts = variant.images(suffixes)
        found = engine_robustness.accuracies(
            chosen, parts, batches, amp.caster(args.amp), shared=args.dist_eval
        )
        table[variant.name] = engine_robustness.figures(found)
        log.info(engine_robustness.line(variant.name, table[variant.name]))
    engine_robustness.write(args.output_dir, args.resume, table)


def evaluation_images(args, state):
    """The images of --eval, labelled by the classes that the weight file or --class_names lists.

    state: the entries of the weight file besides the weights.
    """
    images = models_labels.evaluation_images(
        args.data_path,
        pictures.suffixes(args.in_chans),
        args.nb_classes,
        path=args.resume,
        names=state.get('classes'),
        class_names=args.class_names,
        index_dir=args.index_dir,
    )
    log.info(summary.line('validation', images))
    return images


def validation(args, images, plain):
    """Batches of validation images; with --dist_eval, only this rank's part of them."""
    samples = loader.EvalSet(images, args.in_chans, plain)
    return loader.EvalLoader(
        samples,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        shared=args.dist_eval,
        timeout=args.data_timeout,
    )


def augmentation(args, mean, std):
    """The transform of the training images."""
    erasing = None
    if args.reprob:
        erasing = RandomErasing(args.reprob, args.remode, args.recount)
    cropping = crop.CropAndFlip(
        args.input_size, scale=args.scale, hflip=args.hflip, fast=args.fast_resize
    )
    return transform.Train(
        cropping,
        mean,
        std,
        aa=args.aa,
        color_jitter=args.color_jitter,
        erasing=erasing,
    )


def mixup(args):
    """Mixup, cutmix and label smoothing of a batch, as the flags ask for."""
    mix = Mixup(
        mixup=args.mixup,
        cutmix=args.cutmix,
        minmax=args.cutmix_minmax,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode,
        smoothing=args.smoothing,
        classes=args.nb_classes,
    )
    mix.check(args.batch_size)
    return mix


def begin_from(args, model):
    """Start from the weights of --finetune, and freeze the blocks of --freeze_blocks."""
    if args.finetune:
        log.info(models_zoo.start_from(model, args.finetune, use_ema=args.use_ema))
        model.reset_head(std=2e-5)
    model.freeze_blocks(args.freeze_blocks)
    if args.recompute:
        layer.enable_recompute(model)


FLAGS = (
    flags.training,
    flags.rate,
    ablation_flags.adamw,
    flags.regularization,
    flags.crop,
    flags.augmentation,
    flags.classification,
    flags.data,
    archive_flags.shuffle,
    flags.runtime,
    parallel_flags.sharding,
)
PARSER = cli.parser(__doc__, *FLAGS)
PARSER.add_argument(
    '--robustness',
    action='store_true',
    help='with --eval: each folder of --data_path is a variant of ImageNet: -C (its mean '
    'corruption error is printed), -A, -R, -Sketch or another one with the same classes',
)
PARSER.set_defaults(
    model='vit_large_patch16', epochs=50, min_lr=1e-6, warmup_epochs=5, save_every=1
)

if __name__ == '__main__':
    program.run(main, PARSER)
