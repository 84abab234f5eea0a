"""What a training step costs, counted instead of timed: kernels, oneDNN calls, bytes.

A count is the same on a busy machine and on an idle one, so a change that adds a few shows. The
bounds are formulas of the layers, with their reasons beside them; what lies outside the layers, and
the memory of pyramids, are figures that were counted once. Fewer are welcome: lower the figure.
"""

import dataclasses
import functools
import gc
from collections import Counter

import paddle
import pytest
from paddle import nn, profiler

import models_sizes
import models_zoo
from layer import Block, PatchEmbed, PatchMerge
from models_swin import WindowAttention
from models_um import UniformMasking
from util import kernels, onednn

pytestmark = pytest.mark.skipif(
    not onednn.library.path.exists(), reason='this wheel of Paddle has no oneDNN'
)
IMAGES = 2
SIDE = 32
FLOAT = 4  # bytes

# Kernels of a layer, forward and backward. A linear layer of these models, whose rows are narrow:
# one in forward (the tensor of the result), eight in backward (three products, three reshapes, the
# ones and the row of the bias's gradient). oneDNN's own kernels are counted apart; here are the
# tensors that they fill
KERNELS = {nn.Linear: 9, nn.LayerNorm: 6, nn.GELU: 2}
# The tensors of a block's attention: its weights and its result; in backward the gradients of
# weights, scores and of queries, keys and values
ATTENTION = 5
# Kernels outside of these layers, in a step: windows, biases, positions, residuals, masks, loss. A
# residual has three, which compute nothing: the tensor of the sum, and a second name for x. Patches
# that are a product have the changes of shape around it, of the weight as well
OTHERS = {
    'vit_nano_patch4': 59,  # of them 8 a block
    'mae_vit_nano_patch4': 113,  # of them 8 a block
    'swin_nano_32': 521,
    'mae_swin_nano_32': 589,
    'simmim_swin_nano_32': 558,
    'pvt_nano_32': 220,
    'mae_pvt_nano_32': 329,
    'simmim_pvt_nano_32': 256,
}
# The largest memory of a step over that before it, in MB: activations and gradients
MEGABYTES = {
    'vit_nano_patch4': 4.05,
    'mae_vit_nano_patch4': 2.39,
    'swin_nano_32': 22.5,
    'mae_swin_nano_32': 5.49,
    'simmim_swin_nano_32': 22.6,
    'pvt_nano_32': 5.84,
    'mae_pvt_nano_32': 3.15,
    'simmim_pvt_nano_32': 5.97,
}


class Step:
    """A step of a model: forward and backward. `kernels` and `calls` are counted, `bytes` read."""

    def __init__(self, name):
        if name in models_zoo.AUTOENCODERS:
            self.model = models_zoo.autoencoder(name)
            self.loss = lambda images: self.model(images)[0]
        else:
            self.model = models_zoo.classifier(name, num_classes=5, global_pool=True)
            self.loss = lambda images: self.model(images).square().mean()
        self.images = paddle.randn([IMAGES, 3, SIDE, SIDE])
        self()  # the first one prepares oneDNN's operations

    def __call__(self):
        self.loss(self.images).backward()
        for parameter in self.model.parameters():
            parameter.clear_gradient(False)

    def kernels(self):
        """How often each of Paddle's kernels starts, by name."""
        with profiler.Profiler(
            targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None
        ) as profile:
            self()
        nodes = list(profile.profiler_result.get_data().values())
        found = Counter()
        while nodes:
            node = nodes.pop()
            nodes += node.children_node
            if node.type == profiler.TracerEventType.DygraphKernelLaunch:
                found[node.name.removesuffix(' kernel launch')] += 1
        return found

    def onednn_calls(self, monkeypatch):
        """How often an operation of oneDNN runs."""
        calls = []
        run = onednn.Operation.__call__
        with monkeypatch.context() as patch:
            patch.setattr(onednn.Operation, '__call__', lambda *args: calls.append(1) or run(*args))
            self()
        return len(calls)

    def bytes(self):
        """The most memory that tensors hold in a step, over what they hold before it."""
        core = paddle.base.core
        gc.collect()
        core.host_memory_stat_reset_peak_value('Allocated', 0)
        before = core.host_memory_stat_current_value('Allocated', 0)
        self()
        return core.host_memory_stat_peak_value('Allocated', 0) - before

    def number(self, kind):
        return sum(isinstance(part, kind) for part in self.model.sublayers())

    def wide(self):
        """The number of linear layers whose rows are too wide for oneDNN."""
        parts = self.model.sublayers()
        widths = [part.weight.shape[0] for part in parts if isinstance(part, nn.Linear)]
        return sum(width > kernels.NARROW for width in widths)

    def products(self):
        """The numbers of linear layers, the embedding of patches included, and of convolutions."""
        patches = self.number((PatchEmbed, PatchMerge))
        return self.number(nn.Linear) + patches, self.number(nn.Conv2D) - patches


