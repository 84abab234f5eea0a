"""Frozen features: each method against a calculation by hand, and the program as a user runs it."""

import json

import numpy as np
import paddle
import pytest
from conftest import assert_same_tree, classifier, pixels
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import engine_frozen
import main_frozen
import main_pretrain
import models_probes
import models_zoo
from engine_frozen import Split, Training
from util.accuracies import Figure, table
from util.data import rows, subset
from util.errors import InputError

RNG = np.random.default_rng(0)
TINY = '--device cpu --num_workers 0 --batch_size 8'.split()
QUICK = '--steps 3 --rates .01 .001 --C .1 --queries 4 --k 5 9 --probe_batch_size 16'.split()


def clouds(images, width, classes=5, seed=1):
    """Features around a centre of each class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes)
    centres = np.random.default_rng(0).normal(size=[classes, width])
    features = centres[labels] + rng.normal(size=[images, width]) * 1.5
    return Split(features.astype('float32'), labels)


# nearest neighbours


def votes_by_hand(train, val, count, temperature):
    """The accuracy in float64, one validation image at a time."""
    right = 0
    for feature, label in zip(val.features.astype('float64'), val.labels):
        keys = train.features.astype('float64')
        cosines = keys @ feature / np.linalg.norm(keys, axis=1) / np.linalg.norm(feature)
        votes = {}
        for place in np.argsort(-cosines)[:count]:
            weight = np.exp(cosines[place] / temperature)
            votes[train.labels[place]] = votes.get(train.labels[place], 0) + weight
        right += max(votes, key=votes.get) == label
    return 100 * right / len(val.labels)


@pytest.mark.parametrize('temperature', [0.07, 1.0])
def test_knn_is_that_of_a_search_by_hand(monkeypatch, temperature):
    monkeypatch.setattr(engine_frozen, 'KEYS', 30)  # several blocks, the last one smaller
    monkeypatch.setattr(engine_frozen, 'QUERIES', 16)
    train, val = clouds(100, 12), clouds(40, 12, seed=2)
    found = engine_frozen.knn(train, val, [1, 10, 50, 100, 101], temperature)
    expected = {k: votes_by_hand(train, val, k, temperature) for k in (1, 10, 50, 100)}
    assert found == pytest.approx(expected) and 101 not in found
    assert len(set(expected.values())) > 1


def test_a_near_neighbour_weighs_more_than_two_far_ones():
    train = Split(np.eye(3, dtype='float32')[[0, 1, 1]] + np.float32(0.4), np.array([0, 1, 1]))
    val = Split(np.array([[3, 1, 0]], 'float32'), np.array([0]))
    assert engine_frozen.knn(train, val, [3], 0.07) == {3: 100}
    assert engine_frozen.knn(train, val, [3], 10.0) == {3: 0}


# classifiers


def test_logistic_regression_is_scikit_learns():
    train, val = clouds(100, 12), clouds(60, 12, seed=2)
    scaler = StandardScaler().fit(train.features)
    expected = []
    for strength in (1e-4, 0.1, 10):
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(scaler.transform(train.features), train.labels)
        expected.append(100 * model.score(scaler.transform(val.features), val.labels))
    found = engine_frozen.logistic(*engine_frozen.standardised(train, val), [1e-4, 0.1, 10])
    assert found == [(pytest.approx(acc1), True) for acc1 in expected]
    assert len(set(expected)) > 1


def test_logistic_regression_that_has_not_converged_says_so(monkeypatch):
    monkeypatch.setattr(engine_frozen, 'STEPS', 1)
    assert engine_frozen.logistic(clouds(50, 4), clouds(20, 4, seed=2), [1.0])[0][1] is False


def test_a_linear_probe_takes_the_steps_of_adam():
    """Its scores after some steps are those of NumPy: cross-entropy, Adam, half a cosine."""
    train = clouds(12, 4, classes=3)
    how = Training(steps=5, batch_size=6, seed=3)
    heads = []

    def make():
        heads.append(models_probes.linear(4, 3))
        return heads[-1]

    paddle.seed(3)
    first = models_probes.linear(4, 3)
    W = np.vstack([first.weight.numpy(), first.bias.numpy()]).astype('float64')
    m = v = 0
    order = []
    for epoch in range(3):
        order += [*np.random.default_rng([3, epoch]).permutation(12).reshape(2, 6)]
    for step, places in enumerate(order[:5]):
        x = np.hstack([train.features[places], np.ones([6, 1])]).astype('float64')
        scores = np.exp(x @ W)
        error = scores / scores.sum(1, keepdims=True) - np.eye(3)[train.labels[places]]
        gradient = x.T @ error / 6
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.02 * 0.5 * (1 + np.cos(np.pi * step / 5))
        t = step + 1
        W -= rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    engine_frozen.probes(train, train, make, [0.02], how)
    np.testing.assert_allclose(heads[0].weight.numpy(), W[:4], rtol=0, atol=2e-6)
    np.testing.assert_allclose(heads[0].bias.numpy(), W[4], rtol=0, atol=2e-6)


@pytest.mark.parametrize('kind', ['linear', 'attentive'])
def test_side_by_side_a_probe_ends_as_it_does_alone(kind):
    shape = [4] if kind == 'linear' else [6, 4]
    features = RNG.normal(size=[20, *shape]).astype('float32')
    train = Split(features, np.arange(20) % 3)
    heads = []

    def make():
        head = models_probes.linear(4, 3) if kind == 'linear' else models_probes.Attentive(4, 3, 2)
        heads.append(head)
        return head

    how = Training(steps=6, batch_size=8, seed=0)
    together = engine_frozen.probes(train, train, make, [0.1, 1e-3, 1e30], how)
    alone = [engine_frozen.probes(train, train, make, [rate], how)[0] for rate in (0.1, 1e-3)]
    assert together[:2] == alone
    for number in (0, 1):
        states = [heads[place].state_dict() for place in (number, 3 + number)]
        assert_same_tree(*({key: value.numpy() for key, value in x.items()} for x in states))


def test_the_attentive_probe_is_cross_attention_by_hand():
    """Each query's softmax over the patches weighs its own part of the values."""
    N, L, D, M = 3, 5, 8, 4
    probe = models_probes.Attentive(D, 2, queries=M)
    x = RNG.normal(size=[N, L, D])
    queries, value = probe.queries.numpy() * 30, probe.value.weight.numpy()
    probe.queries.set_value(queries)
    expected = np.zeros([N, D])
    for image in range(N):
        values = x[image] @ value  # [L, D]
        for m in range(M):
            scores = np.exp(x[image] @ queries[m] / np.sqrt(D))
            part = slice(m * D // M, (m + 1) * D // M)
            expected[image, part] = (scores / scores.sum()) @ values[:, part]
    found = probe.pool(paddle.to_tensor(x.astype('float32'))).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert sum(p.size for p in probe.parameters()) == M * D + D * D + D * 2 + 2


# parts of the labels


def test_a_part_depends_on_its_seed_alone_and_lies_within_a_larger_one():
    labels = np.repeat([0, 1, 4], [30, 200, 7])
    for asked, counts in {'10%': [3, 20, 1], '1%': [1, 2, 1], '5': [5, 5, 5]}.items():
        places = subset.choose(labels, asked, seed=3)
        assert [int((labels[places] == label).sum()) for label in (0, 1, 4)] == counts
        assert (np.diff(places) > 0).all()
        np.testing.assert_array_equal(places, subset.choose(labels, asked, seed=3))
        assert places.tolist() != subset.choose(labels, asked, seed=4).tolist()
    small, large = (set(subset.choose(labels, asked, seed=3)) for asked in ('1%', '10%'))
    assert small < large
    # other images of other classes change nothing
    others = subset.choose(np.concatenate([labels[:30], [7, 7]]), '10%', seed=3)
    assert set(others[:3]) == {place for place in large if place < 30}
    assert subset.choose(labels, 'all', seed=3).tolist() == list(range(237))


# the program


@pytest.fixture
def judge(digits, encoder, tmp_path):
    """judge('--flag', value, ...) -> what the program writes into frozen.json."""

    def judge(*flags, out=tmp_path / 'out'):
        flags = [*TINY, *QUICK, '--data_path', digits, '--output_dir', out, *flags]
        main_frozen.main(main_frozen.PARSER.parse_args(list(map(str, flags))))
        assert [path.name for path in out.iterdir()] == ['frozen.json']
        return json.loads((out / 'frozen.json').read_text())

    return judge


def by_name(figures, **wanted):
    return [
        figure['acc1']
        for figure in figures
        if all(figure[name] == value for name, value in wanted.items())
    ]


@paddle.no_grad()
def test_the_features_are_those_of_a_direct_call(judge, encoder, digits, tmp_path):
    """k-NN by hand on the class token and the mean, of the output and of block 2."""
    probe = tmp_path / 'probe.pd'
    model = models_zoo.classifier('vit_nano_patch4', img_size=16, in_chans=1, num_classes=3)
    models_zoo.start_from(model, str(encoder))
    paddle.save({'model': model.state_dict()}, str(probe))
    model = classifier(probe, global_pool=False)
    splits = []
    for split in ('train', 'val'):
        files = sorted((digits / split).glob('*/*'))
        outputs = [model.block_features(pixels(file)) for file in files]
        labels = np.array([int(file.parent.name) for file in files])
        last = np.concatenate([model.norm(output[-1]).numpy() for output in outputs])
        third = np.concatenate([output[2].numpy() for output in outputs])
        splits.append({'cls': last[:, 0], 'mean': last[:, 1:].mean(1), 'labels': labels})
        splits[-1] |= {'cls b2': third[:, 0], 'mean b2': third[:, 1:].mean(1)}

    figures = judge('--finetune', encoder, '--methods', 'knn')['figures']
    assert {figure['feature'] for figure in figures} == {
        *('cls', 'mean', 'cls b3', 'mean b3', 'cls b2', 'mean b2')
    }
    for feature in ('cls', 'mean', 'cls b2', 'mean b2'):
        train, val = (Split(split[feature], split['labels']) for split in splits)
        for count in (5, 9):
            found = by_name(figures, feature=feature, k=count)
            assert found == [pytest.approx(votes_by_hand(train, val, count, 0.07))]


def test_one_table_and_one_json_hold_every_method(judge, encoder, capsys):
    written = judge('--finetune', encoder, '--random', '--labels', 'all', '3', '--draws', '2')
    names = ['checkpoint-0.pd', 'random weights']
    assert [entry['name'] for entry in written['weights']] == names
    assert [entry['model'] for entry in written['weights']] == ['vit_nano_patch4'] * 2
    assert written['settings']['rates'] == [0.01, 0.001] and written['environment']['paddle']

    figures = written['figures']
    sweeps = {'knn': ('k', 12), 'logistic': ('C', 6), 'linear': ('rate', 12)}
    for weights in names:
        for labels, draw, images in (('all', 0, 30), ('3', 0, 9), ('3', 1, 9)):
            part = {'weights': weights, 'labels': labels, 'draw': draw, 'images': images}
            for method, (setting, count) in sweeps.items():
                found = [x for x in figures if x.items() >= (part | {'method': method}).items()]
                assert len(found) == count and all(setting in x for x in found)
            attentive = by_name(figures, **part, method='attentive', feature='patches')
            assert len(attentive) == 2
    assert all(0 <= figure['acc1'] <= 100 for figure in figures)

    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith('labels'))
    features = 'cls  mean  cls b3  mean b3  cls b2  mean b2  patches'
    assert head.split() == ['labels', 'method', 'weights', *features.split()]
    row = next(line for line in lines if line.startswith('all') and 'logistic' in line)
    best = max(by_name(figures, weights=names[0], labels='all', method='logistic', feature='cls'))
    assert row.split()[:5] == ['all', 'logistic', 'regression', names[0], f'{best:.1f}']


