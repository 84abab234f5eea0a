"""The original in PyTorch: loads a weight file by itself, and writes what it computes from given inputs.

    python -I parity/original.py GIVEN.npz FOLDER

A script for an environment with torch, timm and transformers. It shares no line and no name map with the project, whose
mistakes must not repeat themselves here. GIVEN.npz: source (path), images [steps, N, C, S, S], noise [steps, N, L],
targets [steps, N, K], heads, decoder_heads, norm_pix_loss, lr, warmup, layer_decay, clip_grad; or source, heads and
pixels (path of an array [N, C, S, S]), which asks for scores alone. FOLDER gets about.json and, in files *.npz under
official names and in PyTorch's layout, weights, blocks, outputs, gradients and after (weights after the steps).
"""
import argparse
import json
import math
import re
import resource
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # beside a CPU build of PyTorch it misses two operators of its own, which nothing here uses
    library = torch.library.Library('torchvision', 'DEF')
    for operator in ('nms', 'qnms'):
        library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

import timm
import transformers
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_weight_decay
from torch import nn

# of a block: official name -> Hugging Face's, as transformers 5 has it in memory
PARTS = {'norm1': 'layernorm_before', 'norm2': 'layernorm_after', 'attn.proj': 'attention.o_proj', 'mlp.fc1': 'mlp.fc1',
         'mlp.fc2': 'mlp.fc2'}
STEMS = {'cls_token': 'vit.embeddings.cls_token', 'pos_embed': 'vit.embeddings.position_embeddings',
         'patch_embed.proj': 'vit.embeddings.patch_embeddings.projection', 'norm': 'vit.layernorm', 'head': 'classifier',
         'mask_token': 'decoder.mask_token', 'decoder_pos_embed': 'decoder.decoder_pos_embed',
         'decoder_embed': 'decoder.decoder_embed', 'decoder_norm': 'decoder.decoder_norm',
         'decoder_pred': 'decoder.decoder_pred'}
OPEN_MMLAB = [(r'^backbone\.layers\.', 'blocks.'), (r'^neck\.decoder_blocks\.', 'decoder_blocks.'),
              (r'^backbone\.patch_embed\.projection', 'patch_embed.proj'), (r'\.ln(\d)', r'.norm\1'),
              (r'ffn\.layers\.0\.0', 'mlp.fc1'), (r'ffn\.layers\.1', 'mlp.fc2'), (r'^backbone\.norm1', 'norm'),
              (r'^backbone\.norm2', 'fc_norm'), (r'^neck\.norm1', 'decoder_norm'), (r'^neck\.bn', 'head.0'),
              (r'^head\.(fc|layers\.head)', 'head'), (r'^(backbone|neck)\.', '')]


def hugging_face(name):
    """The names that make up an official one in Hugging Face's model: three for query, key and value."""
    if found := re.match(r'(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)$', name):
        decoder, number, part, suffix = found.groups()
        stem = f'decoder.decoder_layers.{number}' if decoder else f'vit.layers.{number}'
        parts = [f'attention.{letter}_proj' for letter in 'qkv'] if part == 'attn.qkv' else [PARTS[part]]
        return [f'{stem}.{part}.{suffix}' for part in parts]
    stem, suffix = re.match(r'(.+?)(\.weight|\.bias)?$', name).groups()
    return [STEMS[stem] + (suffix or '')]


def load(path):
    """(code base, tensors) of a file; the average of the weights where a run kept one. OpenMMLab's get official names."""
    with open(path, 'rb') as file:
        is_safetensors = file.read(9)[8:] == b'{'
    if is_safetensors:
        contents = load_file(path)
    else:
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location='cpu', weights_only=True)
    key = next((key for key in ('ema', 'model', 'state_dict') if isinstance(contents.get(key), dict)), None)
    tensors = {re.sub(r'^(module\.)?(_orig_mod\.)?', '', name): tensor.float()
               for name, tensor in (contents[key] if key else contents).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith('data_preprocessor.')}
    if 'backbone.cls_token' in tensors:
        return 'OpenMMLab', _probe_of(dict(map(_official, tensors.items())))
    is_hugging_face = any('embeddings.cls_token' in name for name in tensors)
    return ('Hugging Face', tensors) if is_hugging_face else ('official or timm', _probe_of(tensors))


def _official(item):
    name, tensor = item
    for pattern, replacement in OPEN_MMLAB:
        name = re.sub(pattern, replacement, name)
    return name, tensor


def _probe_of(tensors):
    """A linear probe's head is behind its normalisation, which some files count in a tensor more than others."""
    if 'head.0.running_mean' in tensors:
        tensors = {re.sub(r'^head\.(?=weight|bias)', 'head.1.', name): tensor for name, tensor in tensors.items()}
        tensors.setdefault('head.0.num_batches_tracked', torch.tensor(0))
    return tensors


