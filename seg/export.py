"""Write a segmentor as an inference model, with the flags of PaddleSeg's tools/export.py.

    python seg/export.py --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml --model_path WEIGHTS

save_dir gets model.json, model.pdiparams and deploy.yaml; seg/predict.py --engine inference runs them. The model takes
windows of one size, for which it has positions, and any number of them. Its first output is what --output_op says, as
PaddleSeg's is; the scores follow as a second one, without which overlapping windows could not be joined.
The model that was written is run and compared before it counts.
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
from util import cli, exported, program
from util.errors import InputError

OPERATIONS = {
    'argmax': lambda scores: paddle.argmax(scores, axis=1, dtype='int32'),
    'softmax': lambda scores: paddle.nn.functional.softmax(scores, axis=1),
}
TOLERANCE = 1e-4  # of the largest score
ANY_SIZE = 512  # pixels that stand for a size that was left open, when the written model is tried


class WithScores(paddle.nn.Layer):
    """A segmentor's first scores, behind what an operation makes of them."""

    def __init__(self, model: paddle.nn.Layer, output_op: str):
        super().__init__()
        self.model, self.output_op = model, output_op

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        scores = self.model(x)[0]
        return (
            [OPERATIONS[self.output_op](scores), scores]
            if self.output_op in OPERATIONS
            else [scores]
        )


def main(args):
    program.start(args.device, seed=0)
    config = flags.configuration(args.config, args.opts)
    flags.testing(config.test_config, {})
    flags.show(config)
    shape = input_shape(args.input_shape, config.model_cfg.get('backbone', {}).get('img_size'))
    model = WithScores(
        flags.model(SegBuilder(config), args.config, args.model_path), args.output_op
    )
    model.eval()
    noise, expected = sample(model, shape)
    folder = Path(args.save_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            write(model, shape, Path(draft), deploy(config, shape, args.output_op))
            report = compare(infer.Exported(draft).outputs(noise), expected)
            for file in Path(draft).iterdir():
                file.replace(folder / file.name)
    except OSError as error:
        raise InputError(
            f'--save_dir {folder}: cannot write there ({error.strerror or error})'
        ) from None
    logger.info(f'The inference model is saved in {folder}; {report}')


def input_shape(asked: list[int] | None, img_size: int | None) -> list[int]:
    """[batch, channels, height, width], -1 where it is open; of a model with a fixed window its size."""
    if asked and len(asked) != 4:
        raise InputError(
            f'--input_shape takes four numbers, batch 3 height width, not {len(asked)}'
        )
    if asked and img_size and asked[2:] != [img_size, img_size]:
        raise InputError(
            f'--input_shape {" ".join(map(str, asked))}: this model takes windows of {img_size} x {img_size} '
            'pixels, for which it has positions; larger images are slid over'
        )
    if asked and asked[1] < 1:
        raise InputError(
            f'--input_shape {" ".join(map(str, asked))}: the number of channels cannot be open'
        )
    return asked or [-1, 3, img_size or -1, img_size or -1]


def deploy(config, shape: list[int], output_op: str) -> dict:
    """deploy.yaml as PaddleSeg's, with the names that Paddle 3 gives its files, and with the config's test_config."""
    return {
        'Deploy': {
            'model': 'model.json',
            'params': 'model.pdiparams',
            'transforms': config.val_dataset_cfg.get('transforms', []),
            'input_shape': shape,
            'output_op': output_op,
            'output_dtype': 'int32' if output_op == 'argmax' else 'float32',
            'test_config': config.test_config,
        }
    }


def write(model: paddle.nn.Layer, shape: list[int], folder: Path, description: dict) -> None:
    exported.save(model, {'x': [None if edge < 1 else edge for edge in shape]}, folder)
    text = yaml.safe_dump(description, sort_keys=False)
    logger.info(f'\n---------------Deploy Information---------------\n{text}')
    (folder / 'deploy.yaml').write_text(text)


@paddle.no_grad()
def sample(model: paddle.nn.Layer, shape: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Noise, and the model's outputs for it. To be asked before to_static, which replaces the model's own forward."""
    size = [
        2 if shape[0] < 1 else shape[0],
        shape[1],
        *(ANY_SIZE if edge < 1 else edge for edge in shape[2:]),
    ]
    noise = np.random.default_rng(0).standard_normal(size, dtype='float32')
    return noise, [output.numpy() for output in model(paddle.to_tensor(noise))]


def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> str:
    """How close the outputs of the written model come to those of the model; RuntimeError where they differ."""
    largest = np.abs(expected[-1]).max()
    difference = np.abs(found[-1] - expected[-1]).max()
    if [a.shape for a in found] != [
        a.shape for a in expected
    ] or not difference <= TOLERANCE * largest:
        raise RuntimeError(
            f'the exported model differs: outputs {[a.shape for a in found]}, scores by {difference:.2e} of '
            f'{largest:.2e}; it was not kept'
        )
    return (
        f"run by paddle.inference its scores differ from this Python's by {difference:.1e} at most (the largest is "
        f'{largest:.1e}), labels differ on {(found[-1].argmax(1) != expected[-1].argmax(1)).mean():.4%} of the pixels'
    )


PARSER = cli.parser(__doc__, flags.config, flags.model_path, cli.device)
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

if __name__ == '__main__':
    program.run(main, PARSER)
