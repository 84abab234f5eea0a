"""How far a converted model may differ from the original and pass.

A difference is relative to the largest entry of its tensor. The limits are several times what
float32 gives for ViT-H.
"""

OUTPUT = 1e-5  # outputs, and every rung that RUNGS does not name
RUNGS = {
    'weights': 0.0,
    'blocks': 1e-5,
    'mask': 0.0,
    'loss': 1e-6,
    'gradients': 2e-5,
    'losses of the steps': 5e-6,
}
# Of the optimizer steps, relative to how far they move a tensor; a fifth more or less of weight
# decay makes some 5e-4
MOVES = 1e-4
ACCURACY = 1e-4  # share of the images, since a tie may fall either way
