"""Fine-tune a pre-trained encoder for classification, or evaluate a classifier.

    python -m paddle.distributed.launch main_finetune.py --data_path DATA --finetune mae_pretrain_vit_base.pd \\
        --model vit_base_patch16 --batch_size 128 --epochs 100 --blr 5e-4 --layer_decay 0.65 --drop_path 0.1 \\
        --weight_decay 0.05 --reprob 0.25 --mixup 0.8 --cutmix 1.0 --dist_eval
    python main_finetune.py --eval --resume checkpoint-best.pd --data_path DATA --model vit_base_patch16
"""
import contextlib

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import layer
import models_zoo
from engine_finetune import after_epoch, evaluate, train_one_epoch
from util import amp, checkpoint, cli, dist, ema, flags, loop, metrics, optim, run
from util.augment import crop, transform
from util.augment.erasing import RandomErasing
from util.augment.mixup import Mixup
from util.data import folder, loader, pictures


def main(args):
    run.begin(args.device, args.seed, args.output_dir, args.log_dir)
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    model = models_zoo.classifier(args.model, img_size=args.input_size, in_chans=args.in_chans, num_classes=args.nb_classes,
                              drop_path_rate=args.drop_path, global_pool=args.global_pool)
    if args.eval:
        classes = models_zoo.load_classifier(model, args.resume).get('classes')
        result = evaluate(model, validation(args, classes, plain), shared=args.dist_eval)
        run.say(f'Resume checkpoint {args.resume}')
        run.say('  '.join(f'{name} {value:.4f}' for name, value in result.items()))
        return

    images = folder.find_labelled(args.data_path, 'train', pictures.suffixes(args.in_chans), args.nb_classes)
    val = validation(args, images.classes, plain)
    erasing = RandomErasing(args.reprob, args.remode, args.recount) if args.reprob else None
    cropping = crop.CropAndFlip(args.input_size, args.scale, args.hflip, fast=args.fast_resize)
    augment = transform.Train(cropping, mean, std, args.aa, args.color_jitter, erasing)
    mix = Mixup(args.mixup, args.cutmix, args.cutmix_minmax, args.mixup_prob, args.mixup_switch_prob, args.mixup_mode,
                args.smoothing, args.nb_classes)
    mix.check(args.batch_size)
    begin_from(args, model)

    state = checkpoint.load(args.resume, args.output_dir, vars(args))
    accum_iter = checkpoint.accum_iter(state, args.batch_size * dist.world_size(), args.accum_iter)
    data = loader.TrainLoader(loader.TrainSet(images, args.in_chans, augment, images.label, args.seed), args.batch_size,
                              accum_iter, args.num_workers, args.pin_mem, args.data_timeout)
    lr = optim.absolute_lr(args.lr, args.blr, data.effective_batch)
    schedule = optim.Cosine(lr, args.min_lr, args.warmup_epochs, args.epochs)
    optimizer = optim.adamw(optim.layer_decay_groups(model, args.weight_decay, args.layer_decay), args.beta2)
    step = amp.Step(optimizer, accum_iter, args.amp, args.clip_grad)
    average = ema.Ema(model, args.ema_decay) if args.ema_decay else None
    saver = checkpoint.Saver(args.output_dir, model, step, vars(args), data.effective_batch, args.epochs,
                             args.save_every, args.save_every_iters, args.keep, classes=images.classes, ema=average, best={})
    start = checkpoint.restore(state, model, step, saver.extra) if state else checkpoint.Position(args.start_epoch)
    saver.extra['ema'] = average  # and not one that only the resumed run kept, which would grow stale
    network = dist.wrap(model)
    saver.set_aside_later_than(start)
    recorder = run.Recorder(args.output_dir, args.log_dir, start.epoch)
    progress = metrics.Progress(args.epochs, len(data), args.print_freq)
    run.announce(args.model, model, data, lr, args.epochs, state.get('path'), start)

    for epoch, batches in loop.epochs(start, args.epochs, data, progress):
        stats = train_one_epoch(network, batches, schedule, step, progress, recorder, saver, mix, args.seed, average)
        with saver.evaluating(progress), average.in_place() if average else contextlib.nullcontext():
            result = evaluate(model, val, step.autocast, shared=args.dist_eval)
        after_epoch(epoch, stats, result, model, saver, recorder)


def validation(args, classes, plain):
    """The validation images; with --dist_eval this rank's part of them."""
    images = folder.find_labelled(args.data_path, 'val', pictures.suffixes(args.in_chans), args.nb_classes, classes)
    return loader.EvalLoader(loader.EvalSet(images, args.in_chans, plain), args.batch_size, args.num_workers,
                             shared=args.dist_eval, timeout=args.data_timeout)


def begin_from(args, model):
    """Load what --finetune names, and settle which parameters are trained."""
    if args.finetune:
        fresh = models_zoo.load_pretrained(model, args.finetune)
        model.reset_head(std=2e-5)
        run.say(f'begins from {args.finetune}; drawn anew: {", ".join(sorted({"head.weight", "head.bias", *fresh}))}')
    model.freeze_blocks(args.freeze_blocks)
    if args.recompute:
        layer.enable_recompute(model)


PARSER = cli.parser(__doc__, flags.training, flags.rate, flags.regularization, flags.crop, flags.augmentation,
                    flags.classification, flags.data, flags.runtime)
PARSER.set_defaults(model='vit_large_patch16', epochs=50, min_lr=1e-6, warmup_epochs=5, save_every=1)

if __name__ == '__main__':
    run.program(main, PARSER)
