"""Fine-tune a pre-trained encoder for classification, or evaluate a classifier.

    python -m paddle.distributed.launch main_finetune.py --data_path DATA --finetune mae_pretrain_vit_base.pd \\
        --model vit_base_patch16 --batch_size 128 --epochs 100 --blr 5e-4 --layer_decay 0.65 --drop_path 0.1 \\
        --weight_decay 0.05 --reprob 0.25 --mixup 0.8 --cutmix 1.0 --dist_eval
    python main_finetune.py --eval --resume checkpoint-best.pd --data_path DATA --model vit_base_patch16
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import layer
import models_labels
import models_zoo
from engine_finetune import evaluate, finish_epoch, report_evaluation, train_one_epoch
from engine_loop import Run
from util import classes, cli, ema, flags, log, optim, program
from util.augment import crop, transform
from util.augment.erasing import RandomErasing
from util.augment.mixup import Mixup
from util.data import folder, loader, pictures


def main(args):
    program.start(args.device, args.seed, args.output_dir, args.log_dir)
    model = models_zoo.classifier(
        args.model,
        img_size=args.input_size,
        in_chans=args.in_chans,
        num_classes=args.nb_classes,
        drop_path_rate=args.drop_path,
        global_pool=args.global_pool,
    )
    if args.eval:
        said = models_zoo.assign_from(model, args.resume, args.use_ema)
        trained = said.get('args', {})
        mean, std = crop.trained_statistics(trained, args.in_chans, args.mean, args.std)
        plain = transform.Evaluate(args.input_size, mean, std)
        val = validation(args, evaluation_images(args, said), plain)
        report_evaluation(args.resume, evaluate(model, val, shared=args.dist_eval))
        return

    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    suffixes = pictures.suffixes(args.in_chans)
    images = folder.find_labelled(args.data_path, 'train', suffixes, args.nb_classes)
    held_out = folder.find_labelled(
        args.data_path, 'val', suffixes, args.nb_classes, images.classes
    )
    val = validation(args, held_out, plain)
    mix = mixup(args)
    begin_from(args, model)

    augment = augmentation(args, mean, std)
    samples = loader.TrainSet(images, args.in_chans, augment, images.label, args.seed)
    data = loader.TrainLoader(
        samples, args.batch_size, args.num_workers, args.pin_mem, args.data_timeout
    )
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


def evaluation_images(args, said):
    """The validation images of --eval, where the weights' file says who belongs to which output, or --class_names does."""
    return models_labels.evaluation_images(
        args.data_path,
        pictures.suffixes(args.in_chans),
        args.nb_classes,
        path=args.resume,
        names=said.get('classes'),
        class_names=args.class_names,
    )


def validation(args, images, plain):
    """Batches of validation images; with --dist_eval this rank's part of them."""
    samples = loader.EvalSet(images, args.in_chans, plain)
    return loader.EvalLoader(
        samples,
        args.batch_size,
        args.num_workers,
        shared=args.dist_eval,
        timeout=args.data_timeout,
    )


def augmentation(args, mean, std):
    """The transform of the training images."""
    erasing = RandomErasing(args.reprob, args.remode, args.recount) if args.reprob else None
    cropping = crop.CropAndFlip(args.input_size, args.scale, args.hflip, fast=args.fast_resize)
    return transform.Train(cropping, mean, std, args.aa, args.color_jitter, erasing)


def mixup(args):
    """Mixup, cutmix and label smoothing of a batch."""
    mix = Mixup(
        args.mixup,
        args.cutmix,
        args.cutmix_minmax,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode,
        smoothing=args.smoothing,
        classes=args.nb_classes,
    )
    mix.check(args.batch_size)
    return mix


def begin_from(args, model):
    """Start from the weights that --finetune names, and settle which parameters are trained."""
    if args.finetune:
        log.info(models_zoo.start_from(model, args.finetune, use_ema=args.use_ema))
        model.reset_head(std=2e-5)
    model.freeze_blocks(args.freeze_blocks)
    if args.recompute:
        layer.enable_recompute(model)


PARSER = cli.parser(
    __doc__,
    flags.training,
    flags.rate,
    flags.regularization,
    flags.crop,
    flags.augmentation,
    flags.classification,
    flags.data,
    flags.runtime,
)
PARSER.set_defaults(
    model='vit_large_patch16', epochs=50, min_lr=1e-6, warmup_epochs=5, save_every=1
)

if __name__ == '__main__':
    program.run(main, PARSER)