def test_a_cell_is_the_best_of_a_sweep_and_the_mean_over_draws():
    def figure(draw, setting, acc1, method='linear'):
        return Figure('w', '5', draw, 10, method, setting, 'cls', acc1)

    figures = [figure(0, 0.1, 60), figure(0, 0.2, 70), figure(1, 0.1, 80), figure(1, 0.2, 10)]
    figures += [figure(0, 10, 50, 'knn'), figure(0, 20, 40, 'knn')]
    assert [line.split() for line in table(figures).splitlines()] == [
        ['labels', 'method', 'weights', 'cls'],
        ['5', 'linear', 'probe', 'w', '75.0', '±', '7.1'],
        ['5', 'k-NN,', 'k', '10', 'w', '50.0'],
        ['5', 'k-NN,', 'k', '20', 'w', '40.0'],
    ]


@pytest.mark.parametrize(
    'name', ['mae_swin_nano_32', 'mae_pvt_nano_32', 'simmim_swin_nano_32', 'simmim_pvt_nano_32']
)
def test_encoders_of_all_families_are_judged(judge, tmp_path, name):
    model = models_zoo.autoencoder(name, in_chans=1)
    paddle.save({'model': model.state_dict()}, str(tmp_path / 'x.pd'))
    flags = ['--blocks', 3, '--methods', 'knn', 'attentive', '--labels', 4]
    figures = judge('--finetune', tmp_path / 'x.pd', *flags)['figures']
    last = len(model.blocks) - 1
    blocks = [f'mean b{last - number}' for number in range(3)]
    assert list(dict.fromkeys(x['feature'] for x in figures)) == ['mean', *blocks, 'patches']