class Original:
    """A model, its stacks of blocks by their official names, and its parameters by theirs."""

    def __init__(self, given):
        self.given = given
        self.code_base, tensors = load(str(given['source']))
        self.is_autoencoder = any(name.endswith('mask_token') and 'embeddings' not in name for name in tensors)
        self.is_probe = 'head.0.running_mean' in tensors
        if self.is_autoencoder or self.code_base == 'Hugging Face':
            self._of_transformers(tensors)
        else:
            self._of_timm(tensors)

    def _of_timm(self, tensors):
        width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
        head = tensors.get('head.1.bias', tensors.get('head.bias'))
        self.model = VisionTransformer(
            img_size=math.isqrt(tensors['pos_embed'].shape[1] - 1) * patch, patch_size=patch, in_chans=channels,
            num_classes=0 if head is None else len(head), embed_dim=width, depth=depth_of(tensors, r'^blocks\.(\d+)\.'),
            num_heads=int(self.given['heads']), mlp_ratio=len(tensors['blocks.0.mlp.fc1.bias']) / width,
            global_pool='avg' if 'fc_norm.weight' in tensors else 'token', norm_layer=partial(nn.LayerNorm, eps=1e-6))
        if self.is_probe:
            self.model.requires_grad_(False)
            self.model.head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, len(head)))
        self.model.load_state_dict(tensors, strict=True)
        self.has_head, self.stacks = head is not None, {'blocks': self.model.blocks}
        self.names = {name: [name] for name, _ in self._tensors()}
        self.label = 'timm VisionTransformer' + ' with BatchNorm1d and Linear' * self.is_probe

    def _of_transformers(self, tensors):
        if self.code_base != 'Hugging Face':
            renamed = {}
            for name, tensor in tensors.items():
                theirs = hugging_face(name)
                renamed |= zip(theirs, tensor.chunk(len(theirs)))
            tensors = renamed
        tensors = {re.sub(r'^(?=embeddings\.|encoder\.layer\.|layers\.|layernorm\.)', 'vit.', name): tensor
                   for name, tensor in tensors.items() if 'pooler.' not in name}
        width, channels, patch, _ = tensors['vit.embeddings.patch_embeddings.projection.weight'].shape
        side = math.isqrt(tensors['vit.embeddings.position_embeddings'].shape[1] - 1) * patch
        config = dict(image_size=side, patch_size=patch, num_channels=channels, hidden_size=width,
                      intermediate_size=4 * width, layer_norm_eps=1e-6, attn_implementation='eager',
                      num_hidden_layers=depth_of(tensors, r'^vit\.(?:encoder\.layer|layers)\.(\d+)\.'),
                      num_attention_heads=int(self.given['heads']))
        if self.is_autoencoder:
            width = tensors['decoder.mask_token'].shape[-1]
            kind, config = transformers.ViTMAEForPreTraining, transformers.ViTMAEConfig(
                **config, decoder_hidden_size=width, decoder_intermediate_size=4 * width,
                decoder_num_hidden_layers=depth_of(tensors, r'^decoder\.decoder_(?:layers|encoder\.layer)\.(\d+)\.'),
                decoder_num_attention_heads=int(self.given['decoder_heads']),
                norm_pix_loss=bool(self.given['norm_pix_loss']))
        else:
            kind, config = transformers.ViTForImageClassification, transformers.ViTConfig(
                **config, num_labels=len(tensors.get('classifier.bias', [])), hidden_dropout_prob=0.0)
        self.model, info = kind.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True,
                                                dtype=torch.float32)
        if any(info.values()):
            sys.exit(f'{self.given["source"]} does not fit {kind.__name__}: {info}')
        self.label, self.has_head = f'transformers {kind.__name__}', 'classifier.bias' in tensors
        self.stacks = {'blocks': self.model.vit.layers}
        if self.is_autoencoder:
            self.stacks['decoder_blocks'] = self.model.decoder.decoder_layers
            for table in (self.model.vit.embeddings.position_embeddings, self.model.decoder.decoder_pos_embed):
                table.requires_grad_(False)  # as upstream, and as the class makes them; from_pretrained forgets it
        self.names = {name: hugging_face(name) for name in self._official_names()}
        if {theirs for names in self.names.values() for theirs in names} != dict(self._tensors()).keys():
            sys.exit(f'the names of {kind.__name__} are not those of transformers 5')

    def _official_names(self):
        theirs = dict(self._tensors())
        stems = [*STEMS, *(f'{stack}.{i}.{part}' for stack, blocks in self.stacks.items() for i in range(len(blocks))
                           for part in (*PARTS, 'attn.qkv'))]
        names = [stem + suffix for stem in stems for suffix in ('', '.weight', '.bias')
                 if suffix or stem in ('cls_token', 'pos_embed', 'mask_token', 'decoder_pos_embed')]
        return [name for name in names if hugging_face(name)[0] in theirs]

    def _tensors(self):
        """Parameters, and what a probe keeps of its features."""
        yield from self.model.named_parameters()
        yield from (item for item in self.model.named_buffers() if 'running' in item[0])

    def official(self, tensors):
        """Arrays under official names."""
        return {name: np.concatenate([tensors[part].detach().numpy() for part in parts]) if len(parts) > 1
                else tensors[parts[0]].detach().numpy() for name, parts in self.names.items() if parts[0] in tensors}

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

    def optimizer(self):
        """The recipe's: of pre-training by timm's helper; of fine-tuning by the official rule, in which all but the
        embedding and the blocks is at the last layer; of probing LARS."""
        lr, decay = float(self.given['lr']), 0.05
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.is_probe:
            return Lars(trainable.values(), lr)
        if self.is_autoencoder:
            return torch.optim.AdamW(param_groups_weight_decay(self.model, decay), lr, betas=(0.9, 0.95))
        depth, groups = len(self.stacks['blocks']), []
        for name, parts in self.names.items():
            layer = 0 if name.startswith(('cls_token', 'pos_embed', 'patch_embed')) else depth + 1
            if found := re.match(r'blocks\.(\d+)\.', name):
                layer = int(found[1]) + 1
            plain = name in ('cls_token', 'pos_embed') or trainable[parts[0]].ndim == 1
            groups.append({'params': [trainable[part] for part in parts], 'weight_decay': 0.0 if plain else decay,
                           'lr_scale': float(self.given['layer_decay']) ** (depth + 1 - layer)})
        return torch.optim.AdamW(groups, lr, betas=(0.9, 0.999))


