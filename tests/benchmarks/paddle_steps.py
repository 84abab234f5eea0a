"""Steps of training and inference as the project's programs do them.

The engines get one batch again and again. Each function takes a case and returns turn(steps) ->
answer, and facts about the case for its record. On a GPU the programs use float16; we have not run
that.
"""

import subprocess
import sys
import time
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import engine_finetune
import engine_pretrain
import main_finetune
import main_pretrain
import models_mae
import models_um
import models_zoo
from engine_loop import Run
from util import bfloat16, exported, masking, optim, program, progress
from util.augment import crop, transform
from util.augment.mixup import Mixup
from util.data import pictures

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 1000


class EncoderWithMaskTokens(models_mae.MaskedAutoencoderViT):
    """MAE with mask tokens already in the encoder (arXiv:2111.06377, table 1c)."""

    def forward_encoder(self, imgs, mask_ratio, noise=None):
        x = self.patch_embed(imgs)
        _, mask, _ = self.random_masking(len(x), mask_ratio, noise)
        token = self.mask_token.mean(-1, keepdim=True)  # of any width: only the time matters
        x = paddle.where(mask.unsqueeze(-1) > 0, token, x) + self.pos_embed[:, 1:]
        x = paddle.concat(
            [(self.cls_token + self.pos_embed[:, :1]).expand([len(x), -1, -1]), x], axis=1
        )
        order = paddle.arange(x.shape[1] - 1).expand([len(x), -1])
        return self.norm(self.blocks(x)), mask, order


def about(case):
    """Versions, device, precision and the rate of matrix products in 10^9 operations a second."""
    on_gpu = paddle.get_device() != 'cpu'
    return {
        'frame_version': paddle.__version__,
        'device': paddle.get_device(),
        'fp_item': 'fp16' if on_gpu else 'fp32',
        'rate': rate([product(*shape) for shape in case['products']], case['products']),
    }


def wait():
    """Wait until the device has finished its work; a CPU has always finished."""
    if paddle.get_device() != 'cpu':
        paddle.device.synchronize()


def parameters(model):
    """The number of trained values; equal models have as many in PyTorch."""
    return {
        'parameters': sum(
            parameter.size for parameter in model.parameters() if not parameter.stop_gradient
        )
    }


def product(rows, inner, columns):
    a, b = paddle.randn([rows, inner]), paddle.randn([inner, columns])

    def multiply():
        paddle.matmul(a, b)
        wait()

    return multiply


def rate(functions, shapes):
    """10^9 operations a second over all shapes, each at the best of four times; 0 for no shapes."""
    total = 0.0
    for function in functions:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        total += min(times)
    return sum(2e-9 * m * k * n for m, k, n in shapes) / total if total else 0.0


def timed(batch, count, seconds):
    """Yield the batch `count` times; `seconds` gets the time from each to the next."""
    for _ in range(count):
        start = time.perf_counter()
        yield batch
        wait()
        seconds.append(time.perf_counter() - start)


class Repeated:
    """Data for engine_loop.Run: one batch `count` times an epoch.

    `seconds` are the times from one batch to the next.
    """

    accum_iter = 1

    def __init__(self, batch, count):
        self.batch, self.count, self.seconds = batch, count, []
        self.samples = batch[0]
        self.global_batch = self.effective_batch = len(self.samples)

    def __len__(self):
        return self.count

    def accumulate(self, accum_iter):
        pass

    def batches(self, epoch, first):
        return timed(self.batch, self.count, self.seconds)


def training(case, model, batch, optimizer, program, one_epoch):
    """turn(steps) -> answer, by that many iterations of the engine; and facts for the record.

    program: the module whose flags are used. one_epoch(run) -> means.
    """
    amp = case['what']
    if amp and paddle.get_device() == 'cpu' and not bfloat16.is_fast():
        return None, {'skip': 'this processor has no bfloat16'}
    flags = {
        'data_path': '',
        'output_dir': '',
        'log_dir': '',
        'lr': 1e-4,
        'warmup_epochs': 0,
        'print_freq': 10**6,
    }
    if amp:
        flags['amp'] = amp
    args = program.PARSER.parse_args([f'--{name}={value}' for name, value in flags.items()])

    def turn(count):
        data = Repeated(batch, count)
        run = Run(model, optimizer, data, args)
        next(run.epochs())
        means = one_epoch(run)
        return {'seconds': data.seconds, 'memory': progress.peak_memory(), 'loss': means['loss']}

    return turn, parameters(model) | ({'fp_item': 'bf16'} if amp else {})


def pictures_like(case):
    shape = [case['batch'], 3, case['side'], case['side']]
    return np.random.default_rng(0).standard_normal(shape, dtype='float32')


