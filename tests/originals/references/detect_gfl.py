"""FPN and GFL's head by mmdetection's own classes (3.3.0), at any size, in training and inference.

    python detect_gfl.py GIVEN.npz COMPUTED.npz

GIVEN holds `settings`, JSON: width (of the backbone's maps), channels, convs, classes, norm (BN or
GN), kept (objects of an image), and rate (of AdamW), decay, steps; map0..3, float32 [N,width,.,.],
strides 4 to 32; for each image i box{i} [n,4] and label{i} [n]; and, [N,2] each, pad_shape (height,
width), im_shape, scale_factor (down, across).

COMPUTED holds the perturbed weights as weight:NAME (neck.* and bbox_head.*); in evaluation mode
neck0..4, score0..4, bins0..4, and for image i found{i} [n,6] (x1 y1 x2 y2 score class); in training
mode label [N,A] (classes for the background), target [N,A,4], valid [N,A], loss_cls, loss_bbox and
loss_dfl, gradient:NAME of every parameter, gradient:map1..3; and after the steps losses [steps, 3],
after:NAME, decayed, the names of the parameters with weight decay.
"""

import json
import sys

import mmdet_ready  # noqa: F401  before mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from torch import nn


def recipe(settings):
    """The neck and the head of UM-MAE's config.

    first: number of the first map that is used, by default 1; maps: how many result, by default 5.
    """
    first, maps = settings.get('first', 1), settings.get('maps', 5)
    norm = {'BN': dict(type='BN'), 'GN': dict(type='GN', num_groups=32)}[settings['norm']]
    neck = dict(
        type='FPN',
        in_channels=[settings['width']] * 4,
        out_channels=settings['channels'],
        start_level=first,
        add_extra_convs='on_output',
        num_outs=maps,
        norm_cfg=norm,
    )
    head = dict(
        type='GFLHead',
        num_classes=settings['classes'],
        in_channels=settings['channels'],
        stacked_convs=settings['convs'],
        feat_channels=settings['channels'],
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8 * 2**level for level in range(maps)],
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        reg_max=16,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=settings['kept'],
        ),
    )
    return neck, head


def build(settings):
    """The neck and the head, with every tensor perturbed."""
    neck, head = recipe(settings)
    model = nn.Module()
    model.neck = MODELS.build(ConfigDict(neck))
    model.bbox_head = MODELS.build(ConfigDict(head))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or 'integral' in name:
                continue
            noise = torch.randn_like(tensor)
            if tensor.ndim > 1:
                noise *= tensor[0].numel() ** -0.5
            else:
                noise *= 0.2
            tensor += noise.abs() if name.endswith('running_var') else noise
    return model


def metas(given):
    """What mmdetection knows of each image."""
    factors = given['scale_factor'][:, ::-1].tolist()  # across, down
    shapes = zip(given['im_shape'].tolist(), given['pad_shape'].tolist(), factors)
    return [
        dict(img_shape=im, pad_shape=pad, scale_factor=factor, ori_shape=im)
        for im, pad, factor in shapes
    ]


def objects(given):
    count = len(given['im_shape'])
    return [
        InstanceData(bboxes=torch.tensor(given[f'box{i}']), labels=torch.tensor(given[f'label{i}']))
        for i in range(count)
    ]


def inference(model, maps, given):
    model.eval()
    with torch.no_grad():
        necks = model.neck(maps)
        scores, bins = model.bbox_head(necks)
        results = model.bbox_head.predict_by_feat(
            scores, bins, batch_img_metas=metas(given), rescale=True
        )
    out = {f'neck{i}': x for i, x in enumerate(necks)}
    out |= {f'score{i}': x for i, x in enumerate(scores)}
    out |= {f'bins{i}': x for i, x in enumerate(bins)}
    for i, found in enumerate(results):
        columns = [found.bboxes, found.scores[:, None], found.labels[:, None].float()]
        out[f'found{i}'] = torch.cat(columns, 1)
    return out


def losses(model, maps, given):
    scores, bins = model.bbox_head(model.neck(maps))
    found = model.bbox_head.loss_by_feat(scores, bins, objects(given), metas(given))
    return scores, {name: sum(values) for name, values in found.items()}


def training(model, maps, given):
    model.train()
    for x in maps[1:]:
        x.requires_grad_()
    scores, found = losses(model, maps, given)
    sum(found.values()).backward()

    sizes = [x.shape[2:] for x in scores]
    head = model.bbox_head
    anchors, valid = head.get_anchors(sizes, metas(given), device='cpu')
    targets = head.get_targets(anchors, valid, objects(given), metas(given))
    _, labels, weights, boxes, _, total = targets
    return {
        **found,
        'label': torch.cat(labels, 1),
        'valid': torch.cat(weights, 1),
        'target': torch.cat(boxes, 1),
        'total': torch.tensor(total),
        **{f'gradient:{name}': p.grad for name, p in model.named_parameters()},
        **{f'gradient:map{i}': maps[i].grad for i in (1, 2, 3)},
    }


def wrapper(model, settings):
    """The recipe's AdamW, as mmengine wraps it."""
    free = ('pos_embed', 'norm', 'bias')
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=settings['rate'], weight_decay=settings['decay']),
            paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in free}),
        ),
    )


def steps(model, maps, given, settings):
    """Steps of the recipe's AdamW, all on the same images."""
    optimizer = wrapper(model, settings).optimizer
    names = {p: name for name, p in model.named_parameters()}
    decayed = [
        names[p]
        for group in optimizer.param_groups
        for p in group['params']
        if group['weight_decay'] > 0
    ]
    maps = [x.detach() for x in maps]
    rows = []
    for _ in range(settings['steps']):
        _, found = losses(model, maps, given)
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        rows.append([found[name].item() for name in ('loss_cls', 'loss_bbox', 'loss_dfl')])
    after = {f'after:{name}': p for name, p in model.named_parameters()}
    return {'losses': torch.tensor(rows), 'decayed': np.array(decayed), **after}


def main(given, computed):
    given = dict(np.load(given))
    settings = json.loads(str(given['settings']))
    torch.manual_seed(0)
    model = build(settings)
    maps = [torch.tensor(given[f'map{i}']) for i in range(4)]
    weights = {f'weight:{name}': x.clone() for name, x in model.state_dict().items()}
    out = weights | inference(model, maps, given) | training(model, maps, given)
    out |= steps(model, maps, given, settings)
    arrays = {}
    for name, x in out.items():
        arrays[name] = x.detach().numpy() if isinstance(x, torch.Tensor) else x
    np.savez(computed, **arrays)


if __name__ == '__main__':
    main(*sys.argv[1:])
