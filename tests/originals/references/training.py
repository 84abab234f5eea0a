"""The recipe of test_training_equality.py in PyTorch alone, once a seed.

Hugging Face's masked autoencoder is pre-trained, timm's classifier fine-tuned from it. All random
numbers come from PyTorch and torchvision.

    python training.py GIVEN.npz COMPUTED.npz

GIVEN: recipe (JSON, see the test). COMPUTED: figure -> float64 [seeds].

Weights begin as the official code draws them (facebookresearch/mae @ efb2a80); Hugging Face's class
draws them in another way.
"""

import json
import math
import os
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch_ready  # noqa: F401  before torchvision and timm

# isort: split
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_weight_decay
from torch import nn
from torchvision import transforms
from transformers import ViTMAEConfig, ViTMAEForPreTraining

NORMALIZE = [transforms.ToTensor(), transforms.Normalize([0.449], [0.226])]
BICUBIC = transforms.InterpolationMode.BICUBIC
PARTS = {
    'attn.proj': 'attention.o_proj',
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
}


def read(lines):
    """Pictures and labels of the files in a list."""
    files = [line.rsplit(' ', 1) for line in Path(lines).read_text().splitlines()]
    return [Image.open(file).convert('L').copy() for file, _ in files], torch.tensor(
        [int(label) for _, label in files]
    )


def train_crop(recipe, scale):
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(recipe['side'], scale=scale, interpolation=BICUBIC),
            *NORMALIZE,
        ]
    )


