"""Judge frozen features: nearest neighbours, logistic regression, and probes trained side by side.

Every rank extracts the features of its own images, once. The work on them is divided as well: the
validation images of the nearest neighbours, the settings of a sweep. No figure depends on the
number of processes.
Shapes: N images, T training images, D features, K classes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle.nn import functional as F

from util import dist, optim
from util.data import rows
from util.data.loader import EvalLoader, EvalSet, evaluation_order
from util.progress import bar

COUNT = 20  # k and the temperature of k-NN, where a single figure is wanted
TEMPERATURE = 0.07
QUERIES = 1024  # validation images whose neighbours are searched at a time
KEYS = 65536  # training images that they are compared with at a time
STEPS = 1000  # of logistic regression, at most


@dataclass
class Split:
    """The rows of one feature, on disk or in memory, and the labels [N] of its images."""

    features: rows.Rows | np.ndarray
    labels: np.ndarray

    def at(self, places: np.ndarray) -> 'Split':
        """Some of the images, in memory."""
        return Split(self.features[places], self.labels[places])

    def whole(self) -> 'Split':
        """All images, in memory."""
        if isinstance(self.features, np.ndarray):
            return self
        return self.at(np.arange(len(self.labels)))


def loaders(images: tuple, in_chans: int, plain: Callable, **reading) -> list[EvalLoader]:
    """Batches of training and validation images without augmentation, shared by the ranks.

    plain: picture -> image. reading: batch_size, num_workers and timeout of the loaders.
    """
    samples = [EvalSet(part, in_chans, plain) for part in images]
    return [EvalLoader(part, shared=True, **reading) for part in samples]


def extract(
    features_of: Callable, batches: list[EvalLoader], folder: Path, kinds: dict[str, str]
) -> dict[str, tuple[Split, Split]]:
    """Write the features of all images below a folder; by name, those for training and validation.

    features_of: images [N, C, height, width] -> tensors by name. batches: those of `loaders`.
    kinds: the numpy type of each feature.
    """
    train, val = batches
    known = _extract(features_of, train, folder / 'train', kinds)
    asked = _extract(features_of, val, folder / 'val', kinds)
    return {name: (known[name], asked[name]) for name in kinds}


@paddle.no_grad()
def _extract(features_of: Callable, batches, folder: Path, kinds: dict[str, str]) -> dict:
    """Write the features of all images of a loader, and return them by name: Split."""
    images = batches.samples.images
    with rows.Writer(folder, len(images), kinds) as writer:
        for pixels, _ in bar(batches, 'batches'):
            tensors = features_of(pixels)
            arrays = {name: tensors[name].astype('float32').numpy() for name in kinds}
            writer.add(arrays)
    dist.barrier()  # the files of all ranks are complete
    labels = np.array(images.labels)
    return {name: Split(rows.Rows(folder, name, len(images)), labels) for name in kinds}


# Nearest neighbours


def knn(train: Split, val: Split, counts: list[int], temperature: float) -> dict[int, float]:
    """Accuracy in percent of a vote of the k nearest training images, for each k of `counts`.

    As arXiv:1805.01978: nearest by the cosine c, and a vote weighs exp(c / temperature). A k above
    the number of training images has no figure.
    """
    counts = [count for count in counts if count <= len(train.labels)]
    if not counts:
        return {}
    places = np.array(evaluation_order(len(val.labels), dist.rank(), dist.world_size()))
    train = train.whole()
    keys = normalised(train.features)
    classes = int(train.labels.max()) + 1

    hits = dict.fromkeys(counts, 0.0)
    for start in bar(range(0, len(places), QUERIES), 'blocks'):
        some = val.at(places[start : start + QUERIES])
        cosines, nearest = neighbours(normalised(some.features), keys, max(counts))
        for count in counts:
            weights = np.exp(cosines[:, :count].astype('float64') / temperature)
            votes = weighted_votes(weights, train.labels[nearest[:, :count]], classes)
            hits[count] += float((votes.argmax(1) == some.labels).sum())

    dist.barrier()  # ranks may have had unequal work
    sums = dist.sum_over_ranks(list(hits.values()))
    return {count: 100 * total / len(val.labels) for count, total in zip(counts, sums)}


def online(features_of: Callable, names: Iterable[str], batches: list, output_dir: str) -> dict:
    """Accuracy of COUNT nearest neighbours by each named feature, as `knn_<name>`, in training.

    features_of, batches: as for `extract`; output_dir: see rows.folder.
    """
    found = {}
    with rows.folder(output_dir) as folder:
        features = extract(features_of, batches, folder, dict.fromkeys(names, '<f4'))
        for name, (train, val) in features.items():
            count = min(COUNT, len(train.labels))
            accuracies = knn(train, val, [count], TEMPERATURE)
            found[f'knn_{name}'.replace(' ', '_')] = accuracies[count]
    return found


def normalised(features: np.ndarray) -> np.ndarray:
    """Features [N, D] divided by their lengths."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)


