"""Recipes against their programs: flags, models, batches, rates, and the commands of the docs."""

import functools
import re
import subprocess
import sys
from types import SimpleNamespace

import paddle
import pytest
from conftest import ROOT
from paddleseg.cvlibs import SegBuilder
from test_readme import DOCS, DOORS, LAUNCHER, launched, parser_of, read, table

import det.config
import det.flags
import main_pretrain
import models_zoo
import recipes
from recipes import ALL, RECIPES, ablations, command, cost, find, wrapped
from recipes.recipe import UNACCUMULATED
from seg import flags
from util import optim
from util.errors import InputError

PUBLIC = re.compile('ade20k|_coco')  # in the names of configs for public data
RUNNABLE = [recipe for recipe in ALL if recipe.program]
# {recipe: (effective batch, rate)} of the paper, the official documents and UM-MAE's Makefile
PUBLISHED = {
    r'(ablation_(finetune|partial_.*)|transfer_.*)': (1024, 4e-3),
    r'ablation_linprobe': (16384, 6.4),
    r'ablation_.*': (4096, 2.4e-3),
    r'(?!mmpretrain).*pretrain_.*': (4096, 2.4e-3),
    r'scratch_.*': (4096, 1.6e-3),
    r'.*linprobe_.*': (16384, 6.4),
    r'(?!um_mae).*finetune_vit_base.*': (1024, 2e-3),
    r'.*finetune_vit_(large|huge).*': (1024, 4e-3),
    r'um_mae_finetune_.*': (1024, 2e-3),
    r'segment_.*': (16, 1e-4),
    r'detect_gfl_.*': (16, 1e-4),
    r'detect_mask_rcnn_.*': (64, 8e-5),
    r'detect_vitdet_.*': (64, 1e-4),
}
# All parameters, with position tables; a file has 4 bytes for each parameter
PARAMETERS = {
    'mae_vit_base_patch16': 111_907_840,
    'mae_vit_large_patch16': 329_541_888,
    'mae_vit_huge_patch14': 657_074_508,
    'vit_base_patch16': 86_567_656,
    'vit_large_patch16': 304_326_632,
    ('vit_huge_patch14', 224): 632_045_800,
    ('vit_huge_patch14', 448): 633_028_840,
}
ABLATED_DECODER = re.compile('--(decoder|encoder_mask_tokens|pca_target)')
# Millions of trained values, as in UM-MAE's models; PVT's position table is trained in fine-tuning
MILLIONS = {
    'mae_vit_base_patch16_dec512d2b': 92.74,
    'mae_pvt_small_256': 28.52,
    'mae_swin_tiny_256': 35.77,
    'mae_swin_large_256': 223.70,
    'pvt_small_256': 21.28 + 0.26,
    'swin_tiny_256': 28.27,
    'swin_large_256': 196.47,
}


@pytest.fixture(scope='module', autouse=True)
def programs():
    """`seg.train` of this folder, and configs that are named from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.chdir(ROOT)
        yield


def parsed(recipe, *arguments):
    """The published run's flags, by its program's own parser."""
    words = command(recipe, *arguments)
    return parser_of(recipe.program).parse_args(words[words.index(recipe.program) + 1 :])


def built(recipe, args):
    """The recipe's model without values, which would take time and memory."""
    with paddle.LazyGuard():
        if recipe.program.startswith('demo/'):
            return None
        if recipe.program.startswith('seg/'):
            return flags.build(SegBuilder(flags.configuration(args.config)), 'model', args.config)
        if recipe.program.startswith('det/'):
            values = det.config.load(args.config, args.opt)
            return det.config.build(det.flags.without_pretrained(values), args.config)
        if recipe.program == 'main_pretrain.py':
            model = autoencoder(**{name: getattr(args, name) for name in MODEL})
            main_pretrain.sampler(args, model)  # it refuses masks that do not fit the model
            return model
        return classifier(
            args.model,
            img_size=args.input_size,
            num_classes=args.nb_classes,
            global_pool=args.global_pool,
        )