@pytest.fixture(scope='module')
def step_of():
    """step_of(name) -> the step of a model, which is built once."""
    return functools.cache(Step)


def check(name, what, found, bound, why):
    """Fail with the difference where more is found than the bound, or nothing at all."""
    assert found > 0, f'{name}: no {what} were counted'
    assert found <= bound, (
        f'{name}: {found} {what} in a step, {found - bound} more than {bound}, {why}'
    )


@pytest.mark.parametrize('name', OTHERS)
def test_products_are_those_of_the_layers(name, step_of):
    """A linear layer has three gradients, that of the bias too. oneDNN multiplies narrow rows.

    The gradient of a convolution's bias has two, and that of the bias of Swin's windows one, where
    it is the same for all images. The products of attention are oneDNN's. Patches are embedded and
    merged as by linear layers.
    """
    step = step_of(name)
    linears, convolutions = step.products()
    biases = 0 if isinstance(step.model, UniformMasking) else step.number(WindowAttention)
    bounds = {
        'addmm': step.wide(),
        'matmul': 3 * linears + 2 * convolutions + biases,
        'conv2d': convolutions,
        'conv2d_grad': convolutions,
    }
    found = step.kernels()
    for kernel, bound in bounds.items():
        if bound or found[kernel]:
            why = f'for {linears} linear layers, {convolutions} convolutions, {biases} biases'
            check(name, f'{kernel} kernels', found[kernel], bound, why)


@pytest.mark.parametrize('name', OTHERS)
def test_no_kernel_is_added_to_a_step(name, step_of):
    step = step_of(name)
    of_layers = sum(count * step.number(kind) for kind, count in KERNELS.items())
    of_layers += ATTENTION * step.number(Block)
    found = step.kernels()
    why = f'{of_layers} of the layers and {OTHERS[name]} others; by name: {dict(found)}'
    check(name, 'kernels', found.total(), of_layers + OTHERS[name], why)


@pytest.mark.parametrize('name', OTHERS)
def test_onednn_runs_each_norm_activation_softmax_and_residual_twice(name, step_of, monkeypatch):
    """Once forward, once backward. A block has two residuals, a convolution adds its bias.

    Attention has two products and their four gradients, and may add a bias. A linear layer has its
    product, but for wide rows.
    """
    step = step_of(name)
    kinds = nn.LayerNorm, nn.GELU, Block, nn.Conv2D
    norms, activations, blocks, biases = map(step.number, kinds)
    found = step.onednn_calls(monkeypatch)
    why = f'for {norms} normalisations, {activations} activations, {blocks} blocks, {biases} biases'
    biases += step.number(WindowAttention)
    narrow = step.products()[0] - step.wide()
    bound = 2 * (norms + activations) + (2 + 2 * 2 + 6) * blocks + biases + narrow
    check(name, 'oneDNN calls', found, bound, why)


@pytest.mark.parametrize('name', MEGABYTES)
def test_no_memory_is_added_to_a_step(name, step_of):
    found = step_of(name).bytes()
    check(name, 'bytes', found, int(1.02 * MEGABYTES[name] * 1e6), 'which is what it took before')


@pytest.mark.parametrize('name, tokens', [('vit_nano_patch4', 65), ('mae_vit_nano_patch4', 17)])
def test_a_vits_block_keeps_what_its_gradients_need_and_no_more(name, tokens, monkeypatch):
    """Of each token 16 widths and a row of each head's weights.

    1 for each of: the inputs of the two normalisations, of the product for queries, keys and
    values, of the projection, of the MLP's first layer; 3 for queries, keys and values; 4 for each
    of the inputs of GELU and of the MLP's second layer.
    """
    size = models_sizes.SIZES['nano_patch4']
    taken = []
    for depth in (2, 3):
        deeper = dataclasses.replace(size, depth=depth)
        monkeypatch.setitem(models_sizes.SIZES, 'nano_patch4', deeper)
        taken.append(Step(name).bytes())
    of_block = taken[1] - taken[0]
    bound = FLOAT * IMAGES * tokens * (16 * size.width + size.heads * tokens)
    check(name, 'bytes of a block', of_block, int(1.02 * bound), '16 widths and the weights')
