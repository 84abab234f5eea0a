"""Training steps of mmsegmentation's UPerNet, MAE backbone and optimizer, as mmengine does them."""

# torch_steps finds the references of the parity tests
from torch_steps import DEVICE, parameters, pictures_like, repeated

# isort: split
import segment as references
import torch
from mmengine import ConfigDict
from mmseg.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmseg.utils import register_all_modules

CLASSES = 150
OTHERS = {
    'base_patch16': dict(out_indices=[3, 5, 7, 11], channels=768, auxiliary=256),
    'nano_patch4': dict(out_indices=[0, 1, 2, 3], channels=32, auxiliary=16),
}


def segment(case):
    register_all_modules()
    # mmseg cannot train on one image because PyTorch refuses to normalise one value; without that
    # check the time is the same
    torch.nn.functional._verify_batch_size = lambda size: None
    side = case['side']
    recipe = references.recipe(
        {
            **case['size'],
            **OTHERS[case['model']],
            'image': side,
            'classes': CLASSES,
            'window': side,
            'stride': side,
        }
    )
    recipe['backbone']['drop_path_rate'] = recipe['decode_head']['dropout_ratio'] = 0.1
    recipe['auxiliary_head']['dropout_ratio'] = 0.1
    model = MODELS.build(ConfigDict(recipe))
    model.init_weights()
    model.to(DEVICE).train()
    construct = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayOptimizerConstructor')(
        dict(type='OptimWrapper', optimizer=dict(references.ADAMW)),
        dict(num_layers=case['size']['depth'], layer_decay_rate=0.65),
    )
    optimizer, images = construct(model), torch.from_numpy(pictures_like(case)).to(DEVICE)
    labels = [
        references.labelled(torch.randint(CLASSES, (side, side), device=DEVICE))
        for _ in range(case['batch'])
    ]

    def step():
        loss, _ = model.parse_losses(model(images, labels, mode='loss'))
        optimizer.update_params(loss)
        return loss.item()

    return repeated(step), {
        **parameters(model),
        'model': 'mmsegmentation 1.2.2',
        'attention': 'eager',
    }
