"""The attention weights of each block, by Hugging Face's ViT and by timm's.

    python attention.py GIVEN.npz COMPUTED.npz

GIVEN: size (JSON: image, patch, width, depth, heads ...), images [N, 3, height, width]; the working
folder holds the files that make_files.py has written: hf_classifier.safetensors and its folder
hf_vit, class_token.pth
"""

import json
import shutil
import sys
from functools import partial

import numpy as np
import torch_ready  # noqa: F401  before timm and transformers

# isort: split
import timm.layers
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTForImageClassification


def of_hugging_face(images):
    shutil.copy('hf_classifier.safetensors', 'hf_vit/model.safetensors')  # beside its config.json
    model = ViTForImageClassification.from_pretrained('hf_vit', attn_implementation='eager')
    return model.eval()(images, output_attentions=True).attentions


def of_timm(size, images):
    timm.layers.set_fused_attn(False)
    model = VisionTransformer(
        img_size=size['image'],
        patch_size=size['patch'],
        num_classes=10,
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()
    model.load_state_dict(torch.load('class_token.pth', weights_only=False)['model'])
    found = []
    for block in model.blocks:
        block.attn.attn_drop.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    model(images)
    return found


def main(given, computed):
    given = np.load(given)
    size, images = json.loads(str(given['size'])), torch.from_numpy(given['images'])
    with torch.no_grad():
        found = {'hf': of_hugging_face(images), 'timm': of_timm(size, images)}
    np.savez(computed, **{name: torch.stack(list(x)).numpy() for name, x in found.items()})


if __name__ == '__main__':
    main(*sys.argv[1:])
