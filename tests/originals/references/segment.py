"""UPerNet over a masked autoencoder's ViT by mmsegmentation's own classes, at any size.

Every tensor is perturbed.

    python segment.py GIVEN.npz COMPUTED.npz

Shapes: K classes, N images, S image size, L blocks, R ratios. GIVEN always holds
    parts       list of the names below; order does not matter, all start from the same weights
    size        JSON: image (S), patch, width, depth (L), heads, out_indices (four), channels
                (UPerHead), auxiliary (channels of FCNHead), classes (K), window, stride, and seed
                (0) for another model of that size. The window must be S, as the position embedding
                has one size; S / patch must be even for the last of the neck's maps

and for each part the arrays named below. After → stands what COMPUTED holds (float32 unless another
type is named):
    file        → files upernet.pth {'meta', 'state_dict'} in the working folder
    model       images float32 [N,3,S,S], normalised, RGB
                → in eval mode: map0..3 [N,width,S/patch,S/patch], neck0..3 [N,width,·,·] at 4, 2,
                1, 1/2 of that, decode and auxiliary [N,K,·,·] at the heads' resolution (neck0,
                neck2), decode_resized and auxiliary_resized [N,K,S,S]
    gradients   images, and labels integer [N,S,S], 255 ignored
                → in training mode, without dropout and drop path: loss, loss_decode, loss_auxiliary
                (weights 1 and .4 applied; loss is their sum) [], grad:NAME for every parameter,
                stat:NAME for every running mean and variance after that step (momentum .1, unbiased
                variance).
                N of 1 fails: the coarsest pooled map has one value a channel for batch norm. With N
                of 2 the two values are ±1 for any weights, and the gradient of psp_modules.0.1.conv
                is mostly rounding. The three biases of the neck's transposed convolutions have
                gradient 0 in theory, as batch norm follows: compare them relative to the weight's
                gradient, not their own
    steps       images, labels as above, count int
                → losses float32 [count] of so many steps of the recipe's AdamW at the rate 1e-4,
                all over these images, and after:NAME, every parameter after the last step
    slide       scene float32 [3,H,W], normalised, RGB, no side shorter than the window
                → slide [K,H,W], logits
    multiscale  picture uint8 [H,W,3], BGR; scale int [2], such as the recipe's (2048, 512);
                ratios float [R]
                → single_view uint8 [3,h,w] BGR, the picture resized to scale, single [K,H,W], its
                logits (normalised, slid, resized to the picture's size); for ratio i: view{i} uint8
                [3,h,w] BGR; probabilities [K,H,W], the mean of the softmax over 2R views, and
                answer int64 [H,W] by SegTTAModel, their argmax
    metrics     predictions, targets integer [M,H,W], 255 ignored in targets; K is size's
                → area_intersect, area_union, area_prediction, area_target [K]; IoU and Acc [K], nan
                where the divisor is 0; aAcc, mIoU, mAcc [] in 0..1; summary float64 [3], the same
                as mmseg prints them: percent, rounded to two places
    optimizer   → optimizer_names str [P], lr_scale and weight_decay float64 [P]
    init        → init_names str [T], init_stats float64 [T,4] of tensors as mmseg initialises them
                without a pre-trained file, before they are perturbed: mean, standard deviation,
                minimum, maximum
    training    → file upernet_training.pth that mmengine writes after two steps on random images:
                meta, state_dict, message_hub, optimizer, param_schedulers
"""

import contextlib
import copy
import io
import json
import os
import sys

import mmseg_ready  # noqa: F401  before mmseg
import numpy as np
import torch
from mmengine import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
ADAMW = dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)


def recipe(size):
    """The published configuration at another size, on a CPU.

    SyncBN needs GPUs, so BN takes its place. Nothing is dropped, so that results repeat.
    """
    side = (size['image'], size['image'])
    width = size['width']
    norm = dict(type='BN', requires_grad=True)
    head = dict(num_classes=size['classes'], dropout_ratio=0, norm_cfg=norm, align_corners=False)
    loss = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=MEAN,
            std=STD,
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=side,
        ),
        backbone=dict(
            type='MAE',
            img_size=side,
            patch_size=size['patch'],
            embed_dims=width,
            num_layers=size['depth'],
            num_heads=size['heads'],
            mlp_ratio=4,
            init_values=1.0,
            drop_path_rate=0,
            out_indices=size['out_indices'],
            norm_cfg=dict(type='LN', eps=1e-6),
            act_cfg=dict(type='GELU'),
        ),
        neck=dict(type='Feature2Pyramid', embed_dim=width, rescales=[4, 2, 1, 0.5], norm_cfg=norm),
        decode_head=dict(
            type='UPerHead',
            in_channels=[width] * 4,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2, 3, 6),
            channels=size['channels'],
            loss_decode=dict(loss_weight=1.0, **loss),
            **head,
        ),
        auxiliary_head=dict(
            type='FCNHead',
            in_channels=width,
            in_index=2,
            channels=size['auxiliary'],
            num_convs=1,
            concat_input=False,
            loss_decode=dict(loss_weight=0.4, **loss),
            **head,
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='slide', crop_size=(size['window'],) * 2, stride=(size['stride'],) * 2),
    )


