"""Which operations of a forward pass run in low precision, seen in a program that is not run.

Paddle casts the inputs of operations by the same lists in a static program, which a CPU can trace
though it has no mixed precision: in bfloat16, because CPUs lack float16's kernels. The lists of the
two are the same. The expectation is PyTorch's for the official code: products
in low precision; softmax, layer norm, target and loss in float32.
"""

import paddle
import pytest
from paddle import nn

import models_zoo
from util import amp, device

PRODUCTS = {'matmul', 'conv2d'}
FLOAT32 = {'softmax', 'layer_norm', 'mean', 'sum', 'pow', 'square', 'cross_entropy_with_softmax'}
# What takes the type of its inputs: all low, or else float32
FOLLOWING = {'add', 'multiply', 'gelu', 'concat', 'scale', 'subtract', 'divide'}


def operations(model, function, *specs):
    """(name, types of the floating-point inputs, types of the outputs) of each operation.

    specs: shapes of the inputs of `function`, which calls the model.
    """

    class Traced(nn.Layer):
        def __init__(self):
            super().__init__()
            self.model = model  # whose parameters are the program's

        def forward(self, inputs):
            return function(*inputs)

    arguments = [[paddle.static.InputSpec(shape, 'float32') for shape in specs]]
    static = paddle.jit.to_static(Traced(), input_spec=arguments, full_graph=True)
    program, _ = static.forward.get_concrete_program(*arguments)
    found = []
    for operation in program.main_program.global_block().ops:
        sources, results = operation.operands_source(), operation.results()
        types = [[str(x.dtype)[7:] for x in part if is_floating(x)] for part in (sources, results)]
        found.append((operation.name().removeprefix('pd_op.'), *types))
    return found


def is_floating(value):
    try:
        return value.dtype in (paddle.float32, paddle.bfloat16, paddle.float16)
    except ValueError:  # a list of tensors
        return False


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Mixed precision as on a GPU; that of a CPU is not Paddle's auto_cast."""
    monkeypatch.setattr(device, 'kind', lambda: 'gpu')


@pytest.fixture
def autocast(monkeypatch):
    monkeypatch.setattr(device, 'precision', lambda asked: asked)
    return amp.caster('bfloat16')


def assert_types(found, products):
    """The rules of the module's docstring, for at least this number of products."""
    count = 0
    for name, inputs, outputs in found:
        if name in PRODUCTS:
            assert {*inputs, *outputs} == {'bfloat16'}, (name, inputs, outputs)
            count += 1
        elif name in FLOAT32:
            assert {*inputs, *outputs} == {'float32'}, (name, inputs, outputs)
        elif name in FOLLOWING and inputs:
            expected = {'bfloat16'} if {*inputs} == {'bfloat16'} else {'float32'}
            assert {*inputs, *outputs} == expected, (name, inputs, outputs)
    assert count >= products
    return [name for name, _, _ in found]


@pytest.mark.parametrize('norm_pix_loss', [False, True])
def test_pre_training_has_target_and_loss_in_float32(autocast, norm_pix_loss):
    model = models_zoo.autoencoder(
        'mae_vit_nano_patch4', img_size=16, in_chans=1, norm_pix_loss=norm_pix_loss
    )

    def loss_of(images, noise):
        with autocast():
            loss, _, _ = model(images, 0.75, noise)
        return loss

    found = operations(model, loss_of, [2, 1, 16, 16], [2, 16])
    blocks = len(model.blocks) + len(model.decoder_blocks)
    names = assert_types(found, products=1 + 6 * blocks + 2)
    assert names.count('softmax') == blocks
    assert names.count('layer_norm') == 2 * blocks + 2

    # Everything after the decoder's last product is the loss
    last = max(number for number, name in enumerate(names) if name == 'matmul')
    for name, inputs, outputs in found[last + 1 :]:
        if name in ('subtract', 'square', 'pow', 'mean', 'sum', 'divide', 'multiply', 'sqrt'):
            assert {*inputs, *outputs} == {'float32'}, (name, inputs, outputs)
    assert found[-2][2] == ['float32'] or found[-1][1] == ['float32']


def test_a_classifier_gives_scores_whose_loss_is_float32(autocast):
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, in_chans=1, num_classes=3, global_pool=True
    )

    def loss_of(images, targets):
        with autocast():
            scores = model(images)
        return nn.functional.cross_entropy(scores.astype('float32'), targets, soft_label=True)

    found = operations(model, loss_of, [2, 1, 16, 16], [2, 3])
    blocks = len(model.blocks)
    names = assert_types(found, products=1 + 6 * blocks + 1)
    assert names.count('softmax') == blocks
    assert 'cross_entropy_with_softmax' in names


def test_without_mixed_precision_nothing_is_low(autocast):
    model = models_zoo.classifier('vit_nano_patch4', img_size=16, in_chans=1, num_classes=3)

    def scores_of(images):
        with amp.autocast('off'):
            return model(images)

    found = operations(model, scores_of, [2, 1, 16, 16])
    assert not any('bfloat16' in types for _, *both in found for types in both)


def test_the_trace_sees_a_softmax_in_low_precision():
    """Otherwise the tests above would hold for nothing."""
    model = models_zoo.classifier('vit_nano_patch4', img_size=16, in_chans=1, num_classes=3)

    def scores_of(images):
        with amp.autocast('bfloat16', low=['softmax']):
            return model(images)

    with pytest.raises(AssertionError, match='softmax'):
        assert_types(operations(model, scores_of, [2, 1, 16, 16]), products=0)