@pytest.mark.parametrize('lacking', ['train', 'val'])
def test_a_list_may_lack_images_of_the_last_class(judge, encoder, digits, tmp_path, lacking):
    for split in ('train', 'val'):
        files = sorted((digits / split).glob('*/*'))
        lines = [f'{file} {file.parent.name}' for file in files]
        if split == lacking:
            lines = [line for line in lines if not line.endswith(' 2')]
        (tmp_path / f'{split}.txt').write_text('\n'.join(lines))
    flags = ['--methods', 'linear', 'attentive', '--blocks', 0]
    figures = judge('--finetune', encoder, '--data_path', tmp_path, *flags)['figures']
    assert {figure['method'] for figure in figures} == {'linear', 'attentive'}


def test_random_weights_need_no_file_and_follow_the_seed(judge):
    flags = ['--model', 'vit_nano_patch4', '--in_chans', 1, '--input_size', 16, '--labels', 4]
    first, again = judge(*flags)['figures'], judge(*flags)['figures']
    assert first == again != judge(*flags, '--seed', 1)['figures']
    assert {figure['weights'] for figure in first} == {'random weights'}


@pytest.mark.slow
def test_two_processes_equal_one(judge, on_two_processes, encoder, digits, tmp_path):
    flags = ['--finetune', encoder, '--random', '--labels', '3', 'all', '--blocks', 1]
    one = judge(*flags)
    out = tmp_path / 'two'
    common = [*TINY, *QUICK, '--data_path', digits, '--output_dir', out]
    on_two_processes('main_frozen', [*common, *flags])
    two = json.loads((out / 'frozen.json').read_text())
    assert two['figures'] == one['figures'] and two['weights'] == one['weights']


