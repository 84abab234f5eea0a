"""Properties that hold for any number that a user may choose, tried by hypothesis."""

import argparse
import contextlib
import io
import itertools

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main_finetune
import main_infer
import main_linprobe
import main_pretrain
import models_mae
import models_zoo
from util import convert, weights
from util.data import loader
from util.weights import paddle_file, safetensors_file, torch_file

settings.register_profile(
    'ours',
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile('ours')
SMALL = st.integers(1, 12)


@given(
    samples=st.integers(1, 200),
    batch=SMALL,
    world=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 9),
    first=st.integers(0, 30),
)
def test_an_epoch_has_each_index_once_whatever_the_world_and_the_start(
    samples, batch, world, seed, epoch, first
):
    ranks = [
        list(loader.Order(samples, batch, seed, epoch, rank, world, first)) for rank in range(world)
    ]
    whole = list(loader.Order(samples, batch * world, seed, epoch, 0, 1))
    # the order is the same for any number of processes and any first iteration
    assert [[*itertools.chain(*parts)] for parts in zip(*ranks)] == whole[first:]
    seen = [index for keys in whole for _, index in keys]
    assert len(set(seen)) == len(seen) == samples // (batch * world) * batch * world
    assert all(0 <= i < samples for i in seen)


@given(samples=st.integers(0, 200), world=st.integers(1, 9))
def test_an_evaluation_has_each_index_once(samples, world):
    seen = [
        index for rank in range(world) for index in loader.evaluation_order(samples, rank, world)
    ]
    assert sorted(seen) == list(range(samples))


@given(
    images=st.integers(1, 3), ratio=st.floats(0, 0.98), seed=st.integers(0, 999), ties=st.booleans()
)
def test_a_mask_keeps_the_patches_of_least_noise_and_its_inverse_puts_them_back(
    images, ratio, seed, ties
):
    patches, keep = MODEL.num_patches, int(MODEL.num_patches * (1 - ratio))
    noise = np.random.default_rng(seed).random([images, patches], dtype='float32')
    noise = (noise > 0.5).astype('float32') if ties else noise  # a mask, which is noise as well
    kept, mask, restore = (
        part.numpy() for part in MODEL.random_masking(images, ratio, paddle.to_tensor(noise))
    )
    for row in range(images):
        least = np.argsort(noise[row], kind='stable')[:keep]
        assert (
            set(kept[row]) == set(np.flatnonzero(mask[row] == 0)) == set(least)
            and mask[row].sum() == patches - keep
        )
        shuffled = np.concatenate([kept[row], np.full(patches - keep, -1)])
        assert (shuffled[restore[row]] == np.where(mask[row] == 1, -1, np.arange(patches))).all()


MODEL = models_zoo.autoencoder('mae_vit_nano_patch4', in_chans=1)


@given(
    images=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.sampled_from([1, 3, 5]),
)
@settings(max_examples=15)
def test_pictures_cut_into_patches_and_put_together_are_the_same(images, height, width, channels):
    model = models_mae.MaskedAutoencoderViT(
        (4 * height, 4 * width),
        4,
        channels,
        embed_dim=8,
        depth=1,
        num_heads=1,
        decoder_embed_dim=8,
        decoder_depth=1,
        decoder_num_heads=1,
    )
    pictures = paddle.randn([images, channels, 4 * height, 4 * width])
    patches = model.patchify(pictures)
    assert patches.shape == [images, height * width, 16 * channels]
    by_hand = (
        pictures.numpy().reshape(images, channels, height, 4, width, 4).transpose(0, 2, 4, 3, 5, 1)
    )
    assert (patches.numpy().reshape(by_hand.shape) == by_hand).all()
    assert (model.unpatchify(patches) == pictures).all()


NAMES = st.text(st.characters(blacklist_categories=['Cs', 'Cc']), min_size=1, max_size=12)
ARRAYS = st.tuples(
    st.sampled_from(
        ['float64', 'float32', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool']
    ),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 999),
)


def array(kind, shape, seed):
    return (np.random.default_rng(seed).normal(size=shape) * 9).astype(kind)


@given(tree=st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5))
@pytest.mark.parametrize(
    'write',
    [
        paddle_file.write,
        torch_file.write,
        lambda path, tree: safetensors_file.write(path, tree, {}),
    ],
    ids=['paddle', 'torch', 'safetensors'],
)
def test_what_a_writer_writes_reads_back(write, tree, tmp_path):
    tree = {name: np.asarray(array(*said)) for name, said in tree.items() if name != '__metadata__'}
    write(tmp_path / 'x', tree)
    read = weights.read(tmp_path / 'x')
    assert read.keys() == tree.keys()
    for name, expected in tree.items():
        assert read[name].dtype == expected.dtype and read[name].shape == expected.shape, name
        assert read[name].tobytes() == expected.tobytes(), name


@given(
    depth=st.integers(1, 3),
    width=st.sampled_from([4, 8, 12]),
    decoder=st.sampled_from([4, 8]),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=10)
@pytest.mark.parametrize('to', ['paddle', 'torch', 'hf', 'mmpretrain'])
def test_an_autoencoder_of_any_size_survives_the_way_there_and_back(
    to, depth, width, decoder, channels, tmp_path
):
    model = models_mae.MaskedAutoencoderViT(
        16,
        4,
        channels,
        embed_dim=width,
        depth=depth,
        num_heads=1,
        decoder_embed_dim=decoder,
        decoder_depth=depth,
        decoder_num_heads=1,
    )
    state = {
        name: (tensor + paddle.randn(tensor.shape)).numpy()
        for name, tensor in model.state_dict().items()
    }
    file = tmp_path / ('x.safetensors' if to == 'hf' else 'x')
    convert.write(file, {'model': state}, to)
    read = convert.read(file)[0]['model']
    assert read.keys() == state.keys()
    for name, expected in state.items():
        np.testing.assert_array_equal(read[name], expected, err_msg=name)


FLAGS = [
    (program, action)
    for program in (main_pretrain, main_finetune, main_linprobe, main_infer)
    for action in program.PARSER._actions
    if action.option_strings and not isinstance(action, argparse._HelpAction)
]
NEEDED = {'--data_path': 'x', '--img_path': 'x', '--resume': 'x'}


@given(
    which=st.sampled_from(FLAGS),
    value=st.one_of(
        st.sampled_from(
            [
                '',
                'x',
                '-1',
                'nan',
                'inf',
                '-inf',
                '1e999',
                '0x10',
                '1,5',
                '--',
                '\n',
                "';",
                '%s',
                '{}',
            ]
        ),
        st.text(st.characters(blacklist_categories=['Cs']), max_size=8),
    ),
)
@settings(max_examples=400)
def test_any_value_of_any_flag_is_taken_or_refused_in_one_line(which, value):
    program, action = which
    flag = action.option_strings[-1]
    needed = [
        word
        for name, given in NEEDED.items()
        for word in (name, given)
        if name != flag and any(name in other.option_strings for other in program.PARSER._actions)
    ]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            program.PARSER.parse_args([*needed, f'{flag}={value}'])
        except SystemExit as stopped:
            assert stopped.code == 2
            error = said.getvalue().rpartition(': error: ')[2]
            assert flag in error
            assert 'Traceback' not in said.getvalue()
