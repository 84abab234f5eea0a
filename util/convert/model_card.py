"""README.md of a folder for Hugging Face: the model card, with the licence of the weights."""

import json

from util.convert import names

# Licences by the names of Hugging Face's hub; any other text is `other`
LICENCES = ('apache-2.0', 'bsd-3-clause', 'cc-by-4.0', 'cc-by-nc-4.0', 'cc0-1.0', 'mit')
CLASSIFY = """
```python
from transformers import pipeline

classify = pipeline('image-classification', model='FOLDER')  # this folder
print(classify('picture.jpg'))
```

The pictures are prepared by timm's transforms, so timm must be installed.
"""
WITHOUT_TIMM = """\
Without it, take `CLIPImageProcessor.from_pretrained('FOLDER')`, which can shift the crop by one
pixel.
"""
FEATURES = """
```python
from transformers import AutoImageProcessor, {model}

processor = AutoImageProcessor.from_pretrained('FOLDER')  # this folder
model = {model}.from_pretrained('FOLDER')
```
"""


def text(model: dict, size, about: dict, has_processor: bool = True) -> str:
    """The model card of weights under our names; about: their licence, source and so on.

    has_processor: whether the folder has a preprocessor_config.json.
    """
    kind = names.kind(model)
    licence = str(about.get('licence') or 'not known')
    short = licence.lower().replace(' ', '-')
    header = {'license': short if short in LICENCES else 'other'}
    if header['license'] == 'other':
        header['license_name'] = licence

    classifies = kind in (names.POOLED, names.CLASS_TOKEN)
    library = 'timm' if kind == names.POOLED else 'transformers'
    header['library_name'] = library
    header['pipeline_tag'] = 'image-classification' if classifies else 'image-feature-extraction'
    # JSON is valid YAML, whatever the text of the licence
    entries = [f'{name}: {json.dumps(value)}' for name, value in header.items()]

    usage = CLASSIFY + WITHOUT_TIMM if has_processor else CLASSIFY
    if not classifies:
        pretrained = kind == names.AUTOENCODER
        usage = FEATURES.format(model='ViTMAEForPreTraining' if pretrained else 'ViTMAEModel')
    source = about.get('source') or {}
    facts = [f'- Model: ViT ({kind}), width {size.width}, {size.depth} blocks']
    facts.append(f'- Weights for {library}, converted by MAE for PaddlePaddle')
    if source:
        facts.append(f'- Source: {source["file"]}, sha256 {source["sha256"]}')
    facts.append(f'- Licence: {licence}')
    lines = ['---', *entries, '---', '', f'# {kind.capitalize()}', '', *facts]
    return '\n'.join(lines) + '\n' + usage
