"""Write a model for serving: a folder that Paddle Inference runs without this code.

    python main_export.py --resume output_dir/checkpoint-best.pd --out exported
    python main_infer.py --resume exported --img_path PICTURE

With --onnx it also gets a model for ONNX Runtime, with --int8 --calibration PICTURES one whose
linear layers compute in 8 bits as well. Images are [N, channels, height, width],
normalised, any number of them. Outputs are, by --what:
    classify     scores [N, classes], before the softmax
    reconstruct  pixels and mask [N, channels, height, width] (1 = removed), of images and noise
                 [N, patches]: the patches with the smallest noise are visible. For a model that
                 predicts normalised pixels the true mean and spread of each patch are put back
    features     [N, width], the input of a classifier's head, or of a linear probe's for a
                 pre-trained encoder
export.yaml beside the model tells sizes, mean and std, class names and the checksum of the source.
Before the files are kept, the written model is run and compared with the live one, for two numbers
of images.
"""

import tempfile
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import models_features
import models_sizes
import models_zoo
from util import (
    cli,
    convert,
    download,
    exported,
    masking,
    onnx_file,
    program,
    quantize,
    sizes,
    weights,
)
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


class Classify(paddle.nn.Layer):
    """Images -> [scores]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return [self.model(images)]


class Features(Classify):
    """Images -> [features]."""

    def forward(self, images):
        return [self.model.forward_features(images)]


class Reconstruct(paddle.nn.Layer):
    """Images and noise -> [pixels, mask], as engine_pretrain.reconstruct.

    UM-MAE's secondary masking is left out: it is random, and meant for training.
    """

    def __init__(self, model, mask_ratio):
        super().__init__()
        self.model, self.mask_ratio = model, mask_ratio
        model.vis_mask_ratio = 0

    def forward(self, images, noise):
        _, pred, mask = self.model(images, self.mask_ratio, noise)
        return list(self.model.pictures(images, pred, mask))


def main(args):
    program.start(args.device, seed=0, deterministic=args.deterministic, tf32=False)
    check_int8(args)
    layer, inputs, about = build(args)
    if args.int8:  # an error is told before the work
        calibrating, judging = quantize.halves(args.calibration, about['in_chans'])
    layer.eval()
    samples = [random_input(inputs, batch) for batch in BATCHES]
    expected = [live(layer, sample) for sample in bar(samples, 'live runs')]
    about['probe'] = exported.probe(live(layer, exported.known_input(inputs)))

    folder = Path(args.out)
    program.make_folder('--out', args.out)
    try:
        apart = write(layer, inputs, about, folder, (samples, expected))
    except OSError as error:
        raise InputError(
            f'--out {folder}: cannot write there ({error.strerror or error})'
        ) from None
    numbers = ' and '.join(map(str, BATCHES))
    print(
        f'{about["what"]}, {about["model"]}: {folder} differs from the live model '
        f'by {apart:.1e} of the largest output at most ({numbers} random images)'
    )
    if args.onnx or args.int8:
        apart = exported.to_onnx(
            folder, inputs, lambda session: compare(session, samples, expected)
        )
        print(f'{folder / exported.ONNX} by {apart:.1e}')
    if args.int8:
        judgement = quantize.to_int8(folder, about, calibrating, judging)
        print(f'{folder / exported.INT8}, {judgement}')


def check_int8(args):
    """InputError where --int8 and --calibration do not come together, or packages are missing."""
    if args.int8 and not args.calibration:
        raise InputError('--int8 needs --calibration PICTURES, a folder of pictures')
    if args.calibration and not args.int8:
        raise InputError('--calibration is for --int8; give both or none')
    if args.int8:
        onnx_file.runtime()


def write(layer, inputs, about, folder, comparison):
    """Write the folder and compare it with the live model: the largest difference.

    comparison: inputs, and the live model's outputs for them.
    """
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        draft = Path(draft)
        exported.save(layer, inputs, draft)
        exported.describe(draft, about)
        model = exported.predictor(draft / exported.PROGRAM, draft / exported.PARAMS)
        apart = compare(lambda sample: exported.outputs(model, sample), *comparison)
        for name in (exported.ONNX, exported.INT8):
            (folder / name).unlink(missing_ok=True)  # of another model
        for name in (exported.PROGRAM, exported.PARAMS, exported.ABOUT):
            (draft / name).replace(folder / name)
    return apart


def build(args):
    """(the layer to write, the shapes of its inputs, the contents of export.yaml)."""
    converted = convert.read(args.resume, use_ema=args.use_ema)
    kind = names.kind(converted[0]['model'])
    if kind not in DEFAULT:
        package = 'det' if kind in names.DETECTORS else 'seg'
        raise InputError(f'{args.resume} holds {kind}; {package}/export.py is for that')
    what = args.what or DEFAULT[kind]
    if what == 'reconstruct':
        layer, known, own = reconstruct(args, converted)
    elif what == 'features' and DEFAULT[kind] != 'classify':
        layer, known, own = features_of_encoder(args, converted)
    else:
        layer, known, own = classifier(args, what, converted)

    channels, sides = known['in_chans'], sizes.pair(known['input_size'])
    mean, std = crop.statistics(channels, known.get('mean'), known.get('std'))
    inputs = {'images': [None, channels, *sides]}
    if what == 'reconstruct':
        inputs['noise'] = [None, layer.model.num_patches]
    if known.get('patch_size'):
        own = {'patch_size': known['patch_size']} | own
    source = Path(hugging_face.file_in(download.local(args.resume)))
    about = {
        'what': what,
        'model': known['model'],
        'inputs': inputs,
        'outputs': OUTPUTS[what],
        'input_size': sizes.plain(sides),
        'in_chans': channels,
        'resize': sizes.plain(transform.Evaluate(sides, mean, std).resize),
        'mean': list(mean),
        'std': list(std),
        **own,
        'source': {'file': source.name, 'sha256': weights.sha256(source)},
        'paddle': paddle.__version__,
    }
    return layer, inputs, about


def reconstruct(args, converted):
    """A masked autoencoder as a layer, facts about it, and its own part of export.yaml.

    converted: what convert.read has given for --resume.
    """
    model, flags = models_zoo.autoencoder_from(
        args.resume,
        args.model,
        args.norm_pix_loss,
        converted=converted,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )
    masking.check(model.num_patches, args.mask_ratio, model.num_visible)
    own_name = flags.get('model')
    if own_name not in models_zoo.AUTOENCODERS:  # another code base's name
        own_name = models_sizes.autoencoder_of(converted[0]['model'])
    known = {
        **flags,
        'model': args.model or own_name,
        'input_size': model.img_size,
        'in_chans': model.in_chans,
    }
    own = {
        'mask_ratio': args.mask_ratio,
        'patch_size': model.patch_size,
        'norm_pix_loss': bool(model.norm_pix_loss),
    }
    return Reconstruct(model, args.mask_ratio), known, own


def classifier(args, what, converted):
    """A classifier as a layer, facts about it, and its own part of export.yaml."""
    model, known = models_zoo.classifier_from(
        args.resume,
        converted=converted,
        model=args.model,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )
    if what == 'classify':
        return Classify(model), known, {'classes': known['labels']}
    return Features(model), known, {}


def features_of_encoder(args, converted):
    """A pre-trained encoder as linear probing has it, facts about it, and no part of its own."""
    model, known = models_features.encoder_from(
        converted, args.resume, args.model, args.input_size, patch_size=args.patch_size
    )
    return Features(model), known, {}


def random_input(inputs, batch):
    """Random arrays for a batch, one for each input."""
    rng = np.random.default_rng(batch)
    return [rng.standard_normal([batch, *shape[1:]], dtype='float32') for shape in inputs.values()]


@paddle.no_grad()
def live(layer, sample):
    """The outputs of the live model for arrays, as arrays."""
    outputs = layer(*map(paddle.to_tensor, sample))
    return [output.numpy() for output in outputs]


def compare(function, samples, expected):
    """The largest difference; RuntimeError where it is more than rounding."""
    pairs = list(zip(samples, expected))
    differences = []
    for sample, wanted in bar(pairs, 'comparisons'):
        differences.append(exported.difference(function(sample), wanted))
    apart = max(differences)
    if not apart <= TOLERANCE:
        raise RuntimeError(
            f'the exported model differs from the live one by {apart:.1e} of the largest output; '
            'it was not kept'
        )
    return apart


PARSER = cli.parser(__doc__, cli.comparing_device, cli.average)
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
    help='default: classify where there are classes, '
    'reconstruct where there is a decoder, else features',
)
PARSER.add_argument(
    '--onnx', action='store_true', help='also write model.onnx; needs requirements/export.txt'
)
PARSER.add_argument(
    '--int8',
    action='store_true',
    help='also write model.onnx and model_int8.onnx, whose linear layers compute in 8 bits',
)
PARSER.add_argument(
    '--calibration',
    default='',
    metavar='PATH',
    help='for --int8: a folder or quoted glob of pictures; at most '
    f'{quantize.MOST} are taken, and half of them only judge the result',
)
cli.model(PARSER)
sizes.flags(PARSER)
PARSER.add_argument(
    '--mask_ratio',
    type=cli.number(float, 0, 1),
    default=0.75,
    help='for reconstruct: share of the patches that is removed',
)
PARSER.add_argument(
    '--norm_pix_loss',
    action='store_true',
    default=None,
    help='for reconstruct: the weights predict normalised pixels; '
    'this or the opposite is needed where the file does not say',
)
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')

if __name__ == '__main__':
    program.run(main, PARSER)
