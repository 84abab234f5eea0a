"""Train a linear classifier on the frozen features of a pre-trained encoder.

    python -m paddle.distributed.launch main_linprobe.py --data_path DATA \\
        --finetune mae_pretrain_vit_base.pd --model vit_base_patch16 --cls_token \\
        --batch_size 1024 --accum_iter 2 --epochs 90 --blr 0.1 --weight_decay 0 --dist_eval
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import models_labels
import models_zoo
from engine_finetune import evaluate, finish_epoch, report_evaluation, train_one_epoch
from engine_loop import Run
from util import amp, archive_flags, classes, cli, flags, log, optim, parallel_flags, program
from util.augment import crop, transform
from util.augment.mixup import Mixup
from util.data import folder, loader, pictures, summary
from util.data.window import window_of


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
        global_pool=args.global_pool,
    )
    if args.eval:
        evaluate_only(args, model)
        return

    # Images
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    suffixes = pictures.suffixes(args.in_chans)
    images, held_out = folder.find_both(args.data_path, suffixes, args.nb_classes, args.index_dir)
    log.info(summary.line('training', images))
    log.info(summary.line('validation', held_out))
    val = validation(args, held_out, plain)

    # A head on the frozen encoder; without --finetune it stays as the model drew it, as upstream
    if args.finetune:
        log.info(models_zoo.start_from(model, args.finetune, use_ema=args.use_ema))
        model.reset_head(std=0.01)
    model.probe()

    # Batches
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
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = optim.Lars(trained, args.weight_decay)
    trained_on = classes.kept(images, args.data_path, args.classes_renamed)
    run = Run(model, optimizer, data, args, kept={**trained_on, 'best': {}})
    targets = Mixup(mixup=0, cutmix=0, smoothing=0, classes=args.nb_classes)

    for epoch in run.epochs():
        stats = train_one_epoch(run, targets)
        with run.saver.evaluating(run.progress):
            result = evaluate(model, val, run.step.autocast, shared=args.dist_eval)
        finish_epoch(run, epoch, stats, result)


def evaluate_only(args, model):
    """Evaluate the weights of --resume and print the figures, for --eval."""
    model.probe()
    state = models_zoo.assign_from(model, args.resume, args.use_ema)
    trained = state.get('args', {})
    mean, std = crop.trained_statistics(trained, args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    val = validation(args, evaluation_images(args, state), plain)
    result = evaluate(model, val, amp.caster(args.amp), shared=args.dist_eval)
    report_evaluation(args.resume, result)


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
    """The transform of the training images: crop and flip only."""
    cropping = crop.CropAndFlip(
        args.input_size,
        scale=args.scale,
        hflip=args.hflip,
        box=crop.single_draw_box,
        fast=args.fast_resize,
    )
    return transform.Train(cropping, mean, std)


FLAGS = (
    flags.training,
    flags.rate,
    flags.crop,
    flags.classification,
    flags.data,
    archive_flags.shuffle,
    flags.runtime,
    parallel_flags.sharding,
)
PARSER = cli.parser(__doc__, *FLAGS)
PARSER.add_argument(
    '--knn', action=cli.Renamed, const='main_frozen.py', help='now in main_frozen.py'
)
PARSER.set_defaults(
    model='vit_large_patch16',
    batch_size=512,
    epochs=90,
    weight_decay=0.0,
    blr=0.1,
    warmup_epochs=10,
    global_pool=False,
    save_every=1,
)

if __name__ == '__main__':
    program.run(main, PARSER)
