"""The flags are frozen: official names, official defaults (facebookresearch/mae @ efb2a80), plus a known list of ours."""
import pytest

from main_pretrain import PARSER

COMMON = {'batch_size': 64, 'epochs': 400, 'accum_iter': 1, 'weight_decay': 0.05, 'lr': None, 'blr': 1e-3, 'min_lr': 0.0,
          'warmup_epochs': 40, 'output_dir': './output_dir', 'log_dir': './output_dir', 'seed': 0, 'resume': '',
          'start_epoch': 0, 'num_workers': 10, 'pin_mem': True, 'world_size': 1, 'local_rank': -1, 'dist_on_itp': False,
          'dist_url': 'env://'}
PRETRAIN = COMMON | {'model': 'mae_vit_large_patch16', 'input_size': 224, 'mask_ratio': 0.75, 'norm_pix_loss': False}
OURS = {'data_path': 'X', 'device': None, 'amp': None, 'save_every': 20, 'save_every_iters': 0, 'keep': 0, 'print_freq': 20,
        'in_chans': 3, 'mean': None, 'std': None, 'recompute': False}

COMMAND = ('--batch_size 64 --model mae_vit_large_patch16 --norm_pix_loss --mask_ratio 0.75 --epochs 800 --warmup_epochs 40 '
           '--blr 1.5e-4 --weight_decay 0.05 --data_path X --no_pin_mem --dist_url tcp://x --world_size 8 --local_rank 1 '
           '--dist_on_itp --device cuda --accum_iter 2')


def test_flags_and_defaults_of_pre_training_are_the_official_ones():
    assert vars(PARSER.parse_args(['--data_path', 'X'])) == PRETRAIN | OURS


def test_an_official_command_line_is_understood():
    args = PARSER.parse_args(COMMAND.split())
    assert args.norm_pix_loss and not args.pin_mem and args.blr == 1.5e-4


def test_help_lists_what_is_inert(capsys):
    with pytest.raises(SystemExit):
        PARSER.parse_args(['--help'])
    inert = capsys.readouterr().out.partition('inert:')[2]
    for flag in ('--world_size', '--local_rank', '--dist_on_itp', '--dist_url'):
        assert flag in inert


@pytest.mark.parametrize('flags', [
    '', '--mask_ratio 1', '--mask_ratio -0.1', '--mask_ratio nan', '--batch_size 0', '--epochs x', '--lr -1', '--lr inf',
    '--device tpu', '--amp float8', '--dat X', '--seed -1'])
def test_nonsense_is_one_line_of_error(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        PARSER.parse_args((['--data_path', 'X'] if flags else []) + flags.split())
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and 'error: ' in error and (flags.split() or ['--data_path'])[0] in error
