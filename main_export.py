"""Write a model for serving: a folder that Paddle Inference, and with --onnx ONNX Runtime, run without this code.

    python main_export.py --resume output_dir/checkpoint-best.pd --out exported
    python main_infer.py --resume exported --img_path PICTURE

Images are [N, channels, height, width], normalised, any number of them. What comes out:
    classify     scores [N, classes], before the softmax
    reconstruct  pixels and mask [N, channels, height, width] (1 = removed), of images and noise [N, patches]: the patches
                 with the smallest noise are seen. Where normalised pixels were learnt, the true mean and spread are put back
    features     [N, width], what the head of a classifier, or of a linear probe of a pre-trained encoder, is given
export.yaml beside the model says sizes, mean and std, class names and the checksum of the source. Before it counts, the
written model is run and compared with the live one, for two numbers of images.
"""

import tempfile
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import models_sizes
import models_zoo
from util import cli, convert, exported, masking, program, weights
from util.augment import crop, transform
from util.convert import hugging_face, names
from util.errors import InputError
from util.progress import bar

DEFAULT = {
    names.ENCODER: 'features',
    names.AUTOENCODER: 'reconstruct',
    names.PROBE: 'classify',
    names.POOLED: 'classify',
    names.CLASS_TOKEN: 'classify',
}
OUTPUTS = {'classify': ['scores'], 'reconstruct': ['pixels', 'mask'], 'features': ['features']}
BATCHES = (1, 3)  # numbers of images of the comparison
TOLERANCE = 1e-4  # of the largest output; float32 of the largest models rounds to some 1e-5
OPSET = 17  # of ONNX, the first with a LayerNormalization of its own


class Classify(paddle.nn.Layer):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return [self.model(images)]


class Features(Classify):
    def forward(self, images):
        return [self.model.forward_features(images)]


class Reconstruct(paddle.nn.Layer):
    """As engine_pretrain.reconstruct. UM-MAE's secondary masking, which is random, is for training: it is left out."""

    def __init__(self, model, mask_ratio):
        super().__init__()
        self.model, self.mask_ratio = model, mask_ratio
        model.vis_mask_ratio = 0

    def forward(self, images, noise):
        _, pred, mask = self.model(images, self.mask_ratio, noise)
        return list(self.model.pictures(images, pred, mask))


def main(args):
    program.start(args.device, seed=0)
    layer, inputs, about = build(args)
    layer.eval()
    samples = [random_input(inputs, batch) for batch in BATCHES]
    expected = [live(layer, sample) for sample in bar(samples, 'live runs')]
    about['probe'] = exported.probe(live(layer, exported.known_input(inputs)))
    folder = Path(args.out)
    program.make_folder('--out', args.out)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            exported.save(layer, inputs, Path(draft))
            exported.describe(Path(draft), about)
            model = exported.predictor(
                Path(draft) / exported.PROGRAM, Path(draft) / exported.PARAMS
            )
            apart = compare(lambda sample: exported.outputs(model, sample), samples, expected)
            (folder / exported.ONNX).unlink(missing_ok=True)  # of another model
            for name in (exported.PROGRAM, exported.PARAMS, exported.ABOUT):
                (Path(draft) / name).replace(folder / name)
    except OSError as error:
        raise InputError(
            f'--out {folder}: cannot write there ({error.strerror or error})'
        ) from None
    print(
        f'{about["what"]}, {about["model"]}: {folder} differs from the live model by {apart:.1e} of the largest output at '
        f'most ({" and ".join(map(str, BATCHES))} random images)'
    )
    if args.onnx:
        apart = write_onnx(folder, inputs, samples, expected)
        print(f'{folder / exported.ONNX} by {apart:.1e}')


def build(args):
    """What to write, the shapes that go in, and what export.yaml is to say of it."""
    state = convert.read(args.resume, use_ema=args.use_ema)[0]
    kind = names.kind(state['model'])
    if kind not in DEFAULT:
        raise InputError(f'{args.resume} holds {kind}; seg/export.py is for that')
    what = args.what or DEFAULT[kind]
    if what == 'reconstruct':
        model, said = models_zoo.autoencoder_from(
            args.resume, args.model, args.norm_pix_loss, args.use_ema
        )
        masking.check(model.num_patches, args.mask_ratio)
        layer, sides, channels = Reconstruct(model, args.mask_ratio), model.img_size, model.in_chans
        special = {
            'mask_ratio': args.mask_ratio,
            'patch_size': model.patch_size,
            'norm_pix_loss': bool(model.norm_pix_loss),
        }
        known = said.get('model') if said.get('model') in models_zoo.AUTOENCODERS else None
        name = args.model or known or models_sizes.autoencoder_of(state['model'])
    else:
        if what == 'features' and DEFAULT[kind] != 'classify':
            model, said = encoder(args, state['model'])
            said |= {flag: state.get('args', {}).get(flag) for flag in ('mean', 'std')}
        else:
            model, said = models_zoo.classifier_from(
                args.resume, args.use_ema, model=args.model, input_size=args.input_size
            )
        layer = (Classify if what == 'classify' else Features)(model)
        sides, channels, name = 2 * [said['input_size']], said['in_chans'], said['model']
        special = {'classes': said['labels']} if what == 'classify' else {}
    mean, std = crop.statistics(channels, said.get('mean'), said.get('std'))
    inputs = {'images': [None, channels, *sides]}
    if what == 'reconstruct':
        inputs['noise'] = [None, model.num_patches]
    resize = transform.Evaluate(sides[0], mean, std).short
    source = Path(hugging_face.file_in(args.resume))
    return (
        layer,
        inputs,
        {
            'what': what,
            'model': name,
            'inputs': inputs,
            'outputs': OUTPUTS[what],
            'input_size': sides[0],
            'in_chans': channels,
            'resize': resize,
            'mean': list(mean),
            'std': list(std),
            **special,
            'source': {'file': source.name, 'sha256': weights.sha256(source)},
            'paddle': paddle.__version__,
        },
    )