classifier = functools.cache(models_zoo.classifier)  # many recipes have the same
# The flags that main_pretrain.py makes its model of
MODEL = (
    'model fix_um_positions input_size patch_size in_chans norm_pix_loss vis_mask_ratio '
    'decoder_depth decoder_dim encoder_mask_tokens pca_target'
).split()


@functools.cache
def autoencoder(**flags_of_model):
    return main_pretrain.autoencoder(SimpleNamespace(**flags_of_model))


def test_names_are_unique():
    assert len(RECIPES) == len(ALL)


@pytest.mark.parametrize('recipe', RUNNABLE, ids=lambda recipe: recipe.name)
def test_its_program_takes_the_flags_and_builds_the_model(recipe):
    args = parsed(recipe)
    model = built(recipe, args)
    if recipe.model in MILLIONS:
        trained = sum(
            parameter.size for parameter in model.parameters() if not parameter.stop_gradient
        )
        assert trained / 1e6 == pytest.approx(MILLIONS[recipe.model], abs=0.01)
    elif recipe.data == 'ImageNet-1K' and 'simmim' not in recipe.model:
        if ABLATED_DECODER.search(recipe.flags):
            return  # its size is that of test_ablations.py
        total = sum(parameter.size for parameter in model.parameters())
        assert total == PARAMETERS.get(
            recipe.model, PARAMETERS.get((recipe.model, args.input_size))
        )


@pytest.mark.parametrize(
    'recipe', [recipe for recipe in RUNNABLE if recipe.accum_iter], ids=lambda recipe: recipe.name
)
def test_effective_batch_and_rate_are_the_published_ones(recipe):
    batch, rate = next(
        value for pattern, value in PUBLISHED.items() if re.fullmatch(pattern, recipe.name)
    )
    assert recipe.effective_batch == batch
    if recipe.program == 'seg/train.py':
        config = flags.configuration(recipe.flag('--config'))
        assert config.batch_size == recipe.batch_size
        assert config.dic['lr_scheduler']['learning_rate'] == rate
    elif recipe.program == 'det/train.py':
        values = det.config.load(recipe.flag('-c'))
        assert values['TrainReader']['batch_size'] == recipe.batch_size
        assert values['LearningRate']['base_lr'] == rate
        assert values['epoch'] == (100 if 'vit_' in recipe.name else 25)
    else:
        args = parsed(recipe)
        assert optim.absolute_lr(args.lr, args.blr, recipe.effective_batch) == pytest.approx(rate)
        assert args.batch_size * args.accum_iter * recipe.devices == batch
        if recipe.program == 'main_finetune.py':
            # the paper's tables 11 and 9
            assert args.beta2 == (0.95 if recipe.name.startswith('scratch_') else 0.999)


@pytest.mark.parametrize('recipe', ALL, ids=lambda recipe: recipe.name)
def test_what_a_recipe_begins_from_is_a_recipe_or_a_file(recipe):
    start = recipe.checkpoint
    assert start in RECIPES or re.fullmatch(
        r'[\w.-]+\.(pth|pd)( of mae_paddle_pretrain_vit_base)?|', start
    )
    assert not recipe.file or start in RECIPES
    if start in RECIPES:
        # such as mae_vit_base_patch16_dec512d2b for vit_base_patch16
        encoder = recipe.model.rpartition(', ')[2]
        assert f'_{encoder}' in f'_{RECIPES[start].model}'
        assert RECIPES[start].program == 'main_pretrain.py' or recipe.program in UNACCUMULATED


def value(words, flag):
    return words[words.index(flag) + 1] if flag in words else None


@pytest.mark.parametrize(
    'devices, batch_size, accum_iter',
    [(1, 64, '64'), (8, None, '8'), (64, None, None), (16, 256, None)],
)
def test_accumulation_keeps_the_effective_batch(devices, batch_size, accum_iter):
    words = command(find('pretrain_vit_base'), devices, batch_size)
    assert value(words, '--accum_iter') == accum_iter
    assert value(words, '--batch_size') == str(batch_size or 64)


