"""Models with one batch, an optimizer and an engine: what is compared between devices.

Weights and batches are made on the CPU and do not depend on the device. Nothing is random in a step
but what NumPy draws: drop path and dropout are off.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import dataclasses
from collections.abc import Callable

import numpy as np
import paddle

import engine_finetune
import engine_pretrain
import models_zoo
from util import masking, optim
from util.augment.mixup import Mixup

CLASSES = 10
RATIO = 0.75


@dataclasses.dataclass
class Workload:
    """What is trained. epoch(run) -> means. output() -> the tensor that is compared."""

    model: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer
    batch: tuple | dict
    epoch: Callable
    output: Callable
    clip_grad: float | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """A model and the engine that trains it. side: of its images, in pixels."""

    make: Callable
    model: str
    side: int
    images: int = 2


def images_of(kind: Kind) -> paddle.Tensor:
    """Random images [N, 3, side, side]."""
    shape = [kind.images, 3, kind.side, kind.side]
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype='float32'))


def labels_of(kind: Kind) -> paddle.Tensor:
    """Labels [N]."""
    return paddle.to_tensor(np.random.default_rng(1).integers(0, CLASSES, kind.images))


def pretrain(kind: Kind) -> Workload:
    """Masked pre-training by engine_pretrain."""
    model = models_zoo.autoencoder(kind.model, img_size=kind.side, norm_pix_loss=True)
    uniform = kind.model.startswith(('mae_swin', 'mae_pvt'))
    draw = masking.sampler(model.grid, RATIO, 'uniform' if uniform else 'random')
    noise = np.stack([draw(np.random.default_rng(number)) for number in range(kind.images)])
    batch = images_of(kind), paddle.to_tensor(noise)
    return Workload(
        model,
        optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95),
        batch,
        epoch=lambda run: engine_pretrain.train_one_epoch(run, RATIO),
        output=lambda: model(batch[0], RATIO, batch[1])[1],
    )


def classifier(kind: Kind) -> paddle.nn.Layer:
    """A classifier without drop path."""
    return models_zoo.classifier(
        kind.model, img_size=kind.side, num_classes=CLASSES, drop_path_rate=0.0, global_pool=True
    )


def finetune(kind: Kind) -> Workload:
    """Fine-tuning by engine_finetune, with mixup and cutmix."""
    model = classifier(kind)
    batch = images_of(kind), labels_of(kind)
    mix = Mixup(mixup=0.8, cutmix=1.0, classes=CLASSES)
    return Workload(
        model,
        optim.adamw(optim.layer_decay_groups(model, 0.05, 0.65), beta2=0.999),
        batch,
        epoch=lambda run: engine_finetune.train_one_epoch(run, mix),
        output=lambda: model(batch[0]),
    )


def probe(kind: Kind) -> Workload:
    """A linear probe with LARS."""
    model = classifier(kind)
    model.probe()
    batch = images_of(kind), labels_of(kind)
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    targets = Mixup(mixup=0, cutmix=0, smoothing=0, classes=CLASSES)
    return Workload(
        model,
        optim.Lars(trained, 0.0),
        batch,
        epoch=lambda run: engine_finetune.train_one_epoch(run, targets),
        output=lambda: model(batch[0]),
    )


def segment(kind: Kind) -> Workload:
    """UPerNet; kind.model is the name of a config."""
    import seg  # noqa: F401  which makes our segmentor known to PaddleSeg

    # isort: split
    from paddleseg.cvlibs import SegBuilder

    from gpu.programs import ROOT
    from seg import flags
    from seg.train import Objective

    config = flags.configuration(str(ROOT / f'seg/configs/upernet_mae/{kind.model}.yml'), [])
    builder = SegBuilder(config)
    model = builder.model
    losses_of = Objective(model, builder.loss)
    shape = [kind.images, kind.side, kind.side]
    labels = paddle.to_tensor(np.random.default_rng(1).integers(0, 10, shape))
    batch = {'img': images_of(kind), 'label': labels}

    def epoch(run):
        def loss_of(batch):
            with run.step.autocast():
                return sum(losses_of(run.network, batch))

        return run.train(loss_of)

    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    return Workload(model, optimizer, batch, epoch, output=lambda: model(batch['img'])[0])


def detect(kind: Kind) -> Workload:
    """GFL; kind.model is the name of a config. Needs requirements/det.txt."""
    import det  # noqa: F401  first of all: it prepares the machine

    # isort: split
    from det import config, train
    from gpu.programs import ROOT

    path = str(ROOT / f'det/configs/gfl_um_mae/{kind.model}.yml')
    values = config.load(path, [])
    model = config.build(values, path)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, kind.side / 2, [kind.images, 5, 2])
    high = low + rng.uniform(kind.side / 8, kind.side / 2, [kind.images, 5, 2])
    boxes = np.concatenate([low, high], axis=2).astype('float32')
    classes = rng.integers(0, values['num_classes'], [kind.images, 5])
    batch = {'image': images_of(kind), 'gt_bbox': list(boxes), 'gt_class': list(classes)}
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
    return Workload(
        model,
        optimizer,
        batch,
        epoch=train.train_one_epoch,
        output=lambda: next(level for level in model.backbone(batch) if level is not None),
        clip_grad=1.0,
    )


FULL = {
    'pre-training, ViT-B': Kind(pretrain, 'mae_vit_base_patch16', 224),
    'pre-training, ViT-L': Kind(pretrain, 'mae_vit_large_patch16', 224, 1),
    'pre-training, UM-MAE Swin-T': Kind(pretrain, 'mae_swin_tiny_256', 256),
    'pre-training, UM-MAE PVT-S': Kind(pretrain, 'mae_pvt_small_256', 256),
    'pre-training, SimMIM Swin-T': Kind(pretrain, 'simmim_swin_tiny_256', 256),
    'fine-tuning, ViT-B': Kind(finetune, 'vit_base_patch16', 224),
    'fine-tuning, Swin-T': Kind(finetune, 'swin_tiny_256', 256),
    'fine-tuning, PVT-S': Kind(finetune, 'pvt_small_256', 256),
    'linear probe, ViT-B': Kind(probe, 'vit_base_patch16', 224, 8),
    'segmentation, UPerNet, ViT-B': Kind(segment, 'upernet_mae_base_ade20k_512x512_160k', 512),
    'detection, GFL, Swin-T': Kind(detect, 'gfl_um_mae_swin_tiny_25e_coco', 512),
}
TINY = {
    'pre-training, ViT': Kind(pretrain, 'mae_vit_nano_patch4', 32),
    'pre-training, UM-MAE Swin': Kind(pretrain, 'mae_swin_nano_32', 32),
    'pre-training, UM-MAE PVT': Kind(pretrain, 'mae_pvt_nano_32', 32),
    'pre-training, SimMIM Swin': Kind(pretrain, 'simmim_swin_nano_32', 32),
    'fine-tuning, ViT': Kind(finetune, 'vit_nano_patch4', 32),
    'fine-tuning, Swin': Kind(finetune, 'swin_nano_32', 32),
    'fine-tuning, PVT': Kind(finetune, 'pvt_nano_32', 32),
    'linear probe, ViT': Kind(probe, 'vit_nano_patch4', 32, 8),
    'segmentation, UPerNet, ViT': Kind(segment, 'upernet_mae_tiny', 32),
    'detection, GFL, Swin': Kind(detect, 'gfl_um_mae_swin_nano_digits', 128),
}
