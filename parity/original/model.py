"""The model in a weight file: timm's or transformers', built from its shapes."""

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
from weight_file import BARE, PARAMETERS, PARTS, STEMS, hugging_face, load


class Original:
    """A model, its stacks of blocks, and the names of its tensors by their official names."""

    def __init__(self, given):
        self.given = given
        self.code_base, tensors = load(str(given['source']), bool(given['use_ema']))
        # Hugging Face's encoders have a mask token too, among the embeddings
        mask_tokens = [name for name in tensors if name.endswith('mask_token')]
        self.is_autoencoder = any('embeddings' not in name for name in mask_tokens)
        self.is_probe = 'head.0.running_mean' in tensors
        if self.is_autoencoder or self.code_base == 'Hugging Face':
            self._of_transformers(tensors)
        else:
            self._of_timm(tensors)

    def _of_timm(self, tensors):
        width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
        head = tensors.get('head.1.bias', tensors.get('head.bias'))
        hidden = len(tensors['blocks.0.mlp.fc1.bias'])
        self.model = VisionTransformer(
            img_size=self.image_size(),
            patch_size=patch,
            in_chans=channels,
            num_classes=0 if head is None else len(head),
            embed_dim=width,
            depth=depth_of(tensors, r'^blocks\.(\d+)\.'),
            num_heads=int(self.given['heads']),
            mlp_ratio=hidden / width,
            global_pool='avg' if 'fc_norm.weight' in tensors else 'token',
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.label = 'timm VisionTransformer'
        if self.is_probe:
            self.model.requires_grad_(False)
            norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
            self.model.head = nn.Sequential(norm, nn.Linear(width, len(head)))
            self.label += ' with BatchNorm1d and Linear'
        self.model.load_state_dict(tensors, strict=True)
        self.has_head = head is not None
        self.stacks = {'blocks': self.model.blocks}
        self.names = {name: [name] for name, _ in self.tensors()}

    def _of_transformers(self, tensors):
        tensors = self._named_by_transformers(tensors)
        kind, config = self._class_and_config(tensors)
        self.model, info = kind.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, dtype=torch.float32
        )
        if any(info.values()):
            sys.exit(f'{self.given["source"]} does not fit {kind.__name__}: {info}')
        self.label = f'transformers {kind.__name__}'
        self.has_head = 'classifier.bias' in tensors
        self.stacks = {'blocks': self.model.vit.layers}
        if self.is_autoencoder:
            self.stacks['decoder_blocks'] = self.model.decoder.decoder_layers
            # fixed, as upstream and as the class makes them, which from_pretrained forgets
            self.model.vit.embeddings.position_embeddings.requires_grad_(False)
            self.model.decoder.decoder_pos_embed.requires_grad_(False)

        self.names = {name: hugging_face(name) for name in self._official_names()}
        named = {theirs for names in self.names.values() for theirs in names}
        if named != dict(self.tensors()).keys():
            sys.exit(f'the names of {kind.__name__} are not those of transformers 5')

    def _named_by_transformers(self, tensors):
        """The tensors under the names of transformers, with query, key and value apart."""
        renamed = {}
        for name, tensor in tensors.items():
            if self.code_base != 'Hugging Face':
                theirs = hugging_face(name)
                renamed |= zip(theirs, tensor.chunk(len(theirs)))
            elif 'pooler.' not in name:
                renamed[re.sub(BARE, 'vit.', name)] = tensor
        return renamed

    def image_size(self):
        """Height and width of the images; the side alone of squares, which transformers needs."""
        height, width = self.given['sides'].tolist()
        return height if height == width else (height, width)

    def _class_and_config(self, tensors):
        """The class of transformers for these tensors, and a config with their sizes."""
        embeddings = 'vit.embeddings'
        projection = tensors[f'{embeddings}.patch_embeddings.projection.weight']
        width, channels, patch, _ = projection.shape
        encoder = {
            'image_size': self.image_size(),
            'patch_size': patch,
            'num_channels': channels,
            'hidden_size': width,
            'intermediate_size': 4 * width,
            'layer_norm_eps': 1e-6,
            'attn_implementation': 'eager',
            'num_hidden_layers': depth_of(tensors, r'^vit\.(?:encoder\.layer|layers)\.(\d+)\.'),
            'num_attention_heads': int(self.given['heads']),
        }
        if not self.is_autoencoder:
            classes = len(tensors.get('classifier.bias', []))
            config = transformers.ViTConfig(**encoder, num_labels=classes, hidden_dropout_prob=0.0)
            return transformers.ViTForImageClassification, config

        decoder_width = tensors['decoder.mask_token'].shape[-1]
        decoder_block = r'^decoder\.decoder_(?:layers|encoder\.layer)\.(\d+)\.'
        config = transformers.ViTMAEConfig(
            **encoder,
            decoder_hidden_size=decoder_width,
            decoder_intermediate_size=4 * decoder_width,
            decoder_num_hidden_layers=depth_of(tensors, decoder_block),
            decoder_num_attention_heads=int(self.given['decoder_heads']),
            norm_pix_loss=bool(self.given['norm_pix_loss']),
        )
        return transformers.ViTMAEForPreTraining, config

    def _official_names(self):
        """The official names of the tensors of a model of transformers."""
        stems = list(STEMS)
        for stack, blocks in self.stacks.items():
            for i in range(len(blocks)):
                stems += [f'{stack}.{i}.{part}' for part in (*PARTS, 'attn.qkv')]
        names = []
        for stem in stems:
            if stem in PARAMETERS:
                names.append(stem)
            names += [f'{stem}.weight', f'{stem}.bias']
        theirs = dict(self.tensors())
        return [name for name in names if hugging_face(name)[0] in theirs]

    def tensors(self):
        """Pairs of name and tensor: parameters, and the running statistics of a probe."""
        yield from self.model.named_parameters()
        for name, buffer in self.model.named_buffers():
            if 'running' in name:
                yield name, buffer

    def official(self, tensors):
        """Arrays under official names, with query, key and value joined."""
        arrays = {}
        for name, parts in self.names.items():
            if parts[0] in tensors:
                found = [tensors[part].detach().numpy() for part in parts]
                arrays[name] = np.concatenate(found) if len(found) > 1 else found[0]
        return arrays

    def outputs(self, i):
        """The outputs for batch i and the loss, by name."""
        images = torch.from_numpy(self.given['images'][i])
        targets = torch.from_numpy(self.given['targets'][i])
        if self.is_autoencoder:
            noise = torch.from_numpy(self.given['noise'][i])
            out = self.model(images, noise=noise)
            return {'prediction': out.logits, 'mask': out.mask, 'loss': out.loss}
        out = self.scores(images)
        if not self.has_head:
            return {'features': out, 'loss': (out - targets).square().mean()}
        entropies = -(targets * out.log_softmax(-1)).sum(-1)  # [N]
        return {'logits': out, 'loss': entropies.mean()}

    def scores(self, images):
        """The scores [N, K] of images; features [N, D] where there is no head."""
        out = self.model(images)
        return out.logits if self.code_base == 'Hugging Face' else out


def depth_of(tensors, pattern):
    """The number of blocks, from the numbers that a pattern finds in names."""
    found = [re.match(pattern, name) for name in tensors]
    return 1 + max(int(match[1]) for match in found if match)
