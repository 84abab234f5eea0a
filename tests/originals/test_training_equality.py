"""Training is equal in distribution: one small recipe in PyTorch and by the programs here.

PyTorch's side is Hugging Face's and timm's. Each side has its own seeds, and Welch's test compares
their figures. Run by hand, about 25 minutes on one core; MAE_REPORTS says where to keep the record:

    MAE_REPORTS=reports python -m pytest -m full tests/originals/test_training_equality.py
"""

import json

import numpy as np
import pytest
from conftest import log_of
from scipy import stats

from util import provenance
from util.weights import sha256

from .conftest import SIZES, keep

SEEDS = 12  # of each side; equal seeds would mean nothing, as PyTorch draws other numbers
SIDE = SIZES['nano']['image']
PRETRAIN = {
    'epochs': 8,
    'warmup_epochs': 1,
    'batch_size': 64,
    'lr': 2e-3,
    'scale': [0.2, 1.0],
    'beta2': 0.95,
}
FINETUNE = {
    'epochs': 12,
    'warmup_epochs': 1,
    'batch_size': 20,
    'lr': 3e-3,
    'min_lr': 1e-6,
    'layer_decay': 0.65,
    'drop_path': 0.1,
    'smoothing': 0.1,
    'scale': [0.6, 1.0],
}
MASKED = 0.75
INPUT = (
    f'--input_size {SIDE} --in_chans 1 --hflip 0 --num_workers 0 --device cpu --log_dir='.split()
)
SURE = 1e-3  # six figures: equal trainings fail once in 170 times


def flags(settings):
    return [
        word
        for name, value in settings.items()
        for word in (f'--{name}', *(value if isinstance(value, list) else [value]))
    ]


@pytest.fixture
def ours(run_program, tmp_path, digits):
    """ours(seed) -> its figures, by main_pretrain.py and main_finetune.py."""

    def run(seed):
        begun, tuned = tmp_path / f'pretrained_{seed}', tmp_path / f'tuned_{seed}'
        # main_pretrain.py has no flag for beta2: its value is always the recipe's
        begin = {name: value for name, value in PRETRAIN.items() if name != 'beta2'}
        pretrain = [*f'--model mae_vit_nano_patch4 --mask_ratio {MASKED}'.split(), *flags(begin)]
        pretrain += ['--data_path', digits, '--output_dir', begun]
        finetune = '--model vit_nano_patch4 --nb_classes 10 --aa none --reprob 0'.split()
        finetune += [*flags(FINETUNE), '--data_path', f'{digits}100', '--output_dir', tuned]
        finetune += ['--finetune', begun / f'checkpoint-{PRETRAIN["epochs"] - 1}.pd']
        for program, more in (('main_pretrain.py', pretrain), ('main_finetune.py', finetune)):
            result = run_program(program, *INPUT, *more, '--seed', seed, timeout=900)
            assert result.returncode == 0, result.stderr
        losses, lines = [line['train_loss'] for line in log_of(begun)], log_of(tuned)
        return {
            'loss of the first epoch': losses[0],
            'loss of the last epoch': losses[-1],
            'fine-tuning loss of the first epoch': lines[0]['train_loss'],
            'fine-tuning loss of the last epoch': lines[-1]['train_loss'],
            'loss on held-out digits': lines[-1]['test_loss'],
            'accuracy on held-out digits, %': lines[-1]['test_acc1'],
        }

    return run


@pytest.fixture
def digits(run_program, tmp_path):
    """A folder of all scanned digits; beside it lists of a hundred of them."""
    assert run_program('demo/make_digits.py', '--out', tmp_path / 'digits').returncode == 0
    return tmp_path / 'digits'


@pytest.fixture
def theirs(reference, digits, tmp_path):
    """theirs() -> figure -> values, by PyTorch."""
    lists = {}
    for name, files in (
        ('pictures', (digits / 'train').glob('*/*')),
        ('held_out', (digits / 'val').glob('*/*')),
    ):
        lists[name] = tmp_path / f'{name}.txt'
        lists[name].write_text(''.join(f'{file} {file.parent.name}\n' for file in sorted(files)))
    lists['labelled'] = tmp_path / 'labelled.txt'
    few = (tmp_path / 'digits100/train.txt').read_text().splitlines()
    lists['labelled'].write_text(''.join(f'{tmp_path / "digits100" / line}\n' for line in few))
    recipe = {
        'side': SIDE,
        'size': SIZES['nano'],
        'mask_ratio': MASKED,
        'pretrain': PRETRAIN,
        'finetune': FINETUNE,
        'seeds': SEEDS,
        **{name: str(path) for name, path in lists.items()},
    }
    return lambda: {
        name: values.tolist()
        for name, values in reference('training', recipe=json.dumps(recipe)).items()
    }


def described(figure, here, there):
    """(line of the report, p): means, deviations, difference and p of Welch's test."""
    error = np.hypot(*(np.std(values, ddof=1) / len(values) ** 0.5 for values in (here, there)))
    p = stats.ttest_ind(here, there, equal_var=False).pvalue
    return (
        f'{figure}: here {np.mean(here):.4g} ± {np.std(here, ddof=1):.2g}, '
        f'PyTorch {np.mean(there):.4g} ± {np.std(there, ddof=1):.2g}, '
        f'difference {np.mean(here) - np.mean(there):+.2g} of {error:.2g} standard error, '
        f'p = {p:.2g}',
        p,
    )


@pytest.mark.full
def test_the_same_recipe_ends_alike(ours, theirs, tmp_path):
    there = theirs()
    each = [ours(seed) for seed in range(SEEDS)]
    here = {name: [figures[name] for figures in each] for name in each[0]}
    assert here.keys() == there.keys()
    lines, chances = zip(*(described(name, here[name], there[name]) for name in here))
    print('', *lines, sep='\n')
    log = tmp_path / 'figures.json'
    log.write_text(json.dumps({'here': here, 'PyTorch': there}, indent=1) + '\n')
    keep('training_equality', record(lines, log, tmp_path), log)
    assert min(chances) > SURE, lines


def record(lines, log, folder):
    weights = folder / f'pretrained_0/checkpoint-{PRETRAIN["epochs"] - 1}.pd'
    return {
        'claim': 'The same small recipe here and in PyTorch: '
        'losses and accuracies agree on average',
        'status': 'measured',
        'model': 'mae_vit_nano_patch4, then vit_nano_patch4',
        'run': 'python -m pytest -m full tests/originals/test_training_equality.py',
        'result': dict(line.split(': ', 1) for line in lines),
        'settings': {
            'seeds': f'{SEEDS} on each side',
            'pre-training': PRETRAIN,
            'fine-tuning, 100 labels': FINETUNE,
        },
        'environment': provenance.environment(),
        'log': {'file': 'training_equality.log.json', 'sha256': sha256(log)},
        'weights': {
            'file': f'{weights.name} of the first seed here',
            'sha256': sha256(weights),
            'licence': 'none, made by this run',
        },
        'deviations': [
            "The originals are transformers' ViTMAEForPreTraining with the official initialisation "
            "(its own is another), timm's VisionTransformer, torchvision's crop, PyTorch's AdamW",
            "p is of Welch's test; a figure counts as different where it is below 0.001",
        ],
    }
