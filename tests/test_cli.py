"""The flags are frozen: the official names and defaults, and a known list of our own.

The official ones are facebookresearch/mae's @ efb2a80.
"""

import itertools

import numpy as np
import pytest

import main_finetune
import main_infer
import main_linprobe
import main_pretrain
from util import cli, program

PROGRAMS = {
    'pretrain': main_pretrain.PARSER,
    'finetune': main_finetune.PARSER,
    'linprobe': main_linprobe.PARSER,
}
COMMON = {
    'batch_size': 64,
    'epochs': 400,
    'accum_iter': 1,
    'weight_decay': 0.05,
    'lr': None,
    'blr': 1e-3,
    'min_lr': 0.0,
    'warmup_epochs': 40,
    'output_dir': './output_dir',
    'log_dir': './output_dir',
    'seed': 0,
    'resume': '',
    'start_epoch': 0,
    'num_workers': 10,
    'pin_mem': True,
    'world_size': 1,
    'local_rank': -1,
    'dist_on_itp': False,
    'dist_url': 'env://',
}
CLASSIFY = COMMON | {
    'model': 'vit_large_patch16',
    'nb_classes': 1000,
    'finetune': '',
    'eval': False,
    'dist_eval': False,
}
OFFICIAL = {
    'pretrain': COMMON
    | {
        'model': 'mae_vit_large_patch16',
        'input_size': 224,
        'mask_ratio': 0.75,
        'norm_pix_loss': False,
    },
    'finetune': CLASSIFY
    | {
        'epochs': 50,
        'min_lr': 1e-6,
        'warmup_epochs': 5,
        'input_size': 224,
        'drop_path': 0.1,
        'clip_grad': None,
        'layer_decay': 0.75,
        'color_jitter': None,
        'aa': 'rand-m9-mstd0.5-inc1',
        'smoothing': 0.1,
        'reprob': 0.25,
        'remode': 'pixel',
        'recount': 1,
        'resplit': False,
        'mixup': 0.0,
        'cutmix': 0.0,
        'cutmix_minmax': None,
        'mixup_prob': 1.0,
        'mixup_switch_prob': 0.5,
        'mixup_mode': 'batch',
        'global_pool': True,
    },
    'linprobe': CLASSIFY
    | {
        'batch_size': 512,
        'epochs': 90,
        'weight_decay': 0.0,
        'blr': 0.1,
        'warmup_epochs': 10,
        'global_pool': False,
    },
}
SHARED = {
    'data_path': ['X'],
    'device': None,
    'deterministic': False,
    'amp': None,
    'save_every': 1,
    'save_every_iters': 0,
    'keep': 0,
    'print_freq': 20,
    'profile': '',
    'data_timeout': 600.0,
    'in_chans': 3,
    'mean': None,
    'std': None,
    'recompute': False,
    'patch_size': None,
    'shard_optimizer': False,
    'index_dir': '',
    'shuffle': 'full',
    'window': 16,
    'window_parts': 1,
    'hflip': 0.5,
    'scale': [0.08, 1.0],
    'fast_resize': False,
}
# UM-MAE's flags and defaults, except --token_size, which follows from the model (UM-MAE: 14); the
# last flag is our own
UNIFORM = {
    'mask_regular': False,
    'vis_mask_ratio': 0.0,
    'token_size': None,
    'fix_um_positions': False,
}
ABLATIONS = {
    'decoder_depth': None,
    'decoder_dim': None,
    'encoder_mask_tokens': False,
    'pca_target': 0,
    'augmentation': 'random_crop',
    'color_jitter': None,
    'clip_grad': None,
    'beta2': 0.95,
}
CLASSES = {'use_ema': False, 'classes_renamed': False, 'class_names': None}
OURS = {
    'pretrain': SHARED
    | UNIFORM
    | ABLATIONS
    | {'masking': 'random', 'save_every': 20, 'scale': [0.2, 1.0]}
    | {'start_from': '', 'use_ema': False}
    | {'knn_every': 0, 'knn_path': None, 'knn_labels': 'all'},
    'linprobe': SHARED | CLASSES | {'input_size': 224},
    'finetune': SHARED
    | CLASSES
    | {'freeze_blocks': 0, 'ema_decay': 0.0, 'beta2': 0.999, 'robustness': False},
}