@paddle.no_grad()
def neighbours(queries: np.ndarray, keys: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest products of each query [N, D] with keys [T, D], and the keys' places: [N, count].

    The largest come first. The search is exact; keys are compared in blocks of KEYS.
    """
    queries = paddle.to_tensor(queries)
    best = places = None
    for start in range(0, len(keys), KEYS):
        block = paddle.to_tensor(keys[start : start + KEYS])
        products = paddle.matmul(queries, block, transpose_y=True)  # [N, KEYS]
        values, found = products.topk(min(count, len(block)), axis=1)
        found += start
        if best is not None:
            values = paddle.concat([best, values], axis=1)
            found = paddle.concat([places, found], axis=1)
        best, order = values.topk(min(count, values.shape[1]), axis=1)
        places = found.take_along_axis(order, axis=1)
    return best.numpy(), places.numpy()


def weighted_votes(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The sum of the weights [N, k] of each label [N, k]: [N, K]."""
    votes = np.zeros([len(labels), classes])
    voters = np.arange(len(labels))[:, None]
    np.add.at(votes, (voters, labels), weights)
    return votes


# Classifiers


def standardised(train: Split, val: Split) -> tuple[Split, Split]:
    """The features in memory, with mean 0 and deviation 1 over the training images."""
    from sklearn.preprocessing import StandardScaler  # imported here because it takes a second

    train, val = train.whole(), val.whole()
    scaler = StandardScaler().fit(train.features)
    scaled = [Split(scaler.transform(part.features), part.labels) for part in (train, val)]
    return tuple(scaled)


def shared(settings: list, judge: Callable[[list], list]) -> list:
    """What judge(settings) gives for each setting, with the settings divided among the ranks.

    judge: settings -> a list of as many values that fit in a json.
    """
    rank, world_size = dist.rank(), dist.world_size()
    own = judge(settings[rank::world_size])
    dist.barrier()  # ranks may have had unequal work
    found = [None] * len(settings)
    for number, values in enumerate(dist.gather(own)):
        found[number::world_size] = values
    return found


def logistic(train: Split, val: Split, strengths: list[float]) -> list[tuple[float, bool]]:
    """Accuracy in percent of scikit-learn's logistic regression, and whether it has converged.

    For each C of `strengths`: a small one regularises more.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = []
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=STEPS)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always', ConvergenceWarning)
            model.fit(train.features, train.labels)
        accuracy = 100 * model.score(val.features, val.labels)
        found.append((float(accuracy), not caught))
    return found


@dataclass
class Training:
    """How probes are trained: AdamW without weight decay, and half a cosine down to 0."""

    steps: int
    batch_size: int
    seed: int

    def batches(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """The places of each step's images: one permutation after the other, seeded by epoch.

        A part with fewer images than a batch is one batch; else the rest of an epoch is left out.
        """
        size = min(self.batch_size, len(places))
        per_epoch = len(places) // size
        for step in range(self.steps):
            epoch, number = divmod(step, per_epoch)
            if number == 0:
                order = np.random.default_rng([self.seed, epoch]).permutation(places)
            yield order[number * size : (number + 1) * size]


def probes(
    train: Split,
    val: Split,
    make: Callable,
    rates: list[float],
    how: Training,
    *,
    places: np.ndarray | None = None,
) -> list[float]:
    """Accuracies in percent of probes that are trained side by side, one a learning rate.

    make: () -> a new probe, features -> scores [N, K]. All begin with the same weights and see the
    same batches, and none touches another.
    places: those of the training images that are used; None for all.
    """
    if not rates:
        return []
    heads, groups = [], []
    for rate in rates:
        paddle.seed(how.seed)
        heads.append(make())
        groups.append({'params': heads[-1].parameters(), 'learning_rate': rate})
    optimizer = optim.adamw(groups, beta2=0.999)

    if places is None:
        places = np.arange(len(train.labels))
    schedule = optim.Cosine(1.0, 0.0, 0, how.steps)
    batches = bar(how.batches(places), 'steps', how.steps)
    for step, batch in enumerate(batches):
        optimizer.set_lr(schedule(step))
        train_step(heads, optimizer, train.at(batch))
    return evaluate(heads, val, how.batch_size)


def train_step(heads: list, optimizer: paddle.optimizer.Optimizer, batch: Split) -> None:
    """One step of all probes; the gradient of the sum of their losses is each one's own."""
    features = paddle.to_tensor(batch.features)
    labels = paddle.to_tensor(batch.labels)
    losses = [F.cross_entropy(head(features), labels) for head in heads]
    paddle.add_n(losses).backward()
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)


@paddle.no_grad()
def evaluate(heads: list, val: Split, batch_size: int) -> list[float]:
    """Accuracy of each probe in percent."""
    hits = paddle.zeros([len(heads)], 'int64')  # read at the end only
    for head in heads:
        head.eval()
    for start in range(0, len(val.labels), batch_size):
        end = min(start + batch_size, len(val.labels))
        batch = val.at(np.arange(start, end))
        features = paddle.to_tensor(batch.features)
        labels = paddle.to_tensor(batch.labels)
        guesses = paddle.stack([head(features).argmax(1) for head in heads])
        hits += (guesses == labels).sum(1)
    return [100 * count / len(val.labels) for count in hits.tolist()]