def floating(model):
    """(name, tensor) of the model's parameters and running statistics."""
    return [
        (name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    ]


def fresh(size):
    torch.manual_seed(size.get('seed', 0))
    model = MODELS.build(ConfigDict(recipe(size)))
    model.init_weights()
    return model


@torch.no_grad()
def perturbed(model):
    """Add noise to every tensor, large enough that a tensor left out would show.

    Attention must be far from even: otherwise the gradients of queries and keys would be almost 0,
    and rounding would hide mistakes.
    """
    for name, tensor in floating(model):
        matrix = tensor.ndim > 1 and not name.endswith(('bias_table', 'pos_embed', 'cls_token'))
        noise = (tensor[0].numel() ** -0.5 if matrix else 0.3) * torch.randn_like(tensor)
        tensor += noise.abs() if name.endswith('running_var') else noise
    return model.eval()


class Scenes(list):
    """Random pictures and labels, as a data set of mmengine's."""

    def __init__(self, size):
        super().__init__()
        side, classes = size['image'], size['classes']
        self.metainfo = {
            'classes': tuple(f'class {i}' for i in range(classes)),
            'palette': [[128] * 3] * classes,
        }
        for _ in range(2):
            self.append(
                {
                    'inputs': torch.randint(256, (3, side, side), dtype=torch.uint8),
                    'data_samples': labelled(torch.randint(classes, (side, side))),
                }
            )


def labelled(label):
    return SegDataSample(gt_sem_seg=PixelData(data=label[None]))


def runner(model, size):
    """mmengine's, with the recipe's optimizer and schedule, in the folder `runner`."""
    cfg = Config(dict(model=recipe(size), default_scope='mmseg', work_dir='runner'))
    decay = dict(num_layers=size['depth'], layer_decay_rate=0.65)
    return Runner(
        model,
        'runner',
        cfg=cfg,
        experiment_name='upernet',
        randomness=dict(seed=0),
        default_scope='mmseg',
        train_dataloader=dict(
            batch_size=2, sampler=dict(type='InfiniteSampler'), dataset=Scenes(size)
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
        optim_wrapper=dict(
            optimizer=ADAMW, paramwise_cfg=decay, constructor='LayerDecayOptimizerConstructor'
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
            dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
        ),
    )


def file(model, size, given):
    """The checkpoint of a run, without the parts that only a resumed run needs."""
    runner(model, size).save_checkpoint(
        '.', 'whole.pth', save_optimizer=False, save_param_scheduler=False, by_epoch=False
    )
    whole = torch.load('whole.pth', weights_only=False)
    torch.save({'meta': whole['meta'], 'state_dict': whole['state_dict']}, 'upernet.pth')
    os.remove('whole.pth')
    return {}


def training(model, size, given):
    runner(model, size).train()
    os.replace('runner/iter_2.pth', 'upernet_training.pth')
    return {}


@torch.no_grad()
def model(model, size, given):
    images = torch.tensor(given['images'])
    maps = model.backbone(images)
    pyramid = model.neck(maps)
    out = {f'map{i}': tensor for i, tensor in enumerate(maps)} | {
        f'neck{i}': tensor for i, tensor in enumerate(pyramid)
    }
    for name, head in (('decode', model.decode_head), ('auxiliary', model.auxiliary_head)):
        out[name] = head(pyramid)
        out[f'{name}_resized'] = head.predict_by_feat(out[name], [{'img_shape': images.shape[2:]}])
    return out


def gradients(model, size, given):
    model = copy.deepcopy(model).train()  # its running statistics change
    labels = torch.tensor(given['labels'].astype(np.int64))
    losses = model(
        torch.tensor(given['images']), [labelled(label) for label in labels], mode='loss'
    )
    total, _ = model.parse_losses(losses)
    total.backward()
    out = {
        'loss': total,
        'loss_decode': losses['decode.loss_ce'],
        'loss_auxiliary': losses['aux.loss_ce'],
    }
    out |= {f'grad:{name}': parameter.grad for name, parameter in model.named_parameters()}
    return out | {f'stat:{name}': tensor for name, tensor in floating(model) if '.running_' in name}


def layer_decay_adamw(model, size):
    construct = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayOptimizerConstructor')(
        dict(type='OptimWrapper', optimizer=dict(ADAMW)),
        dict(num_layers=size['depth'], layer_decay_rate=0.65),
    )
    return construct(model).optimizer


def steps(model, size, given):
    model, losses = copy.deepcopy(model).train(), []
    stepping = layer_decay_adamw(model, size)
    images, labels = torch.tensor(given['images']), torch.tensor(given['labels'].astype(np.int64))
    for _ in range(int(given['count'])):
        total, _ = model.parse_losses(
            model(images, [labelled(label) for label in labels], mode='loss')
        )
        stepping.zero_grad()
        total.backward()
        stepping.step()
        losses.append(total.item())
    return {
        'losses': np.array(losses, 'float32'),
        **{f'after:{name}': p for name, p in model.named_parameters()},
    }


@torch.no_grad()
def slide(model, size, given):
    scene = torch.tensor(given['scene'])
    return {'slide': model.inference(scene[None], [{'ori_shape': scene.shape[1:]}])[0]}


def resize(shape, scale, ratio, least):
    """The Resize of mmsegmentation 1.x that equals 0.x's with `min_size`.

    The published multi-scale configuration is for 0.x: the short edge becomes the scale's short
    edge, at least `least`, and the long edge keeps the aspect ratio.
    """
    short = max(min(int(edge * ratio) for edge in scale), least)
    return dict(type='Resize', scale=(short * max(shape) / min(shape), short), keep_ratio=True)


@torch.no_grad()
def predict(model, picture, *transforms):
    """Inputs [(3,h,w) uint8] and predictions [SegDataSample], of all combinations of transforms.

    `transforms` are lists of alternatives.
    """
    views = Compose(
        [
            dict(type='LoadImageFromNDArray'),
            dict(type='TestTimeAug', transforms=[*transforms, [dict(type='PackSegInputs')]]),
        ]
    )({'img': picture})
    return views['inputs'], [
        model.test_step({'inputs': [image], 'data_samples': [sample]})[0]
        for image, sample in zip(views['inputs'], views['data_samples'])
    ]


def multiscale(model, size, given):
    picture = given['picture']
    scale = tuple(given['scale'].tolist())
    ratios = given['ratios'].tolist()
    (view,), (single,) = predict(
        model, picture, [dict(type='Resize', scale=scale, keep_ratio=True)]
    )
    out = {'single_view': view, 'single': single.seg_logits.data}
    views, samples = predict(
        model,
        picture,
        [resize(picture.shape[:2], scale, ratio, size['window']) for ratio in ratios],
        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
    )
    out |= {f'view{i}': image for i, image in enumerate(views[::2])}
    out['probabilities'] = torch.stack(
        [sample.seg_logits.data.softmax(0) for sample in samples]
    ).mean(0)
    # SegTTAModel keeps only the argmax; its mean may round differently, which matters only where
    # two classes tie
    out['answer'] = SegTTAModel(module=model).merge_preds([samples])[0].pred_sem_seg.data[0]
    assert (out['answer'] == out['probabilities'].argmax(0)).float().mean() > 0.999
    return out


def metrics(model, size, given):
    metric = IoUMetric()
    metric.dataset_meta = {'classes': [str(i) for i in range(size['classes'])]}
    for prediction, target in zip(given['predictions'], given['targets']):
        metric.process(
            {},
            [
                {
                    'pred_sem_seg': {'data': torch.tensor(prediction.astype(np.int64))},
                    'gt_sem_seg': {'data': torch.tensor(target.astype(np.int64))},
                }
            ],
        )
    areas = [sum(area) for area in zip(*metric.results)]
    out = dict(zip(('area_intersect', 'area_union', 'area_prediction', 'area_target'), areas))
    out |= metric.total_area_to_metrics(*areas)
    summary = metric.compute_metrics(metric.results)
    return out | {
        'mIoU': np.nanmean(out['IoU']),
        'mAcc': np.nanmean(out['Acc']),
        'summary': np.array([summary[key] for key in ('aAcc', 'mIoU', 'mAcc')], np.float64),
    }


def optimizer(model, size, given):
    groups = layer_decay_adamw(model, size).param_groups
    rows = {
        name: (group['lr_scale'], group['weight_decay'])
        for group in groups
        for name in group['param_names']
    }
    scales, decays = zip(*rows.values())
    return {'optimizer_names': list(rows), 'lr_scale': scales, 'weight_decay': decays}


def init(model, size, given):
    names, tensors = zip(*floating(fresh(size)))
    stats = [
        [tensor.mean(), tensor.std(correction=0), tensor.min(), tensor.max()] for tensor in tensors
    ]
    return {'init_names': names, 'init_stats': np.array(stats, np.float64)}


# `training`, which changes the model, is the last
PARTS = (file, model, slide, multiscale, metrics, optimizer, init, gradients, steps, training)


def main(given, computed):
    given, out = dict(np.load(given)), {}
    parts, size = given['parts'].tolist(), json.loads(str(given['size']))
    unknown = set(parts) - {part.__name__ for part in PARTS}
    assert not unknown, unknown
    register_all_modules()
    if size['image'] < 256:
        torch.set_num_threads(1)  # threads wait for each other longer than a tiny model takes
    with contextlib.redirect_stdout(io.StringIO()):
        # mmengine and mmseg print the name of every parameter several times
        segmentor = perturbed(fresh(size)) if set(parts) - {'metrics', 'init'} else None
        for part in PARTS:
            if part.__name__ in parts:
                out |= part(segmentor, size, given)
    np.savez(
        computed,
        **{
            name: value.detach().numpy() if torch.is_tensor(value) else value
            for name, value in out.items()
        },
    )


if __name__ == '__main__':
    main(*sys.argv[1:])
