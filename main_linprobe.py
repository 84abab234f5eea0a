"""Train a linear classifier on the frozen features of a pre-trained encoder.

    python -m paddle.distributed.launch main_linprobe.py --data_path DATA --finetune mae_pretrain_vit_base.pd \\
        --model vit_base_patch16 --cls_token --batch_size 1024 --accum_iter 2 --epochs 90 --blr 0.1 --weight_decay 0 \\
        --dist_eval
"""
import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import models_zoo
from engine_finetune import after_epoch, evaluate, nearest_neighbours, train_one_epoch
from util import amp, checkpoint, cli, dist, flags, loop, metrics, optim, run
from util.augment import crop, transform
from util.augment.mixup import Mixup
from util.data import folder, loader, pictures
from util.errors import InputError


def main(args):
    run.begin(args.device, args.seed, args.output_dir, args.log_dir)
    mean, std = crop.statistics(args.in_chans, args.mean, args.std)
    plain = transform.Evaluate(args.input_size, mean, std)
    model = models_zoo.classifier(args.model, img_size=args.input_size, in_chans=args.in_chans, num_classes=args.nb_classes,
                              global_pool=args.global_pool)
    if args.eval:
        model.probe()
        classes = models_zoo.load_classifier(model, args.resume).get('classes')
        result = evaluate(model, evaluation(args, 'val', classes, plain), shared=args.dist_eval)
        run.say(f'Resume checkpoint {args.resume}')
        run.say('  '.join(f'{name} {value:.4f}' for name, value in result.items()))
        return

    images = folder.find_labelled(args.data_path, 'train', pictures.suffixes(args.in_chans), args.nb_classes)
    val = evaluation(args, 'val', images.classes, plain)
    if args.finetune:
        models_zoo.load_pretrained(model, args.finetune)
    if args.knn > len(images):
        raise InputError(f'--knn {args.knn} is more than the {len(images)} training images')
    if args.knn:
        share = nearest_neighbours(model, evaluation(args, 'train', None, plain), val, args.knn)
        run.say(f'{args.knn} nearest neighbours of the frozen features: acc1 {share:.2f}')
    model.reset_head(std=0.01)
    model.probe()

    state = checkpoint.load(args.resume, args.output_dir, vars(args))
    accum_iter = checkpoint.accum_iter(state, args.batch_size * dist.world_size(), args.accum_iter)
    cropping = crop.CropAndFlip(args.input_size, args.scale, args.hflip, crop.single_draw_box, args.fast_resize)
    augment = transform.Train(cropping, mean, std)
    data = loader.TrainLoader(loader.TrainSet(images, args.in_chans, augment, images.label, args.seed), args.batch_size,
                              accum_iter, args.num_workers, args.pin_mem, args.data_timeout)
    lr = optim.absolute_lr(args.lr, args.blr, data.effective_batch)
    schedule = optim.Cosine(lr, args.min_lr, args.warmup_epochs, args.epochs)
    optimizer = optim.Lars([p for p in model.parameters() if not p.stop_gradient], args.weight_decay)
    step = amp.Step(optimizer, accum_iter, args.amp)
    saver = checkpoint.Saver(args.output_dir, model, step, vars(args), data.effective_batch, args.epochs,
                             args.save_every, args.save_every_iters, args.keep, classes=images.classes, best={})
    start = checkpoint.restore(state, model, step, saver.extra) if state else checkpoint.Position(args.start_epoch)
    network = dist.wrap(model)
    saver.set_aside_later_than(start)
    recorder = run.Recorder(args.output_dir, args.log_dir, start.epoch)
    progress = metrics.Progress(args.epochs, len(data), args.print_freq)
    run.announce(args.model, model, data, lr, args.epochs, state.get('path'), start)

    targets = Mixup(mixup=0, cutmix=0, smoothing=0, classes=args.nb_classes)
    for epoch, batches in loop.epochs(start, args.epochs, data, progress):
        stats = train_one_epoch(network, batches, schedule, step, progress, recorder, saver, targets, args.seed)
        with saver.evaluating(progress):
            result = evaluate(model, val, step.autocast, shared=args.dist_eval)
        after_epoch(epoch, stats, result, model, saver, recorder)


def evaluation(args, split, classes, plain):
    """The images of a split without augmentation; with --dist_eval this rank's part of the validation images."""
    images = folder.find_labelled(args.data_path, split, pictures.suffixes(args.in_chans), args.nb_classes, classes)
    return loader.EvalLoader(loader.EvalSet(images, args.in_chans, plain), args.batch_size, args.num_workers,
                             shared=args.dist_eval and split == 'val', timeout=args.data_timeout)


PARSER = cli.parser(__doc__, flags.training, flags.rate, flags.crop, flags.classification, flags.data, flags.runtime)
PARSER.add_argument('--knn', type=cli.number(int, 0), default=0, help='also classify by so many nearest neighbours among '
                    'the features of the training images; 0: not')
PARSER.set_defaults(model='vit_large_patch16', batch_size=512, epochs=90, weight_decay=0.0, blr=0.1, warmup_epochs=10,
                    global_pool=False, save_every=1)

if __name__ == '__main__':
    run.program(main, PARSER)