def test_online_knn_is_that_of_the_checkpoint(judge, encoder, digits, tmp_path, capsys):
    """And it changes nothing else: the losses are those of a run without it."""
    flags = (
        '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --num_workers 0 --device cpu '
        '--log_dir= --batch_size 10 --epochs 4 --warmup_epochs 1'
    ).split()
    logs = []
    for name, more in (('without', []), ('with', ['--knn_every', 2, '--knn_labels', 7])):
        out = tmp_path / name
        words = [*flags, *more, '--data_path', digits, '--output_dir', out]
        main_pretrain.main(main_pretrain.PARSER.parse_args(list(map(str, words))))
        logs.append([json.loads(line) for line in (out / 'log.txt').read_text().splitlines()])
    figures = []
    for line in logs[1]:
        names = [name for name in line if name.startswith('knn_')]
        figures.append({name: line.pop(name) for name in names})
    assert logs[0] == logs[1]
    assert [len(found) for found in figures] == [0, 4, 0, 4]
    assert f'epoch 3: knn_cls {figures[3]["knn_cls"]:.2f}  knn_mean' in capsys.readouterr().out

    flags = ['--methods', 'knn', '--labels', 7, '--k', 20, '--blocks', 1]
    found = judge('--finetune', tmp_path / 'with/checkpoint-3.pd', *flags)['figures']
    named = {f'knn_{figure["feature"]}'.replace(' ', '_'): figure['acc1'] for figure in found}
    assert named == figures[3]