def encoder(args, tensors):
    """A pre-trained encoder as linear probing has it, and what is known of it."""
    said = models_sizes.said_by(tensors)
    name = args.model or said.get('model')
    if not name:
        raise InputError(f'{args.resume} does not say its model; give --model')
    said |= {'model': name} | ({} if args.input_size is None else {'input_size': args.input_size})
    model = models_zoo.classifier(
        name,
        img_size=said['input_size'],
        in_chans=said['in_chans'],
        num_classes=1,
        global_pool=not name.startswith('vit_'),
    )
    models_zoo.start_from(model, args.resume, use_ema=args.use_ema)
    return model, said


def random_input(inputs, batch):
    rng = np.random.default_rng(batch)
    return [rng.standard_normal([batch, *shape[1:]], dtype='float32') for shape in inputs.values()]


@paddle.no_grad()
def live(layer, sample):
    return [output.numpy() for output in layer(*map(paddle.to_tensor, sample))]


def compare(function, samples, expected):
    """The largest difference; RuntimeError where it is more than rounding."""
    pairs = bar(list(zip(samples, expected)), 'comparisons')
    apart = max(exported.difference(function(sample), one) for sample, one in pairs)
    if not apart <= TOLERANCE:
        raise RuntimeError(
            f'the exported model differs from the live one by {apart:.1e} of the largest output; it was not '
            'kept'
        )
    return apart


def write_onnx(folder, inputs, samples, expected):
    """Write and compare model.onnx; InputError where paddle2onnx or ONNX Runtime cannot do what this model needs."""
    exported.onnxruntime()
    import paddle2onnx

    with tempfile.TemporaryDirectory(dir=folder) as draft:
        file = Path(draft) / exported.ONNX
        try:
            # its other ways to optimise install packages by themselves; ONNX Runtime does the same when it loads a model
            with exported.chatter_to_stderr():
                paddle2onnx.export(
                    str(folder / exported.PROGRAM),
                    str(folder / exported.PARAMS),
                    str(file),
                    opset_version=OPSET,
                    optimize_tool='none',
                )
            apart = compare(exported.session(file, list(inputs)), samples, expected)
        except Exception as error:
            raise InputError(
                f'--onnx: paddle2onnx {paddle2onnx.__version__} cannot convert this model '
                f'({exported.gist(error)}); what Paddle Inference needs is in {folder}'
            ) from None
        file.replace(folder / exported.ONNX)
    return apart


PARSER = cli.parser(__doc__, cli.device, cli.average)
PARSER.add_argument(
    '--resume',
    required=True,
    metavar='FILE',
    help='weights of a classifier, masked autoencoder or encoder',
)
PARSER.add_argument('--out', required=True, metavar='DIR', help='folder of the exported model')
PARSER.add_argument(
    '--what',
    choices=OUTPUTS,
    default=None,
    help='default: classify where there are classes, reconstruct '
    'where there is a decoder, else features',
)
PARSER.add_argument(
    '--onnx', action='store_true', help='also write model.onnx; needs requirements/export.txt'
)
PARSER.add_argument(
    '--model', default=None, metavar='NAME', help='needed where the weights do not say it'
)
PARSER.add_argument(
    '--input_size', type=cli.number(int, 1), default=None, help="default: the weights' own"
)
PARSER.add_argument(
    '--mask_ratio',
    type=cli.number(float, 0, 1),
    default=0.75,
    help='of reconstruct: share of the patches that is removed',
)
PARSER.add_argument(
    '--norm_pix_loss',
    action='store_true',
    default=None,
    help='of reconstruct: the weights predict '
    'normalised pixels; this or the opposite is needed where they do not say',
)
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')

if __name__ == '__main__':
    program.run(main, PARSER)
