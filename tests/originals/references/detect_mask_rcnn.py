"""Mask R-CNN's heads by mmdetection's own classes (3.3.0), at any size, over given maps.

    python detect_mask_rcnn.py GIVEN.npz COMPUTED.npz

RoIAlign is written out (roi_align.py). Samples are drawn as ours, from NumPy generators, which is
all that is replaced in mmdetection's samplers.

GIVEN holds `settings`, JSON: channels, width (of the box head), classes, norm (LN or BN), strides,
anchor_scale, rpn_samples, roi_samples, before_nms, after_nms, size (height, width of the images),
score (threshold), kept, noise (added to every tensor), and rate (of AdamW), decay, steps; map0..4
float32 [N,channels,.,.]; draws int [N]; for image i box{i} [n,4], label{i} [n] and mask{i} uint8
[n,height,width]; and, [N,2] each, scale_factor and origin_shape (height, width).

COMPUTED holds the perturbed weights as weight:NAME; in training mode proposal{i} [n,4], the losses
under our names, gradient:NAME of every parameter and gradient:map0..4; in evaluation mode, for
image i, found{i} [n,6] (x1 y1 x2 y2 score class) and pasted{i} bool [n,.,.]; and after the steps
losses [steps] (sums) and after:NAME. Step k takes the seeds draws + k.
"""

import json
import sys

import mmdet_ready  # noqa: F401  before mmdet
import numpy as np
import roi_align  # noqa: F401  before mmdet
import torch
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import registry as mmengine
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F


@mmengine.MODELS.register_module()
class LN2d(nn.Module):
    """Layer normalisation over the channels of a map."""

    _abbr_ = 'ln'

    def __init__(self, channels, **_):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        last = x.permute(0, 2, 3, 1)
        last = F.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6)
        return last.permute(0, 3, 1, 2)


SEEDS = [[], []]  # for anchors and for proposals


@TASK_UTILS.register_module()
class GivenSampler(RandomSampler):
    """RandomSampler whose permutations are ours; SEEDS has those of the images to come."""

    def __init__(self, purpose, **kwargs):
        super().__init__(**kwargs)
        self.purpose = purpose

    def sample(self, assign_result, pred_instances, gt_instances, **kwargs):
        seed = SEEDS[self.purpose].pop(0)
        self.generator = np.random.default_rng([seed, self.purpose])
        self.added = len(gt_instances) if self.add_gt_as_proposals else 0
        result = super().sample(assign_result, pred_instances, gt_instances, **kwargs)

        # Without a positive anchor mmdetection divides by one more than it samples; detectron2 not
        result.avg_factor = len(result.pos_inds) + len(result.neg_inds)
        return result

    def _sample_pos(self, assign_result, num_expected, **_):
        return self.shuffled(assign_result.gt_inds > 0)[:num_expected]

    def _sample_neg(self, assign_result, num_expected, **_):
        return self.shuffled(assign_result.gt_inds == 0)[:num_expected]

    def shuffled(self, chosen):
        """Indices of what is chosen: mmdetection has the added boxes first, we have them last."""
        order = np.roll(np.arange(len(chosen)), -self.added)
        indices = np.flatnonzero(chosen.numpy()[order])
        return torch.from_numpy(order[self.generator.permutation(indices)])


def assigner(positive, negative, low_quality):
    return dict(
        type='MaxIoUAssigner',
        pos_iou_thr=positive,
        neg_iou_thr=negative,
        min_pos_iou=0.0 if low_quality else positive,
        match_low_quality=low_quality,
    )


def sampler(purpose, total, share, added):
    return dict(
        type='GivenSampler',
        purpose=purpose,
        num=total,
        pos_fraction=share,
        add_gt_as_proposals=added,
    )


def coder(deviations):
    return dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=deviations)


def proposal(settings):
    return ConfigDict(
        nms_pre=settings['before_nms'],
        max_per_img=settings['after_nms'],
        nms=dict(type='nms', iou_threshold=0.7),
        min_bbox_size=0,
    )


def rpn(settings):
    """The region proposal network of mmdetection's ViTDet config."""
    head = dict(
        type='RPNHead',
        in_channels=settings['channels'],
        feat_channels=settings['channels'],
        num_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[settings['anchor_scale']],
            ratios=[0.5, 1.0, 2.0],
            strides=settings['strides'],
        ),
        bbox_coder=coder([1.0] * 4),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        train_cfg=ConfigDict(
            assigner=assigner(0.7, 0.3, True),
            sampler=sampler(0, settings['rpn_samples'], 0.5, False),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=proposal(settings),
    )
    return MODELS.build(head)