@pytest.mark.parametrize(
    'name, devices, batch_size',
    [
        ('pretrain_vit_base', 3, None),
        ('pretrain_vit_base', 8, 1024),
        ('finetune_vit_base', 8, 100),
        ('segment_vit_base', 3, None),
        ('segment_vit_base', 4, 2),
        ('detect_gfl_swin_tiny', 3, None),
        ('detect_gfl_swin_tiny', 4, 2),
        ('pretrain_vit_base', 12, None),
    ],
)
def test_what_cannot_keep_it_is_one_line(name, devices, batch_size):
    with pytest.raises(InputError) as error:
        command(find(name), devices, batch_size)
    assert (
        name in str(error.value)
        and str(devices) in str(error.value)
        and '\n' not in str(error.value)
    )


def test_the_launcher_gets_as_many_devices_as_asked_for():
    recipe = find('pretrain_vit_base')
    assert command(recipe, 1)[:2] == ['python', 'main_pretrain.py']
    assert command(recipe, 4)[:5] == ['python', '-m', LAUNCHER, '--gpus', '0,1,2,3']
    words = command(recipe, 16)
    assert value(words, '--nnodes') == '2' and '--gpus' not in words
    assert value(command(recipe, 16, machine=4), '--nnodes') == '4'


def test_a_segmentors_devices_share_its_batch():
    recipe = find('segment_vit_base')
    assert (
        value(command(recipe, 4), '--batch_size') == '4'
        and value(command(recipe, 8), '--batch_size') is None
    )


def test_a_detectors_devices_share_its_batch():
    recipe = find('detect_gfl_swin_tiny')
    words = command(recipe, 4)
    start = words.index('det/train.py')
    assert words[start + 1 : start + 3] == ['-o', 'TrainReader.batch_size=4']
    args = parser_of(recipe.program).parse_args(words[start + 1 :])
    assert args.opt == ['TrainReader.batch_size=4', 'MAESwin.pretrained=CHECKPOINT']
    assert value(command(recipe, 8), '-o') == 'MAESwin.pretrained=CHECKPOINT'
    assert not recipe.evaluates


def test_what_is_taken_over_has_a_figure_but_no_command():
    taken = [recipe for recipe in ALL if recipe.program is None]
    assert {'simmim_vit_base_800e_224_224', 'simmim_swin_large_800e_192_224'} <= {
        recipe.name for recipe in taken
    }
    for recipe in taken:
        assert recipe.figures
        with pytest.raises(InputError, match='no program here runs it'):
            command(recipe)


def test_a_band_is_two_deviations_or_the_programs():
    recipe = find('finetune_vit_base')
    # two deviations, 2 x 0.08, are less than 0.3
    assert recipe.band(recipe.figures[0]) == pytest.approx((83.57 - 0.3, 83.57 + 0.3))
    assert recipe.band(recipes.Figure(80, 'somebody', spread=0.4)) == pytest.approx((79.2, 80.8))
    probe = find('linprobe_vit_base')
    assert probe.band(probe.figures[0]) == pytest.approx((66.8, 68.8))


def test_long_commands_are_wrapped_without_tearing_a_flag_from_its_value():
    words = command(find('finetune_vit_base'), 8)
    lines = wrapped(words, 80).split('\\\n')
    assert max(map(len, lines)) <= 80 and ' '.join(lines).split() == words
    assert all(line.split()[-1][:2] != '--' or line.split()[-1] == '--dist_eval' for line in lines)


