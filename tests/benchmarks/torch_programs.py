"""The PyTorch programs that programs.py times: the least code that does the same.

python torch_programs.py CASE FOLDER|FILE|STEPS     CASE is JSON, as worker.py has it
"""

import json
import os
import sys
import time
from pathlib import Path


def startup(case, folder):
    """Read a folder, make a model, do one step on the first batch, with no unneeded import."""
    from torch_steps import CLASSES, autoencoder, classifier, torch  # before torchvision

    # isort: split
    from torchvision import datasets, transforms

    prepare = transforms.Compose(
        [transforms.RandomResizedCrop(case['side']), transforms.ToTensor()]
    )
    images = datasets.ImageFolder(Path(folder) / 'train', prepare)
    batch, labels = next(iter(torch.utils.data.DataLoader(images, case['batch'], num_workers=2)))
    if case['what'] == 'infer':
        print('loss', classifier(case).eval()(batch[:1]).argmax().item(), flush=True)
        return
    model = autoencoder(case) if case['what'] == 'pretrain' else classifier(case)
    parameters = model.head.parameters() if case['what'] == 'linprobe' else model.parameters()
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    if case['what'] == 'pretrain':
        loss = model(batch).loss
    else:
        loss = torch.nn.functional.cross_entropy(model(batch), labels % CLASSES)
    loss.backward()
    optimizer.step()
    print('loss', loss.item(), flush=True)


def folder(case, data):
    """timm's own loop: its evaluation transform and model, the five best labels of a picture."""
    from torch_steps import classifier, torch  # before torchvision

    # isort: split
    import pictures
    from timm.data import ImageDataset, create_transform

    model = classifier(case).eval()
    images = ImageDataset(
        data, transform=create_transform(case['side'], interpolation='bicubic', crop_pct=0.875)
    )
    start = time.perf_counter()
    with torch.inference_mode():
        for batch, _ in torch.utils.data.DataLoader(images, pictures.AT_ONCE, num_workers=2):
            values, indices = model(batch).softmax(-1).topk(5)
            for row in zip(indices.tolist(), values.tolist()):
                print(*row)
    print(f'{len(images)} pictures in {time.perf_counter() - start} s')


def convert(case, file):
    import torch

    torch.save(torch.load(file, mmap=False, weights_only=True), Path(file).with_suffix('.copy'))


def make(case, file):
    """A file in the format of facebookresearch/mae, with random weights."""
    import torch

    size, pixels = case['size'], 3 * case['size']['patch'] ** 2
    tokens = (case['side'] // size['patch']) ** 2 + 1
    shapes = {
        'cls_token': [1, 1, size['width']],
        'pos_embed': [1, tokens, size['width']],
        'mask_token': [1, 1, size['decoder_width']],
        'decoder_pos_embed': [1, tokens, size['decoder_width']],
        'patch_embed.proj.weight': [size['width'], 3, size['patch'], size['patch']],
        'patch_embed.proj.bias': [size['width']],
    }

    def linear(name, outer, inner):
        shapes.update({f'{name}.weight': [outer, inner], f'{name}.bias': [outer]})

    def norm(name, width):
        shapes.update({f'{name}.weight': [width], f'{name}.bias': [width]})

    for blocks, last, width, depth in (
        ('blocks', 'norm', size['width'], size['depth']),
        ('decoder_blocks', 'decoder_norm', size['decoder_width'], size['decoder_depth']),
    ):
        for i in range(depth):
            norm(f'{blocks}.{i}.norm1', width)
            linear(f'{blocks}.{i}.attn.qkv', 3 * width, width)
            linear(f'{blocks}.{i}.attn.proj', width, width)
            norm(f'{blocks}.{i}.norm2', width)
            linear(f'{blocks}.{i}.mlp.fc1', 4 * width, width)
            linear(f'{blocks}.{i}.mlp.fc2', width, 4 * width)
        norm(last, width)
    linear('decoder_embed', size['decoder_width'], size['width'])
    linear('decoder_pred', pixels, size['decoder_width'])
    torch.save({'model': {name: torch.randn(shape) for name, shape in shapes.items()}}, file)


def processes(case, steps):
    """Steps of a masked autoencoder; the first process prints the seconds of each."""
    import torch_steps
    from torch_steps import torch

    count, rank = (
        int(os.environ.get(name, default)) for name, default in (('WORLD_SIZE', 1), ('RANK', 0))
    )
    model = torch_steps.autoencoder(case)
    images = torch.from_numpy(torch_steps.pictures_like({**case, 'batch': case['batch'] // count}))
    if count > 1:
        torch.distributed.init_process_group('gloo')
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(
        torch_steps.param_groups_weight_decay(model, 0.05), lr=1e-4, betas=(0.9, 0.95)
    )
    step = torch_steps.training(optimizer, lambda: model(images).loss)
    for _ in range(int(steps)):
        start = time.perf_counter()
        step()
        if rank == 0:
            print('step', time.perf_counter() - start, flush=True)


if __name__ == '__main__':
    case = json.loads(sys.argv[1])
    globals()[case['kind']](case, sys.argv[2])