def roi(settings):
    """The heads of boxes of mmdetection's ViTDet config."""
    channels = settings['channels']
    norm = dict(type='LN2d' if settings['norm'] == 'LN' else 'BN', requires_grad=True)

    def extractor(side):
        return dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=side, sampling_ratio=0),
            out_channels=channels,
            featmap_strides=settings['strides'][:4],
        )

    head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=extractor(7),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=settings['width'],
            roi_feat_size=7,
            num_classes=settings['classes'],
            norm_cfg=norm,
            bbox_coder=coder([0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        mask_roi_extractor=extractor(14),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=4,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=settings['classes'],
            norm_cfg=norm,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
        train_cfg=ConfigDict(
            assigner=assigner(0.5, 0.5, False),
            sampler=sampler(1, settings['roi_samples'], 0.25, True),
            mask_size=28,
            pos_weight=-1,
        ),
        test_cfg=ConfigDict(
            score_thr=settings['score'],
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=settings['kept'],
            mask_thr_binary=0.5,
        ),
    )
    return MODELS.build(head)


def samples_of(given, settings, images):
    """mmdetection's form of the images and their objects."""
    size = tuple(settings['size'])
    samples = []
    for i in range(images):
        down, across = given['scale_factor'][i].tolist()
        meta = dict(
            img_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            ori_shape=tuple(given['origin_shape'][i].tolist()),
            scale_factor=(across, down),
        )
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(given[f'box{i}']),
            labels=torch.from_numpy(given[f'label{i}']),
            masks=BitmapMasks(given[f'mask{i}'], *size),
        )
        samples.append(sample)
    return samples


class Model(nn.Module):
    """Both heads, as mmdetection's two-stage detectors run them."""

    def __init__(self, settings):
        super().__init__()
        self.rpn_head = rpn(settings)
        self.roi_head = roi(settings)
        self.proposal = proposal(settings)

    def losses(self, maps, samples, seeds):
        """The losses under our names, and the proposals."""
        SEEDS[:] = [list(seeds), list(seeds)]
        objects = []
        for sample in samples:
            blind = DetDataSample(metainfo=sample.metainfo)
            boxes = sample.gt_instances.bboxes
            labels = torch.zeros_like(sample.gt_instances.labels)
            blind.gt_instances = InstanceData(bboxes=boxes, labels=labels)
            objects.append(blind)
        first, proposals = self.rpn_head.loss_and_predict(maps, objects, self.proposal)
        boxes = [found.bboxes.clone() for found in proposals]
        second = self.roi_head.loss(maps, proposals, samples)
        losses = {
            'loss_rpn_cls': sum(first['loss_rpn_cls']),
            'loss_rpn_bbox': sum(first['loss_rpn_bbox']),
            **{name: second[name] for name in ('loss_cls', 'loss_bbox', 'loss_mask')},
        }
        return losses, boxes

    @torch.no_grad()
    def found(self, maps, samples):
        proposals = self.rpn_head.predict(maps, samples, rescale=False)
        return self.roi_head.predict(maps, proposals, samples, rescale=True)


def main(given, computed):
    torch.manual_seed(0)
    given = np.load(given)
    settings = json.loads(str(given['settings']))
    model = Model(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += settings['noise'] * torch.randn_like(parameter)
    model.roi_head.bbox_head.fc_reg.weight.data.mul_(0.2)

    named = dict(model.named_parameters())
    results = {f'weight:{name}': p.detach().numpy().copy() for name, p in named.items()}
    maps = [torch.from_numpy(given[f'map{i}']).requires_grad_() for i in range(5)]
    images = len(maps[0])
    samples = samples_of(given, settings, images)
    seeds = given['draws'].tolist()

    # Detection first: batch normalisation still has its initial statistics
    model.eval()
    for i, instances in enumerate(model.found(maps, samples)):
        scores, labels = instances.scores[:, None], instances.labels[:, None]
        results[f'found{i}'] = torch.cat([instances.bboxes, scores, labels], 1).numpy()
        results[f'pasted{i}'] = instances.masks.numpy()

    model.train()
    losses, proposals = model.losses(maps, samples, seeds)
    sum(losses.values()).backward()
    results |= {name: loss.item() for name, loss in losses.items()}
    results |= {f'proposal{i}': boxes.numpy() for i, boxes in enumerate(proposals)}
    results |= {f'gradient:{name}': p.grad.numpy().copy() for name, p in named.items()}
    results |= {f'gradient:map{i}': x.grad.numpy().copy() for i, x in enumerate(maps)}

    rate, decay = settings['rate'], settings['decay']
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    sums = []
    for step in range(settings['steps']):
        optimizer.zero_grad()
        losses, _ = model.losses(maps, samples, [seed + step for seed in seeds])
        loss = sum(losses.values())
        loss.backward()
        optimizer.step()
        sums.append(loss.item())
    results['losses'] = np.array(sums)
    results |= {f'after:{name}': p.detach().numpy() for name, p in named.items()}
    np.savez(computed, **results)


if __name__ == '__main__':
    main(*sys.argv[1:])
