"""Write a segmentor as an inference model, with the flags of PaddleSeg's tools/export.py.

    python seg/export.py --model_path WEIGHTS \\
        --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml

save_dir receives model.json, model.pdiparams and deploy.yaml; seg/predict.py --engine inference
runs them. The model takes any number of windows of one size, because it has positions for one size.
As in PaddleSeg, --output_op decides on the first output; the scores follow as a second output,
because they are needed to join overlapping windows. With --onnx it also gets model.onnx, for
seg/predict.py --engine onnx.
The written model is run and compared with the original; a model that differs is not kept.
"""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import tempfile
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddleseg.cvlibs import SegBuilder
from paddleseg.utils import logger

from seg import flags, infer
from util import cli, exported, program, sizes
from util.errors import InputError

OPERATIONS = {
    'argmax': lambda scores: paddle.argmax(scores, axis=1, dtype='int32'),
    'softmax': lambda scores: paddle.nn.functional.softmax(scores, axis=1),
}
TOLERANCE = 1e-4  # of the largest score
# the shape of the input on which a model is tried whose input shape is open
ANY_BATCH = 2
ANY_SIDE = 512


class WithScores(paddle.nn.Layer):
    """A segmentor that gives [result of an operation on its first scores, these scores]."""

    def __init__(self, model: paddle.nn.Layer, output_op: str):
        super().__init__()
        self.model = model
        self.output_op = output_op

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        scores = self.model(x)[0]  # [N, K, height, width]
        if self.output_op not in OPERATIONS:
            return [scores]
        operation = OPERATIONS[self.output_op]
        return [operation(scores), scores]


def main(args):
    program.start(args.device, seed=0, deterministic=args.deterministic, tf32=False)
    config = flags.configuration(args.config, args.opts)
    flags.testing(config.test_config, {})
    flags.show(config)
    backbone = config.model_cfg.get('backbone', {})
    shape = input_shape(args.input_shape, backbone.get('img_size'))
    segmentor = flags.model(SegBuilder(config), args.config, args.model_path, args.use_ema)
    model = WithScores(segmentor, args.output_op)
    model.eval()

    noise, expected = sample(model, shape)
    description = deploy(config, shape, args.output_op)
    folder = Path(args.save_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            write(model, shape, Path(draft), description)
            exported_model = infer.Exported(draft)
            report = compare(exported_model.outputs(noise), expected)
            for file in Path(draft).iterdir():
                file.replace(folder / file.name)
        (folder / exported.ONNX).unlink(missing_ok=True)  # of another model
    except OSError as error:
        raise InputError(
            f'--save_dir {folder}: cannot write there ({error.strerror or error})'
        ) from None
    logger.info(f'The inference model is saved in {folder}; run by paddle.inference {report}')
    if args.onnx:
        inputs = {'x': shape}
        report = exported.to_onnx(folder, inputs, lambda run: compare(run([noise]), expected))
        logger.info(f'{folder / exported.ONNX} is saved; run by ONNX Runtime {report}')


def input_shape(asked: list[int] | None, img_size: sizes.Size | None) -> list[int]:
    """The shape of the exported model's input, [batch, channels, height, width], -1 for any size.

    asked: --input_shape. img_size: the window of a model that takes one size.
    """
    height, width = sizes.pair(img_size or -1)
    if not asked:
        return [-1, 3, height, width]
    if len(asked) != 4:
        raise InputError(
            f'--input_shape takes four numbers, batch 3 height width, not {len(asked)}'
        )

    flag = f'--input_shape {" ".join(map(str, asked))}'
    if img_size and asked[2:] != [height, width]:
        raise InputError(
            f'{flag}: this model takes windows of {height} x {width} pixels, because it has '
            'positions for one size; a window slides over larger images'
        )
    if asked[1] < 1:
        raise InputError(f'{flag}: the number of channels cannot be open')
    return asked


def deploy(config, shape: list[int], output_op: str) -> dict:
    """The contents of deploy.yaml as PaddleSeg writes it, with Paddle 3's names of files.

    The config's test_config is added.
    """
    described = {'model': 'model.json', 'params': 'model.pdiparams'}
    described['transforms'] = config.val_dataset_cfg.get('transforms', [])
    described['input_shape'] = shape
    described['output_op'] = output_op
    described['output_dtype'] = 'int32' if output_op == 'argmax' else 'float32'
    described['test_config'] = config.test_config
    return {'Deploy': described}


def write(model: paddle.nn.Layer, shape: list[int], folder: Path, description: dict) -> None:
    """Write the model and deploy.yaml into a folder, and log the description."""
    open_shape = [None if edge < 1 else edge for edge in shape]
    exported.save(model, {'x': open_shape}, folder)
    text = yaml.safe_dump(description, sort_keys=False)
    logger.info(f'\n---------------Deploy Information---------------\n{text}')
    (folder / 'deploy.yaml').write_text(text)


@paddle.no_grad()
def sample(model: paddle.nn.Layer, shape: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Noise, and the model's outputs for it.

    Call it before `write`, whose to_static replaces the model's own forward.
    """
    batch, channels, height, width = shape
    if batch < 1:
        batch = ANY_BATCH
    if height < 1:
        height = ANY_SIDE
    if width < 1:
        width = ANY_SIDE
    generator = np.random.default_rng(0)
    noise = generator.standard_normal([batch, channels, height, width], dtype='float32')
    outputs = model(paddle.to_tensor(noise))
    return noise, [output.numpy() for output in outputs]


def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> str:
    """How much the outputs of the written model differ from the model's own, the end of a sentence.

    RuntimeError where they differ too much.
    """
    scores, expected_scores = found[-1], expected[-1]  # [N, K, height, width]
    largest = np.abs(expected_scores).max()
    difference = np.abs(scores - expected_scores).max()
    shapes = [output.shape for output in found]
    expected_shapes = [output.shape for output in expected]
    is_close = difference <= TOLERANCE * largest
    if shapes != expected_shapes or not is_close:
        raise RuntimeError(
            f'the exported model differs: outputs {shapes}, scores by {difference:.2e} of '
            f'{largest:.2e}; it was not kept'
        )

    other_labels = scores.argmax(1) != expected_scores.argmax(1)
    return (
        "its scores differ from this Python's by "
        f'{difference:.1e} at most (the largest is {largest:.1e}), '
        f'labels differ on {other_labels.mean():.4%} of the pixels'
    )


PARSER = cli.parser(__doc__, flags.config, flags.model_path, cli.comparing_device)
PARSER.add_argument(
    '--save_dir',
    default='./output/inference_model',
    metavar='DIR',
    help='folder of the inference model',
)
PARSER.add_argument(
    '--input_shape',
    nargs='+',
    type=int,
    default=None,
    metavar='N',
    help="batch, channels, height, width (default: any number of the model's windows)",
)
PARSER.add_argument(
    '--output_op',
    choices=['argmax', 'softmax', 'none'],
    default='argmax',
    help='what the first output is: class numbers, probabilities or scores',
)
PARSER.add_argument(
    '--onnx', action='store_true', help='also write model.onnx; needs requirements/export.txt'
)

if __name__ == '__main__':
    program.run(main, PARSER)
