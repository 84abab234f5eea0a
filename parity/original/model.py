"""The model in a weight file: timm's or transformers', built from its shapes."""

import math
import re
import sys
from functools import partial

import numpy as np
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # beside a CPU build of PyTorch it misses two operators of its own, which nothing here uses
    library = torch.library.Library('torchvision', 'DEF')
    for operator in ('nms', 'qnms'):
        library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

import transformers
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from weight_file import PARTS, STEMS, hugging_face, load


class Original:
    """A model, its stacks of blocks by their official names, and its parameters by theirs."""

    def __init__(self, given):
        self.given = given
        self.code_base, tensors = load(str(given['source']))
        self.is_autoencoder = any(
            name.endswith('mask_token') and 'embeddings' not in name for name in tensors
        )
        self.is_probe = 'head.0.running_mean' in tensors
        if self.is_autoencoder or self.code_base == 'Hugging Face':
            self._of_transformers(tensors)
        else:
            self._of_timm(tensors)

    def _of_timm(self, tensors):
        width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
        head = tensors.get('head.1.bias', tensors.get('head.bias'))
        self.model = VisionTransformer(
            img_size=math.isqrt(tensors['pos_embed'].shape[1] - 1) * patch,
            patch_size=patch,
            in_chans=channels,
            num_classes=0 if head is None else len(head),
            embed_dim=width,
            depth=depth_of(tensors, r'^blocks\.(\d+)\.'),
            num_heads=int(self.given['heads']),
            mlp_ratio=len(tensors['blocks.0.mlp.fc1.bias']) / width,
            global_pool='avg' if 'fc_norm.weight' in tensors else 'token',
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        if self.is_probe:
            self.model.requires_grad_(False)
            self.model.head = nn.Sequential(
                nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, len(head))
            )
        self.model.load_state_dict(tensors, strict=True)
        self.has_head, self.stacks = head is not None, {'blocks': self.model.blocks}
        self.names = {name: [name] for name, _ in self.tensors()}
        self.label = 'timm VisionTransformer' + ' with BatchNorm1d and Linear' * self.is_probe

    def _of_transformers(self, tensors):
        if self.code_base != 'Hugging Face':
            renamed = {}
            for name, tensor in tensors.items():
                theirs = hugging_face(name)
                renamed |= zip(theirs, tensor.chunk(len(theirs)))
            tensors = renamed
        tensors = {
            re.sub(r'^(?=embeddings\.|encoder\.layer\.|layers\.|layernorm\.)', 'vit.', name): tensor
            for name, tensor in tensors.items()
            if 'pooler.' not in name
        }
        kind, config = self._class_and_config(tensors)
        self.model, info = kind.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, dtype=torch.float32
        )
        if any(info.values()):
            sys.exit(f'{self.given["source"]} does not fit {kind.__name__}: {info}')
        self.label, self.has_head = f'transformers {kind.__name__}', 'classifier.bias' in tensors
        self.stacks = {'blocks': self.model.vit.layers}
        if self.is_autoencoder:
            self.stacks['decoder_blocks'] = self.model.decoder.decoder_layers
            for table in (
                self.model.vit.embeddings.position_embeddings,
                self.model.decoder.decoder_pos_embed,
            ):
                # as upstream, and as the class makes them; from_pretrained forgets it
                table.requires_grad_(False)
        self.names = {name: hugging_face(name) for name in self._official_names()}
        if {theirs for names in self.names.values() for theirs in names} != dict(
            self.tensors()
        ).keys():
            sys.exit(f'the names of {kind.__name__} are not those of transformers 5')

    def _class_and_config(self, tensors):
        """The class of transformers for these tensors, and a config with their sizes."""
        width, channels, patch, _ = tensors[
            'vit.embeddings.patch_embeddings.projection.weight'
        ].shape
        side = math.isqrt(tensors['vit.embeddings.position_embeddings'].shape[1] - 1) * patch
        config = dict(
            image_size=side,
            patch_size=patch,
            num_channels=channels,
            hidden_size=width,
            intermediate_size=4 * width,
            layer_norm_eps=1e-6,
            attn_implementation='eager',
            num_hidden_layers=depth_of(tensors, r'^vit\.(?:encoder\.layer|layers)\.(\d+)\.'),
            num_attention_heads=int(self.given['heads']),
        )
        if not self.is_autoencoder:
            return transformers.ViTForImageClassification, transformers.ViTConfig(
                **config,
                num_labels=len(tensors.get('classifier.bias', [])),
                hidden_dropout_prob=0.0,
            )
        width = tensors['decoder.mask_token'].shape[-1]
        return transformers.ViTMAEForPreTraining, transformers.ViTMAEConfig(
            **config,
            decoder_hidden_size=width,
            decoder_intermediate_size=4 * width,
            decoder_num_hidden_layers=depth_of(
                tensors, r'^decoder\.decoder_(?:layers|encoder\.layer)\.(\d+)\.'
            ),
            decoder_num_attention_heads=int(self.given['decoder_heads']),
            norm_pix_loss=bool(self.given['norm_pix_loss']),
        )

    def _official_names(self):
        theirs = dict(self.tensors())
        stems = [
            *STEMS,
            *(
                f'{stack}.{i}.{part}'
                for stack, blocks in self.stacks.items()
                for i in range(len(blocks))
                for part in (*PARTS, 'attn.qkv')
            ),
        ]
        names = [
            stem + suffix
            for stem in stems
            for suffix in ('', '.weight', '.bias')
            if suffix or stem in ('cls_token', 'pos_embed', 'mask_token', 'decoder_pos_embed')
        ]
        return [name for name in names if hugging_face(name)[0] in theirs]

    def tensors(self):
        """Parameters, and what a probe keeps of its features."""
        yield from self.model.named_parameters()
        yield from (item for item in self.model.named_buffers() if 'running' in item[0])

    def official(self, tensors):
        """Arrays under official names."""
        return {
            name: np.concatenate([tensors[part].detach().numpy() for part in parts])
            if len(parts) > 1
            else tensors[parts[0]].detach().numpy()
            for name, parts in self.names.items()
            if parts[0] in tensors
        }

    def outputs(self, i):
        """What the model makes of batch i, by name; the loss is among it."""
        images, targets = (torch.from_numpy(self.given[name][i]) for name in ('images', 'targets'))
        if self.is_autoencoder:
            out = self.model(images, noise=torch.from_numpy(self.given['noise'][i]))
            return {'prediction': out.logits, 'mask': out.mask, 'loss': out.loss}
        out = self.scores(images)
        if not self.has_head:
            return {'features': out, 'loss': (out - targets).square().mean()}
        return {'logits': out, 'loss': -(targets * out.log_softmax(-1)).sum(-1).mean()}

    def scores(self, images):
        out = self.model(images)
        return out.logits if self.code_base == 'Hugging Face' else out


def depth_of(tensors, pattern):
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(pattern, name)))
