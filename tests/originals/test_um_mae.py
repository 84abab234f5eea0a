"""UM-MAE's pyramids, rung by rung.

Pre-training is compared with NumPy in float64 (tests/numpy_um.py); the classifier's features,
scores and gradients with encoders built from timm's blocks. The published sizes run by hand, and
keep records:

    MAE_REPORTS=reports python -m pytest -m full tests/originals/test_um_mae.py
"""

import hashlib
import json

import numpy as np
import numpy_um as by_hand
import paddle
import pytest

import models_zoo
from models_sizes import PYRAMIDS
from parity import ladder

from .conftest import keep, parity_record, report

SIZES = [
    'swin_nano_32',
    'pvt_nano_32',
    *(pytest.param(name, marks=pytest.mark.full) for name in ('swin_tiny_256', 'pvt_small_256')),
]
WINDOW, REDUCTIONS = 8, (4, 2, 1, 1)  # in pre-training: half of what the whole image has
DEVIATIONS = [
    'There is no package of the original to compare with. Pre-training (latent, prediction, mask, '
    'loss) is compared with a restatement in NumPy, float64; features, scores and gradients of the '
    "classifier with timm's blocks in PyTorch, which are handed what makes them equal "
    '(tests/originals/references/pyramid.py). Gradients of pre-training and steps of training are '
    'not compared',
    "The bias of the coordinate MLP's last layer changes no softmax: its gradient, mere rounding, "
    "is measured by its weight's",
]


@pytest.fixture
def pretraining():
    """pretraining(name) -> hash of the autoencoder's weights, its rungs with secondary masking."""

    def compare(name):
        model = models_zoo.autoencoder(f'mae_{name}', vis_mask_ratio=0.25, norm_pix_loss=True)
        weights, rng = by_hand.perturb(model), np.random.default_rng(1)
        images = rng.normal(size=[2, 3, *model.img_size]).astype('float32')
        rows, columns = model.grid
        kept = rng.integers(4, size=[2, rows // 2, columns // 2, 1, 1])
        removed = (
            (kept != np.arange(4).reshape(2, 2)).transpose(0, 1, 3, 2, 4).reshape(2, rows, columns)
        )
        drawn, draw = [], model.secondary_masking
        model.secondary_masking = lambda *args: drawn.append(draw(*args)) or drawn[-1]
        given = paddle.to_tensor(images)
        noise = paddle.to_tensor(removed.reshape(2, -1).astype('float32'))
        latent, mask, ids_restore = model.forward_encoder(given, 0.75, noise)
        predicted = model.forward_decoder(latent, ids_restore)
        loss = model.forward_loss(given, predicted, mask)
        replaced = np.zeros([2, rows * columns], bool)
        for row, places, chosen in zip(replaced, removed, drawn[0].numpy()):
            row[by_hand.cell_order(places)[chosen]] = True
        if name.startswith('swin'):
            encode, settings = by_hand.swin_latent, WINDOW
        else:
            encode, settings = by_hand.pvt_latent, REDUCTIONS
        depths, heads = PYRAMIDS[name]['depths'], PYRAMIDS[name]['num_heads']
        replaced = replaced.reshape(removed.shape)
        expected = encode(weights, images, removed, depths, heads, settings, replaced)
        decoded = by_hand.decode(weights, expected, removed, model.decoder_blocks[0].attn.num_heads)
        error = by_hand.loss(images, decoded, removed, model.patch_size, True)
        hashed = hashlib.sha256(
            b''.join(array.astype('float32').tobytes() for array in weights.values())
        ).hexdigest()
        return hashed, [
            ladder.rung('features', [('latent', latent.numpy(), expected)], 1e-5),
            ladder.rung('prediction', [('prediction', predicted.numpy(), decoded)], 1e-5),
            ladder.rung('mask', [('mask', mask.numpy(), noise.numpy())], 0.0),
            ladder.rung('loss', [('loss', np.array([loss.item()]), np.array([error]))], 1e-6),
        ]

    return compare


@pytest.fixture
def classifying(reference):
    """classifying(name) -> rungs of the classifier."""

    def compare(name):
        pvt = name.startswith('pvt')
        # timm's PVT has 7 x 7 keys
        side = PYRAMIDS[name]['patch_size'] * 56 if pvt else int(name.rpartition('_')[2])
        more = {'sr_ratios': (8, 4, 2, 1)} if pvt else {'window': 16}
        model = models_zoo.classifier(name, img_size=side, num_classes=5, **more)
        weights = {key: value.astype('float32') for key, value in by_hand.perturb(model).items()}
        rng = np.random.default_rng(0)
        images, towards = (
            rng.normal(size=shape).astype('float32') for shape in ([2, 3, side, side], [2, 5])
        )
        theirs = reference(
            'pyramid',
            settings=json.dumps({**PYRAMIDS[name], **more}),
            images=images,
            towards=towards,
            **weights,
        )
        features = model.features(paddle.to_tensor(images))
        scores = model(paddle.to_tensor(images))
        (scores * paddle.to_tensor(towards)).sum().backward()
        gradients = []
        for key, parameter in model.named_parameters():
            ours, expected = parameter.grad.numpy(), theirs[f'gradients.{key}']
            if key.endswith('posmlp.2.bias'):
                share = np.abs(theirs[f'gradients.{key.replace("bias", "weight")}']).max()
                ours, expected = np.append(ours, share), np.append(expected, share)
            gradients.append((key, ours, expected))
        return [
            ladder.rung(
                'blocks',
                [
                    (f'blocks.{i}', x.numpy(), theirs[f'features.{i}'])
                    for i, x in enumerate(features)
                ],
                1e-5,
            ),
            ladder.rung('logits', [('logits', scores.numpy(), theirs['scores'])], 1e-5),
            ladder.rung('gradients', gradients, 5e-5),
        ]

    return compare


@pytest.mark.parametrize('name', SIZES)
def test_pyramids_pass_every_rung(pretraining, classifying, name):
    hashed, pretraining_rungs = pretraining(name)
    rungs = [*classifying(name), *pretraining_rungs]
    report(name, **{rung.name: rung.relative for rung in rungs})
    if 'nano' not in name:
        keep(
            f'parity_um_mae_{name}',
            parity_record(
                f"mae_{name}: Paddle equals NumPy by hand and timm's blocks",
                f'mae_{name} and {name}',
                __file__,
                {
                    'file': 'none: those of the masked autoencoder, one after the other',
                    'sha256': hashed,
                },
                rungs,
                DEVIATIONS,
            ),
        )
    assert all(rung.passed for rung in rungs), [rung for rung in rungs if not rung.passed]