class Lars(torch.optim.Optimizer):
    """As the official linear probe has it: no weight decay, and the trust ratio for matrices alone."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {'lr': lr, 'momentum': 0.9, 'trust': 0.001})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                update = p.grad
                if p.ndim > 1 and p.norm() > 0 and update.norm() > 0:
                    update = update * (group['trust'] * p.norm() / update.norm())
                momentum = self.state[p].setdefault('mu', torch.zeros_like(p))
                momentum.mul_(group['momentum']).add_(update)
                p.sub_(momentum, alpha=group['lr'])


def depth_of(tensors, pattern):
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(pattern, name)))


def climb(original, folder):
    """Everything the ladder needs, each part on the disk before the next begins."""
    model, given = original.model.eval(), original.given
    np.savez(folder / 'weights.npz', **original.official(dict(original._tensors())))
    seen, hooks = {}, []
    for stack, blocks in original.stacks.items():
        hooks.append(blocks[0].register_forward_pre_hook(
            lambda block, inputs, name=f'{stack}.input': seen.update({name: inputs[0].numpy()})))
        hooks += [block.register_forward_hook(
            lambda block, inputs, out, name=f'{stack}.{i}': seen.update({name: out.numpy()}))
            for i, block in enumerate(blocks)]
    with torch.no_grad():
        outputs = {name: value.numpy() for name, value in original.outputs(0).items()}
    for hook in hooks:
        hook.remove()
    np.savez(folder / 'blocks.npz', **seen)
    seen.clear()
    model.train()
    loss = original.outputs(0)['loss']
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    np.savez(folder / 'gradients.npz', **original.official(gradients))
    del gradients

    optimizer, losses, steps = original.optimizer(), [], len(given['images'])
    lr, warmup = float(given['lr']), int(given['warmup'])
    for i in range(steps):
        share = i / warmup if i < warmup else 0.5 * (1 + math.cos(math.pi * (i - warmup) / (steps - warmup)))
        for group in optimizer.param_groups:
            group['lr'] = lr * share * group.get('lr_scale', 1.0)
        optimizer.zero_grad()
        step_loss = original.outputs(i)['loss']
        step_loss.backward()
        if math.isfinite(given['clip_grad']):
            nn.utils.clip_grad_norm_(model.parameters(), float(given['clip_grad']))
        optimizer.step()
        losses.append(step_loss.item())
    np.savez(folder / 'after.npz', **original.official(dict(original._tensors())))
    np.savez(folder / 'outputs.npz', **{**outputs, 'loss': loss.detach().numpy()}, losses=np.array(losses, 'float32'))


def main(given, folder):
    folder, original = Path(folder), Original(dict(np.load(given)))
    torch.manual_seed(0)
    if 'pixels' in original.given:
        original.model.eval()
        pixels = np.load(str(original.given['pixels']), mmap_mode='r')
        with torch.no_grad():
            scores = [original.scores(torch.tensor(pixels[i:i + 16])).numpy() for i in range(0, len(pixels), 16)]
        np.save(folder / 'scores.npy', np.concatenate(scores))
    else:
        climb(original, folder)
    unit = 1 if sys.platform == 'darwin' else 1024
    (folder / 'about.json').write_text(json.dumps({
        'original': original.label, 'names': original.code_base, 'threads': torch.get_num_threads(),
        'peak_memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2 ** 20,
        'versions': {'python': sys.version.split()[0], 'torch': torch.__version__, 'timm': timm.__version__,
                     'transformers': transformers.__version__, 'numpy': np.__version__}}))


main(*sys.argv[1:])
