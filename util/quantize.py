"""INT8 models for ONNX Runtime, by post-training quantisation that is calibrated on pictures.

The linear layers compute in 8 bits: their weights with a scale for each output, their inputs with
the range that the calibration has seen. All else stays float32, attention and normalisations too.
Weights use 7 of the 8 bits, because processors without VNNI add pairs of products in 16 bits.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util import exported, onnx_file, provenance
from util.augment import transform
from util.data import pictures
from util.errors import InputError
from util.progress import bar

FEWEST, MOST = 10, 256  # pictures; half of them calibrate, half judge
BATCH = 8
ROUNDS = 10  # of the comparison of times
LAYERS = ['MatMul', 'Gemm']  # of ONNX, what linear layers become
OPTIONS = {
    'MatMulConstBOnly': True,  # not the products of attention
    'OpTypesToExcludeOutputQuantization': LAYERS,
    'QDQOpTypePerChannelSupportToAxis': {'MatMul': 1},
}


@dataclass
class Judgement:
    """A quantised model against its float32 model, over pictures that it was not calibrated on.

    departs: root mean square of the difference, relative to that of the outputs. same: share of
    the pictures whose largest score is of the same class. gains: time of the float32 model divided
    by that of the quantised one, of neighbouring runs. sizes: MB of both files.
    """

    count: int
    departs: float
    same: float | None
    gains: list[float]
    sizes: tuple[float, ...] = ()

    def __str__(self):
        labels = '' if self.same is None else f'{self.same:.1%} keep their label, '
        before, after = self.sizes
        middle = statistics.median(self.gains)
        spread = f'{min(self.gains):.2f} to {max(self.gains):.2f}'
        return (
            f'{self.count} other pictures: {labels}outputs differ by {self.departs:.1%} (root mean '
            f'square); {after:.1f} MB instead of {before:.1f}; {middle:.2f} times as fast as '
            f'float32 ({spread} in {ROUNDS} runs; it depends on the processor, '
            f'{provenance.processor()})'
        )

    def facts(self) -> dict:
        """The part of export.yaml that tells the agreement."""
        facts = {'pictures': self.count, 'rms_difference': round(self.departs, 5)}
        if self.same is not None:
            facts['same_label'] = round(self.same, 5)
        return facts


def halves(path: str, in_chans: int) -> tuple[list[Path], list[Path]]:
    """Pictures of a file, folder or glob that calibrate, and as many others that judge.

    They are spread evenly over all; InputError where there are less than FEWEST.
    """
    found = pictures.find(path, in_chans)
    if len(found) < FEWEST:
        raise InputError(
            f'--calibration {path}: {len(found)} pictures there; give at least {FEWEST}, better '
            f'{MOST}, as varied as those that the model will see'
        )
    places = np.linspace(0, len(found) - 1, min(len(found), MOST))
    chosen = [found[int(place)] for place in places]
    return chosen[::2], chosen[1::2]


def batches(files: list[Path], about: dict) -> Iterator[list[np.ndarray]]:
    """The inputs of the model that `about`, of export.yaml, describes, for these pictures.

    Pictures are prepared as in evaluation; noise is random, the same at each call.
    """
    prepare = transform.Evaluate(about['input_size'], about['mean'], about['std'])
    rng = np.random.default_rng(0)
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        images = [prepare(pictures.read_as_seen(file, about['in_chans'])) for file in batch]
        arrays = [np.stack(images)]
        if 'noise' in about['inputs']:
            patches = about['inputs']['noise'][1]
            arrays.append(rng.random([len(batch), patches], dtype='float32'))
        yield arrays


class Calibration:
    """The inputs for the calibration, as ONNX Runtime asks for them."""

    def __init__(self, names: list[str], inputs: Iterator[list[np.ndarray]]):
        self.names = names
        self.inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the names of the inputs; None after the last one."""
        arrays = next(self.inputs, None)
        return None if arrays is None else dict(zip(self.names, arrays))


def to_int8(folder: Path, about: dict, calibrating: list[Path], judging: list[Path]) -> Judgement:
    """Write model_int8.onnx beside model.onnx, and judge it.

    calibrating, judging: the pictures for both, see `halves`. about: the contents of export.yaml,
    which get an entry `int8` and are written again. InputError where ONNX Runtime cannot quantise
    the model.
    """
    names = list(about['inputs'])
    whole = folder / exported.ONNX
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        file = Path(draft) / exported.INT8
        shown = bar(batches(calibrating, about), 'calibration', -(-len(calibrating) // BATCH))
        try:
            _quantise(whole, file, Calibration(names, iter(shown)))
            quantised = onnx_file.session(file, names)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f'--int8: ONNX Runtime cannot quantise this model ({exported.gist(error)}); '
                f'{whole} is complete'
            ) from None
        judgement = _judged(onnx_file.session(whole, names), quantised, about, judging)
        megabytes = (one.stat().st_size / 1e6 for one in (whole, file))
        judgement.sizes = tuple(megabytes)  # of float32, of int8

        outputs = quantised(exported.known_input(about['inputs']))
        about['int8'] = {**judgement.facts(), 'probe': exported.probe(outputs)}
        exported.describe(Path(draft), about)
        for name in (exported.INT8, exported.ABOUT):
            (Path(draft) / name).replace(folder / name)
    return judgement


def _quantise(whole: Path, file: Path, calibration: Calibration) -> None:
    """Write the quantised model of a float32 model.onnx."""
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnxruntime.set_default_logger_severity(3)  # errors; it warns of constants without a use
    prepared = file.with_suffix('.prepared')
    with exported.chatter_to_stderr():
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(file),
            calibration,
            op_types_to_quantize=LAYERS,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options=OPTIONS,
        )


def _judged(plain: Callable, quantised: Callable, about: dict, files: list[Path]) -> Judgement:
    """The agreement over pictures, and the times of both models for the first batch of them."""
    squares = differences = same = 0.0
    for arrays in bar(batches(files, about), 'comparisons', -(-len(files) // BATCH)):
        expected, found = plain(arrays)[0], quantised(arrays)[0]
        squares += np.square(expected, dtype='float64').sum()
        differences += np.square(found - expected, dtype='float64').sum()
        same += (found.argmax(1) == expected.argmax(1)).sum()
    departs = np.sqrt(differences / max(squares, exported.TINY))
    share = float(same / len(files)) if about['what'] == 'classify' else None

    # Runs of both in turn, so that other work on the machine slows both
    arrays = next(batches(files[:BATCH], about))
    gains = []
    for _ in range(ROUNDS):
        before, after = _seconds(plain, arrays), _seconds(quantised, arrays)
        gains.append(before / after)
    return Judgement(len(files), float(departs), share, gains)


def _seconds(model: Callable, arrays: list[np.ndarray]) -> float:
    """How long a model takes for these inputs."""
    begin = time.perf_counter()
    model(arrays)
    return time.perf_counter() - begin
