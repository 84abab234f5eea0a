"""Training steps of mmdetection's GFL over UM-MAE's Swin, as mmengine does them.

The backbone's blocks are mmdetection's; the tables of their biases come from the coordinate MLP,
which runs once for each distance within a window, as ours does.
"""

# torch_steps finds the references of the parity tests
from torch_steps import DEVICE, parameters, pictures_like, repeated

# isort: split
import detect_gfl as references
import scenes
import torch
from mmdet.models.backbones.swin import SwinBlock
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

RECIPE = dict(rate=1e-4, decay=0.05, kept=100)
OTHERS = {
    'swin_nano_64': dict(
        RECIPE, width=64, channels=64, convs=2, classes=3, norm='GN', first=2, maps=3,
        window=8, drop_path=0.0,
    ),
    'swin_tiny_256': dict(
        RECIPE, width=768, channels=256, convs=4, classes=80, norm='BN', first=1, maps=5,
        window=16, drop_path=0.1,
    ),
}  # fmt: skip


class Block(nn.Module):
    """A block over maps [N, rows, columns, D]; `merge` makes it halve the map first."""

    def __init__(self, dim, heads, window, hidden, shift, rate, merge):
        super().__init__()
        self.merge = merge
        if merge:
            self.norm = nn.LayerNorm(dim // 2)
            self.down = nn.Conv2d(dim // 2, dim, 2, stride=2)
        self.block = SwinBlock(
            dim, heads, 4 * dim, window_size=window, shift=shift, drop_path_rate=rate
        )
        self.posmlp = nn.Sequential(nn.Conv2d(2, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, heads, 1))
        del self.block.attn.w_msa.relative_position_bias_table  # what is computed takes its place
        steps = torch.arange(1.0 - window, window)
        logs = steps.sign() * torch.log1p(steps.abs())
        distances = torch.stack(torch.meshgrid(logs, logs, indexing='ij'))
        self.register_buffer('distances', distances[None])

    def forward(self, x):
        if self.merge:
            x = self.down(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        table = self.posmlp(self.distances).flatten(2)[0].T
        self.block.attn.w_msa.relative_position_bias_table = table
        _, rows, columns, _ = x.shape
        return self.block(x.flatten(1, 2), (rows, columns)).unflatten(1, (rows, columns))


@MODELS.register_module()
class UMSwin(nn.Module):
    """Maps [N, width, ..] of the stages, from number `first` on; None before."""

    def __init__(self, size, settings):
        super().__init__()
        dim, depths = size['embed_dim'], size['depths']
        patch, self.first = size['patch_size'], settings['first']
        rates = torch.linspace(0, settings['drop_path'], sum(depths)).tolist()
        self.embed, self.norm = nn.Conv2d(3, dim, patch, stride=patch), nn.LayerNorm(dim)
        self.stages, self.up = nn.ModuleList(), nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(depths, size['num_heads'])):
            width = dim * 2**stage
            common = width, heads, settings['window'], size['posmlp_dim']
            blocks = [
                Block(*common, index % 2 == 1, rates.pop(0), bool(stage and not index))
                for index in range(depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
            last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, settings['width']))
            self.up.append(last.requires_grad_(stage >= self.first))

    def forward(self, x):
        x = self.norm(self.embed(x).permute(0, 2, 3, 1))
        maps = []
        for number, (stage, up) in enumerate(zip(self.stages, self.up)):
            x = stage(x)
            maps.append(up(x).permute(0, 3, 1, 2) if number >= self.first else None)
        return maps


def detect(case):
    register_all_modules()
    settings = OTHERS[case['model']]
    neck, head = references.recipe(settings)
    training = head.pop('train_cfg')
    backbone = dict(type='UMSwin', size=case['size'], settings=settings)
    model = MODELS.build(
        ConfigDict(type='GFL', backbone=backbone, neck=neck, bbox_head=head, train_cfg=training)
    )
    model.to(DEVICE).train()
    optimizer = references.wrapper(model, settings)
    images = torch.from_numpy(pictures_like(case)).to(DEVICE)
    shape = (case['side'], case['side'])
    samples = []
    for boxes, labels in zip(*scenes.objects(case, settings['classes'])):
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, pad_shape=shape, batch_input_shape=shape)
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).to(DEVICE), labels=torch.from_numpy(labels).to(DEVICE)
        )
        samples.append(sample)

    def step():
        loss, _ = model.parse_losses(model(images, samples, mode='loss'))
        optimizer.update_params(loss)
        return loss.item()

    return repeated(step), {
        **parameters(model),
        'model': 'mmdetection 3.3.0',
        'attention': 'eager',
    }