INERT = (
    '--no_pin_mem --dist_url tcp://x --world_size 8 --local_rank 1 --dist_on_itp --device cuda '
    '--accum_iter 2 '
)
# Of PRETRAIN.md and FINETUNE.md, without their submitit wrapper, and of the earlier Paddle port
COMMANDS = {
    'pretrain': [
        INERT + '--batch_size 64 --model mae_vit_large_patch16 --norm_pix_loss --mask_ratio 0.75 '
        '--epochs 800 --warmup_epochs 40 --blr 1.5e-4 --weight_decay 0.05 --data_path X',
        '--batch_size 128 --accum_iter 4 --model mae_swin_tiny_256 --input_size 256 '
        '--token_size 16 --mask_regular --vis_mask_ratio 0.25 --norm_pix_loss --mask_ratio 0.75 '
        '--epochs 200 --warmup_epochs 10 --blr 1.5e-4 --weight_decay 0.05 --data_path X',
    ],
    'finetune': [
        INERT + '--batch_size 32 --model vit_base_patch16 --finetune X --epochs 100 --blr 5e-4 '
        '--layer_decay 0.65 --weight_decay 0.05 --drop_path 0.1 --reprob 0.25 --mixup 0.8 '
        '--cutmix 1.0 --dist_eval --data_path X',
        '--batch_size 16 --model vit_huge_patch14 --finetune X --epochs 50 --blr 1e-3 '
        '--layer_decay 0.75 --weight_decay 0.05 --drop_path 0.3 --mixup 0.8 --cutmix 1.0 '
        '--cutmix_minmax 0.2 0.8 --dist_eval --data_path X --global_pool --resplit',
        '--eval --dist_eval --resume X --model vit_base_patch16 --batch_size 128 --data_path X',
    ],
    'linprobe': [
        INERT + '--batch_size 512 --model vit_base_patch16 --cls_token --finetune X --epochs 90 '
        '--blr 0.1 --weight_decay 0.0 --dist_eval --data_path X',
        '--eval --resume X --model vit_huge_patch14 --global_pool --batch_size 16 --data_path X',
    ],
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_flags_and_defaults_are_the_official_ones(name):
    assert vars(PROGRAMS[name].parse_args(['--data_path', 'X'])) == OFFICIAL[name] | OURS[name]
    assert not OFFICIAL[name].keys() & OURS[name].keys()


@pytest.mark.parametrize(
    'name, command', [(name, command) for name in COMMANDS for command in COMMANDS[name]]
)
def test_an_official_command_line_is_understood(name, command):
    words = command.split()
    args = vars(PROGRAMS[name].parse_args(words))
    for flag, value in itertools.pairwise(words):
        if flag[:2] == '--' and value[:2] != '--' and flag != '--cutmix_minmax':
            assert args[flag[2:]] == type(args[flag[2:]])(value), flag
    assert args['pin_mem'] == ('--no_pin_mem' not in words)
    assert args.get('eval', False) == ('--eval' in words)
    assert args.get('global_pool') == {'finetune': True, 'linprobe': '--global_pool' in words}.get(
        name
    )


def test_the_earlier_ports_inference_command_is_understood():
    command = (
        '--model vit_base_patch16 --resume X --img_path demo/X.JPEG --nb_classes 1000 --global_pool'
    )
    args = main_infer.PARSER.parse_args(command.split())
    assert args.global_pool is True and args.nb_classes == 1000 and args.img_path == 'demo/X.JPEG'
    assert main_infer.PARSER.parse_args([*command.split(), '--cls_token']).global_pool is False


@pytest.mark.parametrize('name', [*PROGRAMS, 'infer'])
def test_help_lists_every_flag_and_what_is_inert(name, capsys):
    parser = (PROGRAMS | {'infer': main_infer.PARSER})[name]
    with pytest.raises(SystemExit):
        parser.parse_args(['--help'])
    words = capsys.readouterr().out.split()
    for flag in (flag for action in parser._actions for flag in action.option_strings):
        assert {flag, f'{flag},', f'[{flag}]'} & {*words[words.index('options:') :]}, flag
    if name != 'infer':
        assert {'--world_size', '--local_rank', '--dist_on_itp', '--dist_url'} < {
            *words[words.index('inert:') :]
        }


NONSENSE = ('--mask_ratio 1', '--mask_ratio -0.1', '--mask_ratio nan', '--masking uniform')
COMMON_NONSENSE = (
    ', --batch_size 0, --epochs x, --lr -1, --lr inf, --amp float8, --dat X, --seed -1'
).split(', ')
CLASSIFY_NONSENSE = (
    '--nb_classes 0, --mixup_mode all, --remode nothing, --smoothing 1, --reprob 1.1, --mixup -1, '
    '--cutmix_minmax 0.2, --drop_path 1, --ema_decay 1, --beta2 1, --mixup_prob nan'
).split(', ')


@pytest.mark.parametrize(
    'name, flags',
    [
        *((name, flags) for name in PROGRAMS for flags in COMMON_NONSENSE),
        *(('pretrain', flags) for flags in NONSENSE),
        *(('finetune', flags) for flags in CLASSIFY_NONSENSE),
        ('linprobe', '--mixup 0.8'),
    ],
)
def test_nonsense_is_one_line_of_error(name, flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        PROGRAMS[name].parse_args((['--data_path', 'X'] if flags else []) + flags.split())
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        stopped.value.code == 2
        and 'error: ' in error
        and (flags.split() or ['--data_path'])[0] in error
    )


@pytest.mark.parametrize('program', PROGRAMS)
def test_um_maes_bf16_says_what_to_use(program, capsys):
    with pytest.raises(SystemExit) as error:
        PROGRAMS[program].parse_args(['--bf16'])
    assert error.value.code == 2
    assert 'error: --bf16: use --amp bfloat16 instead' in capsys.readouterr().err


def test_the_probes_knn_says_where_it_is_now(capsys):
    with pytest.raises(SystemExit) as error:
        PROGRAMS['linprobe'].parse_args(['--knn', '20'])
    assert error.value.code == 2
    assert 'error: --knn: use main_frozen.py instead' in capsys.readouterr().err


def test_memory_that_does_not_suffice_is_one_line_of_error(capsys, monkeypatch):
    def main(args):
        np.empty([2**21, 2**21])

    monkeypatch.setattr('sys.argv', ['main_x.py'])
    with pytest.raises(SystemExit) as stopped:
        program.run(main, cli.parser('A program.'))
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert 'error: out of memory; choose smaller images' in line and 'Unable to allocate' in line