def autoencoder(recipe):
    size = recipe['size']
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=recipe['side'],
            patch_size=size['patch'],
            num_channels=1,
            hidden_size=size['width'],
            num_hidden_layers=size['depth'],
            num_attention_heads=size['heads'],
            intermediate_size=4 * size['width'],
            decoder_hidden_size=size['decoder_width'],
            decoder_num_hidden_layers=size['decoder_depth'],
            decoder_num_attention_heads=size['decoder_heads'],
            decoder_intermediate_size=4 * size['decoder_width'],
            layer_norm_eps=1e-6,
            mask_ratio=recipe['mask_ratio'],
            norm_pix_loss=False,
        )
    )
    # Both tables of positions are 0 here: the class clears the decoder's, and treats the encoder as
    # loaded
    projection = model.vit.embeddings.patch_embeddings.projection
    projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights((recipe['side'] // size['patch']) ** 2)
    assert all(
        table.any()
        for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed)
    )
    for token in (model.vit.embeddings.cls_token, model.decoder.mask_token):
        nn.init.normal_(token, std=0.02)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            # the official query, key and value are one matrix
            fused = 3 if re.search(r'\.[qkv]_proj$', name) else 1
            bound = math.sqrt(6 / (layer.in_features + fused * layer.out_features))
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(projection.weight.view(size['width'], -1))
    bound = size['patch'] ** -1  # fan_in ** -.5, PyTorch's default for a convolution
    nn.init.uniform_(projection.bias, -bound, bound)
    return model


def classifier(recipe, begun):
    """timm's classifier with the encoder of Hugging Face's autoencoder."""
    size, tensors = recipe['size'], begun.state_dict()
    model = VisionTransformer(
        img_size=recipe['side'],
        patch_size=size['patch'],
        in_chans=1,
        num_classes=10,
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        global_pool='avg',
        drop_path_rate=recipe['finetune']['drop_path'],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    nn.init.trunc_normal_(model.head.weight, std=2e-5)
    nn.init.zeros_(model.head.bias)
    loaded = {
        f'patch_embed.proj.{kind}': tensors[f'vit.embeddings.patch_embeddings.projection.{kind}']
        for kind in ('weight', 'bias')
    }
    loaded |= {
        'cls_token': tensors['vit.embeddings.cls_token'],
        'pos_embed': tensors['vit.embeddings.position_embeddings'],
    }
    for i in range(size['depth']):
        for kind in ('weight', 'bias'):
            stem = f'vit.layers.{i}'
            loaded |= {
                f'blocks.{i}.{ours}.{kind}': tensors[f'{stem}.{theirs}.{kind}']
                for ours, theirs in PARTS.items()
            }
            loaded[f'blocks.{i}.attn.qkv.{kind}'] = torch.cat(
                [tensors[f'{stem}.attention.{part}_proj.{kind}'] for part in 'qkv']
            )
    missing, unexpected = model.load_state_dict(loaded, strict=False)
    assert {*missing} == {'fc_norm.weight', 'fc_norm.bias', 'head.weight', 'head.bias'}
    assert not unexpected
    return model


def layer_groups(model, depth, decay):
    """The official groups of fine-tuning."""
    groups = []
    for name, parameter in model.named_parameters():
        layer = 0 if name.startswith(('cls_token', 'pos_embed', 'patch_embed')) else depth + 1
        if name.startswith('blocks.'):
            layer = int(name.split('.')[1]) + 1
        plain = parameter.ndim == 1 or name in ('cls_token', 'pos_embed')
        groups.append(
            {
                'params': [parameter],
                'weight_decay': 0.0 if plain else 0.05,
                'scale': decay ** (depth + 1 - layer),
            }
        )
    return groups


def train(optimizer, settings, pictures, crop, loss_of):
    """The mean loss of each epoch. loss_of: images, their numbers -> loss."""
    epochs, warmup, batch = settings['epochs'], settings['warmup_epochs'], settings['batch_size']
    means, iterations = [], len(pictures) // batch
    for epoch in range(epochs):
        losses, order = [], torch.randperm(len(pictures))
        for i in range(iterations):
            at, numbers = epoch + i / iterations, order[i * batch : (i + 1) * batch]
            cosine = 0.5 * (1 + math.cos(math.pi * (at - warmup) / (epochs - warmup)))
            floor = settings.get('min_lr', 0.0)
            lr = (
                settings['lr'] * at / warmup
                if at < warmup
                else floor + (settings['lr'] - floor) * cosine
            )
            for group in optimizer.param_groups:
                group['lr'] = lr * group.get('scale', 1.0)
            optimizer.zero_grad()
            loss = loss_of(torch.stack([crop(pictures[number]) for number in numbers]), numbers)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(np.mean(losses))
    return means


@torch.no_grad()
def evaluate(model, recipe, pictures, labels):
    model.eval()
    look = transforms.Compose(
        [
            transforms.Resize(int(recipe['side'] / 0.875), interpolation=BICUBIC),
            transforms.CenterCrop(recipe['side']),
            *NORMALIZE,
        ]
    )
    scores = model(torch.stack(list(map(look, pictures))))
    return nn.functional.cross_entropy(scores, labels).item(), 100 * (
        scores.argmax(1) == labels
    ).float().mean().item()


def run(recipe, seed):
    """The figures of a seed."""
    torch.manual_seed(seed)
    pictures, _ = read(recipe['pictures'])
    model = autoencoder(recipe).train()
    optimizer = torch.optim.AdamW(
        param_groups_weight_decay(model, 0.05), betas=(0.9, recipe['pretrain']['beta2'])
    )
    losses = train(
        optimizer,
        recipe['pretrain'],
        pictures,
        train_crop(recipe, recipe['pretrain']['scale']),
        lambda images, _: model(images).loss,
    )
    (labelled, labels), (held_out, truth) = read(recipe['labelled']), read(recipe['held_out'])
    tuned = classifier(recipe, model).train()
    settings = recipe['finetune']
    criterion = nn.CrossEntropyLoss(label_smoothing=settings['smoothing'])
    optimizer = torch.optim.AdamW(
        layer_groups(tuned, recipe['size']['depth'], settings['layer_decay']), betas=(0.9, 0.999)
    )
    tuning = train(
        optimizer,
        settings,
        labelled,
        train_crop(recipe, settings['scale']),
        lambda images, numbers: criterion(tuned(images), labels[numbers]),
    )
    loss, accuracy = evaluate(tuned, recipe, held_out, truth)
    return {
        'loss of the first epoch': losses[0],
        'loss of the last epoch': losses[-1],
        'fine-tuning loss of the first epoch': tuning[0],
        'fine-tuning loss of the last epoch': tuning[-1],
        'loss on held-out digits': loss,
        'accuracy on held-out digits, %': accuracy,
    }


def main(given, computed):
    recipe = json.loads(str(np.load(given)['recipe']))
    if threads := os.environ.get('MAE_NUM_THREADS'):
        torch.set_num_threads(int(threads))
    figures = [run(recipe, seed) for seed in range(recipe['seeds'])]
    np.savez(computed, **{name: np.array([each[name] for each in figures]) for name in figures[0]})


main(*sys.argv[1:])
