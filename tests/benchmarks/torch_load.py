"""torchvision's and timm's transforms behind PyTorch's loader, in one process."""

from pathlib import Path

from torch_steps import repeated, torch  # before torchvision

# isort: split
import pictures
import torchvision
from timm.data import create_transform
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(case):
    """One step is one batch; the floor is to decode its files."""
    if case['what'] != 'finetune':
        augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    case['side'],
                    scale=(0.2, 1.0),
                    interpolation=transforms.InterpolationMode.BICUBIC,
                ),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
    else:
        augment = create_transform(
            case['side'],
            is_training=True,
            color_jitter=None,
            auto_augment='rand-m9-mstd0.5-inc1',
            interpolation='bicubic',
            re_prob=0.25,
            re_mode='pixel',
            re_count=1,
            mean=MEAN,
            std=STD,
        )
    images = torchvision.datasets.ImageFolder(Path(case['scratch']) / 'pictures/train', augment)
    batches = torch.utils.data.DataLoader(images, case['batch'], shuffle=True)

    def step():
        batch, _ = next(iter(batches))
        assert len(batch) == case['batch']

    files = [path for path, _ in images.samples[: case['batch']]]
    return repeated(step), {
        'floor_ms': 1000 * pictures.seconds(files),
        'torchvision': torchvision.__version__,
    }
