"""One side of a comparison, in a process of its own: does so many steps for each number that it reads, and answers with
their seconds and the process's peak of memory in MB, as a line of JSON.

    python tests/benchmarks/worker.py CASE BATCH
"""
import json
import resource
import sys
import time

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import models_mae
import models_zoo
from util import optim, run


class EncoderWithMaskTokens(models_mae.MaskedAutoencoderViT):
    """What MAE would be with its mask tokens in the encoder already (arXiv:2111.06377, table 1c)."""

    def forward_encoder(self, imgs, mask_ratio, noise=None):
        x = self.patch_embed(imgs)
        _, mask, _ = self.random_masking(len(x), mask_ratio, noise)
        token = self.mask_token.mean(-1, keepdim=True)  # of any width: it is about time
        x = paddle.where(mask.unsqueeze(-1) > 0, token, x) + self.pos_embed[:, 1:]
        x = paddle.concat([(self.cls_token + self.pos_embed[:, :1]).expand([len(x), -1, -1]), x], axis=1)
        order = paddle.arange(x.shape[1] - 1).expand([len(x), -1])
        return self.norm(self.blocks(x)), mask, order


def pretraining(model: str):
    """A whole step of pre-training: forward, backward, AdamW."""
    side = 256 if model.endswith('_256') else 224
    if model == 'mask_tokens_in_encoder':
        network = EncoderWithMaskTokens(embed_dim=768, depth=12, num_heads=12, norm_pix_loss=True)
    else:
        network = models_zoo.autoencoder(model, img_size=side, norm_pix_loss=not model.startswith('simmim'))
    optimizer = optim.adamw(optim.decay_groups(network, 0.05), beta2=0.95)
    optimizer.set_lr(1e-4)
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=[int(sys.argv[2]), 3, side, side]).astype('float32'))

    def step():
        network(images)[0].backward()
        optimizer.step()
        optimizer.clear_grad()
    return step


if __name__ == '__main__':
    run.begin(None, seed=0)
    step = pretraining(sys.argv[1])
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({'seconds': seconds, 'memory': peak}), flush=True)
