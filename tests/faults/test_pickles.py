"""A file that would run code, given in every way that a user can give a file, never does."""

import io
import os
import pickle
import sys
import zipfile

import paddle
import pytest
from conftest import ROOT

import main_export
import main_finetune
import main_infer
import main_linprobe
import main_parity
import main_pretrain
import seg  # noqa: F401
from util.convert import __main__ as converter
from util.errors import InputError
from util.weights import torch_file

# isort: split
from seg import export, predict, train, val

sys.path.append(str(ROOT / 'demo'))
import visualize

MAE = '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --num_workers 0 --device cpu '
MAE += '--data_path {data} --output_dir {out} '
VIT = MAE.replace('mae_', '') + '--nb_classes 3 '
SEG = '--config {config} --device cpu '
WAYS = {
    'pretrain --resume': (main_pretrain, MAE + '--batch_size 10 --resume {file}'),
    'finetune --resume': (main_finetune, VIT + '--batch_size 10 --resume {file}'),
    'finetune --finetune': (main_finetune, VIT + '--finetune {file}'),
    'finetune --eval': (main_finetune, VIT + '--eval --resume {file}'),
    'linprobe --finetune': (main_linprobe, VIT + '--finetune {file}'),
    'linprobe --eval': (main_linprobe, VIT + '--eval --resume {file}'),
    'export': (main_export, '--device cpu --resume {file} --out {out}'),
    'infer': (main_infer, '--device cpu --img_path {picture} --resume {file}'),
    'parity': (main_parity, '{file} --python ' + sys.executable),  # it fails before it runs this
    'convert': (converter, '{file} {out}/x.pth --to torch'),
    'visualize': (visualize, '--device cpu --img_path {picture} --resume {file} --out {out}/x.png'),
    'seg pretrained': (train, SEG + '--save_dir {out} --opts model.backbone.pretrained={file}'),
    'seg train --resume_model': (train, SEG + '--save_dir {out} --iters 9 --resume_model {folder}'),
    'seg val': (val, SEG + '--model_path {file}'),
    'seg predict': (predict, SEG + '--model_path {file} --image_path {picture}'),
    'seg export': (export, SEG + '--model_path {file} --save_dir {out}/e'),
}


class Evil:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def as_zip(evil):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({'model': evil}, 2))
        archive.writestr('archive/version', '3\n')
    return file.getvalue()


def as_legacy(evil):
    return b''.join(
        pickle.dumps(part, 2)
        for part in (torch_file.LEGACY, torch_file.VERSION, {}, {'model': evil}, [])
    )


FILES = {
    '.pd': lambda evil: pickle.dumps({'model': evil, 'optimizer': {}, 'epoch': 1}),
    'zip .pth': as_zip,
    'legacy .pth': as_legacy,
}


@pytest.mark.parametrize('way', WAYS)
def test_none_runs(way, digits, config, tmp_path, tally):
    program, flags = WAYS[way]
    for folder in ('iter_3', 'out'):
        (tmp_path / folder).mkdir()
    for kind, make in FILES.items():
        for name in ('model.pdparams', 'model.pdopt'):
            (tmp_path / 'iter_3' / name).write_bytes(make(Evil(tmp_path / 'ran')))
        flags_now = flags.format(
            data=digits,
            out=tmp_path / 'out',
            file=tmp_path / 'iter_3/model.pdparams',
            config=config(),
            folder=tmp_path / 'iter_3',
            picture=next(digits.glob('val/*/*')),
        ).split()
        with tally(f'crafted pickles: {way}'):
            with pytest.raises(InputError, match='refused, because it names posix.mkdir'):
                program.main(program.PARSER.parse_args(flags_now))
            assert not (tmp_path / 'ran').exists(), kind


@pytest.mark.parametrize('make', FILES.values(), ids=FILES)
def test_they_would(make, tmp_path):
    """Without a guard the same pickle runs, so the tests above could fail."""
    data = make(Evil(tmp_path / 'ran'))
    if data.startswith(b'PK'):
        data = zipfile.ZipFile(io.BytesIO(data)).read('archive/data.pkl')
    file = io.BytesIO(data)
    while not (tmp_path / 'ran').exists():
        pickle.load(file)


def test_paddle_would(tmp_path):
    (tmp_path / 'x.pd').write_bytes(pickle.dumps({'model': Evil(tmp_path / 'ran')}, 2))
    paddle.load(str(tmp_path / 'x.pd'))
    assert (tmp_path / 'ran').exists()