def pretrain(case):
    program.start(None, seed=0)
    name, side = case['model'], case['side']
    if name == 'mask_tokens_in_encoder':
        model = EncoderWithMaskTokens(embed_dim=768, depth=12, num_heads=12, norm_pix_loss=True)
    else:
        name = name if name in models_zoo.AUTOENCODERS else f'mae_vit_{name}'
        model = models_zoo.autoencoder(
            name, img_size=side, norm_pix_loss=not name.startswith('simmim')
        )
    kind = 'uniform' if isinstance(model, models_um.UniformMasking) else 'random'
    draw = masking.sampler(model.grid, case['mask_ratio'], kind)
    noise = np.stack([draw(np.random.default_rng(i)) for i in range(case['batch'])])
    batch = paddle.to_tensor(pictures_like(case)), paddle.to_tensor(noise)
    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)

    def one_epoch(run):
        return engine_pretrain.train_one_epoch(run, case['mask_ratio'])

    return training(case, model, batch, optimizer, main_pretrain, one_epoch)


def classifier(case, drop_path_rate=0.0):
    return models_zoo.classifier(
        f'vit_{case["model"]}',
        img_size=case['side'],
        num_classes=CLASSES,
        drop_path_rate=drop_path_rate,
        global_pool=True,
    )


def finetune(case):
    program.start(None, seed=0)
    model = classifier(case, drop_path_rate=0.1)
    labels = np.random.default_rng(0).integers(0, CLASSES, case['batch'])
    batch = paddle.to_tensor(pictures_like(case)), paddle.to_tensor(labels)
    mix = Mixup(mixup=0.8, cutmix=1.0, classes=CLASSES)
    optimizer = optim.adamw(optim.layer_decay_groups(model, 0.05, 0.65), beta2=0.999)

    def one_epoch(run):
        return engine_finetune.train_one_epoch(run, mix)

    return training(case, model, batch, optimizer, main_finetune, one_epoch)


def repeated(step):
    """turn(count) calls step() `count` times."""

    def turn(count):
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            step()
            wait()
            seconds.append(time.perf_counter() - start)
        return {'seconds': seconds, 'memory': progress.peak_memory()}

    return turn


def infer(case):
    """Inference as main_infer.py does it with a file of weights."""
    program.start(None, seed=0)
    model, images = classifier(case), pictures_like(case)
    model.eval()

    @paddle.no_grad()
    def step():
        model(paddle.to_tensor(images)).numpy()

    return repeated(step), parameters(model)


def exported_folder(case):
    """A folder with main_export.py's ViT of random weights; made once, shared by the cases."""
    folder = Path(case['scratch']) / f'exported_{case["model"]}_{case["side"]}'
    if not folder.exists():
        weights = folder.with_suffix('.pd')
        paddle.save({'model': classifier(case).state_dict()}, str(weights))
        # in a process of its own, so that its memory does not count as this one's
        subprocess.run(
            [sys.executable, ROOT / 'main_export.py', '--resume', weights, '--out', folder],
            check=True,
        )
    return folder


def export(case):
    """Inference by main_infer.py's code with a model that main_export.py wrote.

    In bfloat16 also the share of 64 pictures with the same class as in float32. The weights are
    random; their scores lie closer to each other than those of trained weights.
    """
    program.start(None, seed=0)
    core, on_cpu = paddle.base.core, paddle.get_device() == 'cpu'
    simulated = case['what'] == 'bf16' and on_cpu and not core.supports_bfloat16_fast_performance()
    if simulated and not case['model'].startswith('nano'):
        return None, {
            'skip': 'this processor has no bfloat16 (avx512_bf16), '
            'and oneDNN would simulate it for minutes'
        }
    folder, images = exported_folder(case), pictures_like(case)
    model = exported.Exported(folder, 'inference', case['what'])
    told = {'how': model.how + ', simulated' * simulated, 'fp_item': case['what']}
    if case['what'] == 'bf16' and case['batch'] > 1:
        told |= agreement(model, exported.Exported(folder, 'inference', 'fp32'), case)
    return repeated(lambda: model(images)), told


def agreement(model, exact, case):
    """The share of the pictures for which two models choose the same class."""
    plain = transform.Evaluate(case['side'], *crop.statistics(3, None, None))
    files = sorted((Path(case['scratch']) / 'pictures/val').rglob('*.jpg'))
    prepared = np.stack([plain(pictures.read(file, 3)) for file in files])
    batches = np.array_split(prepared, -(-len(files) // case['batch']))
    choices = [
        np.concatenate([one(batch)[0].argmax(1) for batch in batches]) for one in (model, exact)
    ]
    return {'top1_agreement': float((choices[0] == choices[1]).mean()), 'pictures': len(files)}
