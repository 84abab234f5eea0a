"""Training steps of a detector as det/train.py does them."""

import det  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import paddle
import scenes
from paddle_steps import ROOT, Repeated, parameters, pictures_like

from det import config, optimizer, schedule, train
from engine_loop import Run
from util import program, progress

CONFIGS = {
    'swin_nano_64': 'gfl_um_mae_swin_nano_digits',
    'swin_tiny_256': 'gfl_um_mae_swin_tiny_25e_coco',
}


class Scenes(Repeated):
    """One batch of images with objects, again and again."""

    def __init__(self, batch, count):
        super().__init__([batch['image']], count)
        self.batch = batch


def detect(case):
    program.start(None, seed=0)
    path = ROOT / f'det/configs/gfl_um_mae/{CONFIGS[case["model"]]}.yml'
    values = config.load(str(path), [])
    model = config.build(values, str(path))
    boxes, labels = scenes.objects(case, values['num_classes'])
    images = paddle.to_tensor(pictures_like(case))
    batch = {'image': images, 'gt_bbox': boxes, 'gt_class': labels}
    made, clip_grad = optimizer.build(config.section(values, 'OptimizerBuilder'), model)
    rates = schedule.build(config.section(values, 'LearningRate'), 1, values['epoch'])
    args = train.settings(train.PARSER.parse_args(['-c', str(path)]), values, '', '')

    def turn(count):
        data = Scenes(batch, count)
        run = Run(model, made, data, args, schedule=rates, clip_grad=clip_grad)
        next(run.epochs())
        train.train_one_epoch(run)
        return {'seconds': data.seconds, 'memory': progress.peak_memory()}

    return turn, parameters(model)