def test_the_program_lists_all():
    listing = subprocess.run(
        [sys.executable, '-m', 'recipes'], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert listing.returncode == 0 and all(f'\n{name} ' in listing.stdout for name in RECIPES)
    line = next(
        line for line in listing.stdout.splitlines() if line.startswith('finetune_vit_base ')
    )
    assert re.split(r'\s{2,}', line) == [
        'finetune_vit_base',
        'vit_base_patch16',
        '100',
        '1024',
        '83.57 ± 0.08 acc1 (official rerun, 4 seeds)',
        '230 h, V100',
    ]


def test_who_reads_only_the_first_lines_gets_no_traceback():
    program = [sys.executable, '-m', 'recipes']
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as listing:
        listing.stdout.close()
        assert (listing.stderr.read(), listing.wait(60)) == (b'', 141)


def devices_of(words):
    """The number of processes by the launcher's flags; 8 on each machine without such flags."""
    gpus = value(words, '--gpus')
    return int(value(words, '--nnodes') or 1) * (
        len(gpus.split(',')) if gpus else 8 if '--nnodes' in words else 1
    )


def commands(name, monkeypatch):
    """The training and evaluation commands of a page: program, words behind it, devices."""
    config = re.search(r'`((?:seg|det)/configs/\S+(?:160k|_coco)\.yml)`', read(name).text)
    for words in read(name).commands:
        devices = devices_of(words)
        if words[:3] == ['python', '-m', LAUNCHER]:
            words = ['python', *launched([word for word in words[3:] if word != '&'], monkeypatch)]
        if '--help' not in words and words[1] in {recipe.program for recipe in RUNNABLE}:
            yield words[1], [config[1] if word == 'CONFIG' else word for word in words[2:]], devices


def comparable(args):
    """Flags without those that name the reader's own files."""
    names = vars(args) | {
        'finetune': '',
        'resume': '',
        'resume_model': None,
        'opts': None,
        'opt': None,
        'model_path': None,
        'num_workers': None,
    }
    return SimpleNamespace(**names)


@pytest.mark.parametrize('name', [*DOORS, *DOCS])
def test_every_whole_command_of_the_documentation_is_a_recipes(name, monkeypatch):
    seen = set()
    for program, words, devices in commands(name, monkeypatch):
        own = 'demo/' in ' '.join(words)
        own |= any(word.startswith(('output', 'WEIGHTS')) for word in words if word != 'output')
        toy = any('/configs/' in word and not PUBLIC.search(word) for word in words)
        toy |= 'own.yml' in words
        if '...' in words or own or toy:
            continue
        args = parser_of(program).parse_args(words)
        batch = args.__dict__.get('batch_size')
        same = [
            recipe
            for recipe in RUNNABLE
            if recipe.program == program
            and fits(recipe, devices, batch)
            and comparable(parsed(recipe, devices, batch)) == comparable(args)
        ]
        assert same, f'{name}: no recipe makes {program} {" ".join(words)}'
        seen |= {recipe.name for recipe in same}
    if name in DOORS:
        runs = {'finetune_vit_base', 'linprobe_vit_base', 'eval_vit_base', 'segment_vit_base'}
        assert runs <= seen
        assert any(recipe.endswith('pretrain_vit_base') for recipe in seen)


def fits(recipe, devices, batch):
    try:
        command(recipe, devices, batch)
    except InputError:
        return False
    return True


def test_shortened_commands_keep_the_effective_batch(monkeypatch):
    found = 0
    for program, words, devices in commands('docs/training.md', monkeypatch):
        if '...' in words and '--batch_size' in words:
            global_batch = (
                int(value(words, '--batch_size')) * int(value(words, '--accum_iter') or 1) * devices
            )
            assert global_batch in {
                recipe.effective_batch for recipe in RUNNABLE if recipe.program == program
            }, words
            found += 1
    assert found


def test_the_table_of_um_mae_is_that_of_its_recipes():
    text = read('docs/models.md').text
    corner = re.search(r'^\| ([^|]*`--model`) \|', text, re.M)[1]
    rows = [[cell.strip('`') for cell in row] for row in table(text, corner)[1:]]
    starts = [recipe for recipe in ALL if recipe.name.startswith('um_mae_pretrain')]
    assert len(rows) == len(starts) == 7
    for (model, flags_, epochs, batch, classifier, tuning, accuracy), start in zip(rows, starts):
        tuned = next(recipe for recipe in ALL if recipe.checkpoint == start.name)
        epochs, batch, tuning = (cell.split(', ') for cell in (epochs, batch, tuning))
        words = (
            f'--data_path DATA --model {model} --batch_size {batch[0]} --accum_iter {batch[1]} '
            f'--epochs {epochs[0]} --warmup_epochs {epochs[1]} --blr 1.5e-4 --weight_decay 0.05 '
            f'{flags_}'
        )
        written = main_pretrain.PARSER.parse_args(words.split())
        assert vars(written) | {'token_size': None} == vars(parsed(start)) | {'token_size': None}
        assert classifier == tuned.model and float(accuracy) == tuned.figures[0].value
        assert list(map(float, tuning)) == [
            float(tuned.flag('--layer_decay')),
            float(tuned.flag('--drop_path')),
            tuned.batch_size,
            tuned.accum_iter,
        ]


def test_every_result_of_table_1_and_figure_9_has_its_recipe():
    """Each choice once, and the flags alone differ from the usual pre-training."""
    base = vars(parsed(find('ablation_base')))
    for what, choices in ablations.CHOICES.items():
        usual = set(ablations.ABLATIONS[what]) - set(choices) - {'dVAE tokens'}
        assert len(usual) == 1, what
        assert ablations.ABLATIONS[what][usual.pop()] == (84.9, 73.5)
        for choice, made in choices.items():
            recipe = find(f'ablation_{made.name}')
            assert [figure.value for figure in recipe.figures] == [
                *ablations.ABLATIONS[what][choice]
            ]
            args = vars(parsed(recipe))
            changed = {f'--{flag}' for flag in args if args[flag] != base[flag]}
            asked = {word for word in made.flags.split() if word.startswith('--')}
            assert changed == asked | ({'--epochs'} if made.length != 1 else set())
    for blocks, accuracy in ablations.PARTIAL.items():
        if 0 < blocks < 24:
            recipe = find(f'ablation_partial_{blocks:g}')
            assert parsed(recipe).freeze_blocks == 24 - blocks
            assert recipe.figures[0].value == accuracy


def test_the_costs_of_ablations_are_those_of_the_paper():
    """Mask tokens in the encoder take 3.3 times the operations (table 1c), 197 tokens not 50."""
    hours = {
        name: cost.estimated_hours(find(f'ablation_{name}'))
        for name in ('base', 'encoder_mask_tokens', 'depth_1', 'partial_12', 'finetune')
    }
    assert hours['encoder_mask_tokens'] / hours['base'] == pytest.approx(3.3, abs=0.1)
    # table 2: 15.4 and 11.6 hours on the same machine
    assert hours['depth_1'] / hours['base'] == pytest.approx(11.6 / 15.4, abs=0.03)
    assert hours['partial_12'] / hours['finetune'] == pytest.approx(2 / 3)


def test_published_detectors_have_pairs_of_figures_and_gfl_has_none():
    found = [recipe for recipe in ALL if recipe.data == 'COCO']
    for recipe in found:
        pair = [figure.metric for figure in recipe.figures]
        assert pair == ([] if 'gfl' in recipe.name else ['box AP', 'mask AP'])
        assert recipe.program or recipe.figures
    unverified = {recipe.name for recipe in found if 'unverified' in ' '.join(recipe.notes)}
    assert {'detect_gfl_swin_tiny', 'detect_mask_rcnn_vit_base'} <= unverified
    paper = {what: values for _, what, values in ablations.TRANSFER}
    for size, column in (('base', 0), ('large', 1)):
        box, mask = find(f'detect_mask_rcnn_vit_{size}').figures
        assert box.value == paper['COCO with Mask R-CNN, box AP'][column]
        assert mask.value == paper['COCO with Mask R-CNN, mask AP'][column]


def test_the_table_of_detectors_is_that_of_their_recipes():
    _, *rows = table(read('docs/detect.md').text, 'Mask R-CNN, COCO')
    recipes_of_rows = [
        recipe for recipe in ALL if recipe.name.startswith('detect_') and recipe.figures
    ]
    shown = [tuple(map(float, row[1:3])) for row in rows]
    assert shown == [tuple(figure.value for figure in recipe.figures) for recipe in recipes_of_rows]


def test_the_table_of_segmentors_is_that_of_their_recipes():
    rows = re.findall(r'^\| [^|]+ \| (48\.\d+) \|', read('docs/segment.md').text, re.M)
    assert list(map(float, rows)) == [
        find(recipe).figures[0].value for recipe in ('segment_vit_base', 'eval_segment_vit_base_ms')
    ]
