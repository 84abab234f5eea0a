"""util.convert against the producers: their classes make the files in tests/data and read ours."""

import tarfile

import numpy as np
import paddle
import pytest
from conftest import ROOT

import models_sizes
import models_zoo
from util import convert, weights

from .conftest import report
from .test_torch_file import leaves

ARCHIVE = ROOT / 'tests/data/models/files.tar.xz'
SIZE = dict(img_size=32)


def test_the_producers_still_write_what_is_checked_in(reference, tmp_path):
    reference('convert', archive=str(tmp_path / 'fresh.tar.xz'))
    folders = tmp_path / 'fresh', tmp_path / 'checked_in'
    for folder, archive in zip(folders, (tmp_path / 'fresh.tar.xz', ARCHIVE)):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter='data')
    fresh, checked_in = (
        sorted(path.relative_to(folder) for path in folder.rglob('*.*') if path.is_file())
        for folder in folders
    )
    assert fresh == checked_in and len(fresh) > 20
    for path in fresh:
        if path.suffix == '.json':
            assert (folders[0] / path).read_text() == (folders[1] / path).read_text()
            continue
        ours, theirs = (dict(leaves(weights.read(folder / path))) for folder in folders)
        assert ours.keys() == theirs.keys()  # in any order: save_pretrained has none
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f'{path}: {name}')


def perturbed(model):
    """The model with noise on every tensor, so that no value is 0 or 1; its weights."""
    rng = np.random.default_rng(0)
    model.set_state_dict(
        {
            name: tensor.numpy() + rng.normal(0.02, 0.02, tensor.shape).astype('float32')
            for name, tensor in model.state_dict().items()
        }
    )
    model.eval()
    return model, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture
def ours():
    """{kind: (nano model, its weights)}"""
    models = {'autoencoder': models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=True)}
    for kind in ('pooled', 'token', 'probe'):
        models[kind] = models_zoo.classifier(
            'vit_nano_patch4', num_classes=5, global_pool=kind == 'pooled'
        )
    models['probe'].probe()
    return {kind: perturbed(model) for kind, model in models.items()}


def write_all(ours, folder):
    """Files for the producers: {format_kind: path}."""
    flags = {'norm_pix_loss': True}
    files = {}
    for kind, (_, model) in ours.items():
        for to, name in (
            ('torch', f'torch_{kind}.pth'),
            ('timm', f'timm_{kind}.safetensors'),
            ('hf', f'hf_{kind}'),
            ('mmpretrain', f'mmpretrain_{kind}.pth'),
        ):
            about = {
                'args': {'model': f'torch_{kind}', 'rates': [1, 2.5], 'lr': None}
                if to == 'torch'
                else flags,
                'rate': np.float64(0.5),
                'licence': 'made for tests',
            }
            if (to, convert.names.kind(model)) not in convert.REFUSED:
                convert.write(
                    folder / name, {'model': model, **about}, to, models_sizes.size_of(model)
                )
                files[f'{to}_{kind}'] = str(folder / name)
    encoder = {
        name: array
        for name, array in ours['autoencoder'][1].items()
        if not name.startswith(('decoder', 'mask'))
    }
    convert.write(folder / 'hf_encoder', {'model': encoder}, 'hf', models_sizes.size_of(encoder))
    return files | {'hf_encoder': str(folder / 'hf_encoder')}


def outputs(ours, images, noise):
    """The expected outputs of the producers' models from our files, by name of the file."""
    images, noise = paddle.to_tensor(images), paddle.to_tensor(noise)
    network = ours['autoencoder'][0]
    loss, pred, _ = network(images, 0.75, noise)
    latent, _, _ = network.forward_encoder(images, 0.75, noise)
    whole, _, _ = network.forward_encoder(images, 0.0, noise.sort(axis=1))
    scores = {kind: ours[kind][0](images) for kind in ('pooled', 'token', 'probe')}
    return {
        'hf_autoencoder': pred,
        'hf_autoencoder_loss': loss,
        'hf_encoder': latent,
        'hf_token': scores['token'],
        'timm_pooled': scores['pooled'],
        'timm_token': scores['token'],
        'timm_autoencoder': whole[:, 0],
        'mmpretrain_autoencoder': pred,
        **{f'mmpretrain_{kind}': value for kind, value in scores.items()},
    }


@paddle.no_grad()
def test_the_producers_load_our_files_strictly_and_compute_what_we_compute(
    reference, ours, tmp_path
):
    rng = np.random.default_rng(1)
    images = rng.normal(size=[2, 3, 32, 32]).astype('float32')
    noise = rng.random([2, 64]).astype('float32')
    theirs = reference('convert', images=images, noise=noise, **write_all(ours, tmp_path))
    expected = {name: tensor.numpy() for name, tensor in outputs(ours, images, noise).items()}
    assert expected.keys() == {name for name in theirs if ':' not in name}
    errors = {
        name: np.abs(value - theirs[name]).max() / max(1, np.abs(value).max())
        for name, value in expected.items()
    }
    report('largest difference to the producers', **errors)
    assert max(errors.values()) < 1e-5
    for kind in ours:
        read = {
            name.partition(':')[2]: array
            for name, array in theirs.items()
            if name.startswith(f'torch_{kind}:')
        }
        for name, array in convert.renamed(ours[kind][1], 'torch')[0].items():
            np.testing.assert_array_equal(read.pop(name), array)
        assert not read