def test_rows_of_several_ranks_come_in_the_order_of_the_images(tmp_path, monkeypatch):
    """Ranks write one after the other here; the last image has a rank of its own."""
    values = RNG.normal(size=[7, 2, 3]).astype('float32')
    monkeypatch.setattr('util.dist.world_size', lambda: 3)
    for rank in (2, 0, 1):
        monkeypatch.setattr('util.dist.rank', lambda rank=rank: rank)
        with rows.Writer(tmp_path / 'x', 7, {'a b': '<f2'}) as writer:
            for batch in np.array_split(values[rank::3], 2):
                writer.add({'a b': batch})
    found = rows.Rows(tmp_path / 'x', 'a b', 7)
    places = np.array([6, 0, 3, 3, 5])
    expected = values.astype('float16').astype('float32')
    np.testing.assert_array_equal(found[places], expected[places])
    assert len(found) == 7 and found.shape == (2, 3)


# errors

BAD = {
    'nothing': ('', 'name weights (--finetune FILE), or a --model to judge random weights'),
    'no labels': ('--finetune {encoder} --data_path {list}', 'one list cannot be training and'),
    'too few': ('--finetune {encoder} --labels 12', '12 labels of each class: class 0 has only 11'),
    'queries': ('--finetune {encoder} --queries 7', '--queries 7 cannot share the 96 features'),
    'blocks': ('--finetune {encoder} --blocks 5', '--blocks 5: the model has 4 blocks'),
    'fp16': ('--finetune {encoder} --amp float16', '--amp float16 needs a GPU'),
    'channels': ('--finetune {encoder} --in_chans 3', '{encoder} has 1 channels'),
    'classes differ': ('--finetune {encoder} --data_path {missing}', 'only one of the two has: 2'),
}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_bad_input_is_named(judge, flawed, flags, message):
    with pytest.raises(InputError) as error:
        judge(*flags.format(**flawed).split())
    assert message.format(**flawed) in str(error.value) and '\n' not in str(error.value)


def test_a_disk_that_is_too_small_is_named(judge, encoder, monkeypatch, tmp_path):
    usage = type('Usage', (), {'free': 1000})
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
    with pytest.raises(InputError, match=r'needs 0.0 GB for the features .* take fewer --labels'):
        judge('--finetune', encoder)
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('value', ['0', '-1', '0%', '100%', 'x', '1.5', 'nan%'])
def test_a_part_that_means_nothing_is_refused(value, capsys):
    with pytest.raises(SystemExit):
        main_frozen.PARSER.parse_args(['--data_path', 'X', '--labels', value])
    assert 'argument --labels: ' in capsys.readouterr().err


def test_online_knn_without_labels_is_refused_at_the_start(tmp_path, digits):
    flags = ['--data_path', digits / 'train', '--knn_every', 1, '--output_dir', tmp_path]
    with pytest.raises(InputError, match='--knn_every needs labelled images: --data_path .*found'):
        main_pretrain.main(
            main_pretrain.PARSER.parse_args(list(map(str, [*flags, '--device', 'cpu'])))
        )
