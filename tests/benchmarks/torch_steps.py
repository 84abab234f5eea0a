"""The same steps in PyTorch, by Hugging Face's masked autoencoder and timm's vision transformer.

They are eager float32 modules with AdamW over the official groups, or run in autocast to bfloat16.
On a GPU they use float16, as the official programs do; we have not run that.

As in paddle_steps.py, each function takes a case and returns turn(steps) -> answer, and facts about
the case for its record. Weights are random and differ from Paddle's, which changes no time.
"""

import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'originals/references'))
import torch_ready  # noqa: F401  before torchvision, which timm imports

# isort: split
import numpy as np
import timm
import torch
import transformers
from timm.data import Mixup
from timm.layers import use_fused_attn
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

CLASSES = 1000
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())))


def about(case):
    return {
        'frame_version': torch.__version__,
        'transformers': transformers.__version__,
        'timm': timm.__version__,
        'device': DEVICE,
        'fp_item': 'fp16' if DEVICE == 'cuda' else 'fp32',
        'threads': torch.get_num_threads(),
        'rate': rate(case['products']),
    }


def parameters(model):
    """The number of trained values; equal models have as many in Paddle."""
    return {
        'parameters': sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
    }


def wait():
    if DEVICE == 'cuda':
        torch.cuda.synchronize()


def rate(shapes):
    """10^9 operations a second over all shapes, each at the best of four times; 0 for no shapes."""
    total = 0.0
    for rows, inner, columns in shapes:
        a, b = torch.randn(rows, inner, device=DEVICE), torch.randn(inner, columns, device=DEVICE)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            torch.mm(a, b)
            wait()
            times.append(time.perf_counter() - start)
        total += min(times)
    return sum(2e-9 * m * k * n for m, k, n in shapes) / total if total else 0.0


def peak_memory():
    if DEVICE == 'cuda':
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def repeated(step):
    """turn(count) does `count` steps; step() -> loss or None."""

    def turn(count):
        seconds, loss = [], None
        for _ in range(count):
            start = time.perf_counter()
            loss = step()
            wait()
            seconds.append(time.perf_counter() - start)
        return {'seconds': seconds, 'memory': peak_memory()} | (
            {} if loss is None else {'loss': loss}
        )

    return turn


def training(optimizer, loss_of, amp=''):
    """step(): forward, backward, AdamW; on a CPU in float32, or `amp` is bfloat16."""
    low = torch.bfloat16 if amp else torch.float16
    scaler = torch.amp.GradScaler(DEVICE, enabled=DEVICE == 'cuda' and not amp)

    def step():
        optimizer.zero_grad()
        with torch.autocast(DEVICE, low, enabled=bool(amp) or DEVICE == 'cuda'):
            loss = loss_of()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def precision(case):
    return {'fp_item': 'bf16'} if case['what'] else {}


def pictures_like(case):
    shape = [case['batch'], 3, case['side'], case['side']]
    return np.random.default_rng(0).standard_normal(shape, dtype='float32')


def autoencoder(case):
    size = case['size']
    config = transformers.ViTMAEConfig(
        image_size=case['side'],
        patch_size=size['patch'],
        hidden_size=size['width'],
        num_hidden_layers=size['depth'],
        num_attention_heads=size['heads'],
        intermediate_size=4 * size['width'],
        decoder_hidden_size=size['decoder_width'],
        decoder_num_hidden_layers=size['decoder_depth'],
        decoder_num_attention_heads=size['decoder_heads'],
        decoder_intermediate_size=4 * size['decoder_width'],
        mask_ratio=case['mask_ratio'],
        norm_pix_loss=True,
    )
    return transformers.ViTMAEForPreTraining(config).to(DEVICE).train()


def pretrain(case):
    model = autoencoder(case)
    images = torch.from_numpy(pictures_like(case)).to(DEVICE)
    optimizer = torch.optim.AdamW(
        param_groups_weight_decay(model, 0.05), lr=1e-4, betas=(0.9, 0.95)
    )
    return repeated(training(optimizer, lambda: model(images).loss, case['what'])), {
        **parameters(model),
        **precision(case),
        'attention': model.config._attn_implementation,
        'model': 'transformers ViTMAEForPreTraining',
    }


def classifier(case, drop_path_rate=0.0):
    size = case['size']
    return VisionTransformer(
        case['side'],
        size['patch'],
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        num_classes=CLASSES,
        global_pool='avg',
        drop_path_rate=drop_path_rate,
    ).to(DEVICE)


def said(model):
    return {
        **parameters(model),
        'attention': 'sdpa' if use_fused_attn() else 'eager',
        'model': 'timm VisionTransformer',
    }


def finetune(case):
    model = classifier(case, drop_path_rate=0.1).train()
    images = torch.from_numpy(pictures_like(case)).to(DEVICE)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, CLASSES, case['batch'])).to(
        DEVICE
    )
    mix = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=CLASSES)
    criterion = SoftTargetCrossEntropy()
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.65)
    for group in groups:
        group['lr'] = 1e-4 * group['lr_scale']
    optimizer = torch.optim.AdamW(groups)

    def loss():
        # timm mixes in place
        mixed, targets = (part.to(DEVICE) for part in mix(images.clone(), labels))
        return criterion(model(mixed), targets)

    return repeated(training(optimizer, loss, case['what'])), said(model) | precision(case)


def infer(case):
    model, images = classifier(case).eval(), pictures_like(case)

    @torch.inference_mode()
    def step():
        model(torch.from_numpy(images).to(DEVICE)).cpu().numpy()

    return repeated(step), said(model)


export = infer  # an exported model is compared with it
