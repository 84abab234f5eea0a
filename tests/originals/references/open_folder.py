"""What transformers and timm compute with a folder of util.convert, offline.

    python open_folder.py GIVEN.npz COMPUTED.npz

GIVEN: opened (the folder), pictures (file names)
"""

import os
import sys

os.environ['HF_HUB_OFFLINE'] = '1'
import torch_ready  # noqa: F401  before torchvision, timm and transformers

# isort: split
import numpy as np
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline


@torch.no_grad()
def main(given):
    folder = given['opened'].item()
    files = given['pictures'].tolist()
    processor = AutoImageProcessor.from_pretrained(folder)
    pictures = [Image.open(file).convert('RGB') for file in files]
    images = processor(pictures, return_tensors='pt')['pixel_values']
    yield 'images', images
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    yield 'kind', np.array(type(model).__name__)
    yield 'labels', np.array([model.config.id2label[i] for i in range(model.config.num_labels)])
    yield 'logits', model.eval()(pixel_values=images).logits

    classify = pipeline('image-classification', model=folder, top_k=3)
    found = [classify(file) for file in files]
    yield 'best', np.array([[one['label'] for one in best] for best in found])
    yield 'scores', np.array([[one['score'] for one in best] for best in found])

    if type(model).__name__.startswith('Timm'):
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        tokens = model.forward_features(images)
        yield 'tokens', tokens
        yield 'pooled', model.forward_head(tokens, pre_logits=True)
        blocks = model.get_intermediate_layers(images, n=[0, 2], return_prefix_tokens=True)
        for name, (patches, prefix) in zip(('block0', 'block2'), blocks):
            yield f'{name}_patches', patches
            yield f'{name}_cls', prefix[:, 0]


arrays = {name: np.asarray(value) for name, value in main(np.load(sys.argv[1]))}
np.savez(sys.argv[2], **arrays)
