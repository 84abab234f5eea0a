"""ViTDet's Mask R-CNN in PyTorch, its modules nested and named as those of detectron2.

detectron2 itself cannot be installed; names and layers are those of its public code
(projects/ViTDet, modeling/backbone/vit.py, roi_heads/box_head.py, roi_heads/mask_head.py,
roi_heads/fast_rcnn.py, proposal_generator/rpn.py).

    python detect_vitdet.py GIVEN.npz COMPUTED.npz

GIVEN: weights, a .pth whose 'model' must be the whole state of the network; width, depth, heads,
patch, out, hidden, classes int; map [1, width, rows, columns] of the backbone; boxes [R, out, 7,
7] and masks [R, out, 14, 14], features of boxes.
COMPUTED: map2 to map5 of the pyramid; logits and deltas of the proposals at map4; scores and
box_deltas; masks, logits [R, classes, 28, 28]. Files again.pth (torch.save) and again.pkl (NumPy's
arrays, as published files are) in the working folder.
"""

import pickle
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Normalises each place over its channels."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt(((x - mean) ** 2).mean(1, keepdim=True) + 1e-6)
        scale, shift = (value[None, :, None, None] for value in (self.weight, self.bias))
        return (x - mean) / deviation * scale + shift


class Conv(nn.Conv2d):
    """A convolution that has its normalisation inside."""

    def __init__(self, channels, out, side, relu=False):
        super().__init__(channels, out, side, padding=side // 2, bias=False)
        self.norm = ChannelNorm(out)
        self.relu = relu

    def forward(self, x):
        x = self.norm(super().forward(x))
        return F.relu(x) if self.relu else x


def holder(**modules):
    """A module that has these parts and no computation of its own."""
    module = nn.Module()
    for name, part in modules.items():
        module.add_module(name, part)
    return module


def vit(width, depth, heads, patch, shapes):
    """The names of the backbone; shapes: of the tables of positions."""
    net = holder(patch_embed=holder(proj=nn.Conv2d(3, width, patch, patch)))
    net.pos_embed = nn.Parameter(torch.zeros(shapes['backbone.net.pos_embed']))
    net.blocks = nn.ModuleList()
    for i in range(depth):
        attention = holder(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        for axis in 'hw':
            name = f'rel_pos_{axis}'
            rows = shapes[f'backbone.net.blocks.{i}.attn.{name}'][0]
            setattr(attention, name, nn.Parameter(torch.zeros(rows, width // heads)))
        mlp = holder(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))
        norms = {f'norm{number}': nn.LayerNorm(width) for number in (1, 2)}
        net.blocks.append(holder(attn=attention, mlp=mlp, **norms))
    return net


def pyramid(width, out):
    """{name of a stage: its layers}"""
    half, quarter = width // 2, width // 4
    scales = {
        'simfp_2': [
            nn.ConvTranspose2d(width, half, 2, 2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        ],
        'simfp_3': [nn.ConvTranspose2d(width, half, 2, 2)],
        'simfp_4': [],
        'simfp_5': [nn.MaxPool2d(2, 2)],
    }
    widths = {'simfp_2': quarter, 'simfp_3': half, 'simfp_4': width, 'simfp_5': width}
    return {
        name: nn.Sequential(*layers, Conv(widths[name], out, 1), Conv(out, out, 3))
        for name, layers in scales.items()
    }


def network(size, shapes):
    width, out, hidden, classes = (size[name] for name in ('width', 'out', 'hidden', 'classes'))
    convs = nn.Sequential()
    for i in range(2):
        convs.add_module(f'conv{i}', nn.Conv2d(out, out, 3, padding=1))
    box = {f'conv{i}': Conv(out, out, 3, relu=True) for i in range(1, 5)}
    mask = {f'mask_fcn{i}': Conv(out, out, 3, relu=True) for i in range(1, 5)}
    rpn_head = holder(
        conv=convs, objectness_logits=nn.Conv2d(out, 3, 1), anchor_deltas=nn.Conv2d(out, 12, 1)
    )
    predictor = holder(
        cls_score=nn.Linear(hidden, classes + 1), bbox_pred=nn.Linear(hidden, 4 * classes)
    )
    return holder(
        backbone=holder(
            net=vit(width, size['depth'], size['heads'], size['patch'], shapes),
            **pyramid(width, out),
        ),
        proposal_generator=holder(rpn_head=rpn_head),
        roi_heads=holder(
            box_head=holder(**box, fc1=nn.Linear(49 * out, hidden)),
            box_predictor=predictor,
            mask_head=holder(
                **mask,
                deconv=nn.ConvTranspose2d(out, out, 2, 2),
                predictor=nn.Conv2d(out, classes, 1),
            ),
        ),
    )


def compute(model, given):
    found = {}
    x = torch.from_numpy(given['map'])
    for level in range(2, 6):
        found[f'map{level}'] = getattr(model.backbone, f'simfp_{level}')(x)

    rpn = model.proposal_generator.rpn_head
    y = F.relu(rpn.conv.conv1(F.relu(rpn.conv.conv0(found['map4']))))
    found['logits'], found['deltas'] = rpn.objectness_logits(y), rpn.anchor_deltas(y)

    head, predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
    y = torch.from_numpy(given['boxes'])
    for i in range(1, 5):
        y = getattr(head, f'conv{i}')(y)
    y = F.relu(head.fc1(y.flatten(1)))
    found['scores'], found['box_deltas'] = predictor.cls_score(y), predictor.bbox_pred(y)

    head = model.roi_heads.mask_head
    y = torch.from_numpy(given['masks'])
    for i in range(1, 5):
        y = getattr(head, f'mask_fcn{i}')(y)
    found['masks'] = head.predictor(F.relu(head.deconv(y)))
    return {name: value.numpy() for name, value in found.items()}


@torch.no_grad()
def main(given, computed):
    given = dict(np.load(given))
    state = torch.load(str(given['weights']), weights_only=True)['model']
    sizes = ('width', 'depth', 'heads', 'patch', 'out', 'hidden', 'classes')
    size = {name: int(given[name]) for name in sizes}
    model = network(size, {name: tensor.shape for name, tensor in state.items()})
    model.load_state_dict(state, strict=True)
    np.savez(computed, **compute(model, given))

    state = model.state_dict()
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    torch.save({'model': state, 'optimizer': optimizer, 'iteration': 99}, 'again.pth')
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    with open('again.pkl', 'wb') as file:
        pickle.dump({'model': arrays, '__author__': 'third-party'}, file)


if __name__ == '__main__':
    main(*sys.argv[1:])
