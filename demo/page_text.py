"""The texts of the page. Errors and notes are those of the programs that do the work."""

from pathlib import Path

TITLE = 'Masked autoencoders'
INTRO = """# Masked autoencoders
A model sees a few patches of a picture and fills in the rest. Choose a picture and hide patches of
it. Everything runs on this computer: no picture leaves it."""
PICTURE = 'Picture'
DROP = 'Drop a picture here, or click to choose one'
EXAMPLES = 'Examples'
WEIGHTS = 'Weights'

RATIO = 'Mask ratio'
RATIO_INFO = 'Share of the patches that are hidden'
KIND = 'Kind of mask'
SEED = 'Seed'
ANOTHER = 'Another mask'
VISIBLE = 'Visible patches'
VISIBLE_INFO = 'Click on patches of the masked picture, or change the numbers here and press Enter'
NORMALISED = 'The weights predict normalised pixels'
SAID = {
    True: 'The file says that they do. Switch it off to see the prediction as it is.',
    False: 'The file says that they do not. Switched on, the result is wrong.',
    None: 'The file does not say it; official *_full weights do.',
}
REASONS = 'Why does a reconstruction look like noise?'
SLIDER = 'Original | Reconstruction + visible'
SAVE = 'Save all panels as one picture'
COMMAND = 'The same picture from the command line'
ERROR = 'Mean squared error of the hidden patches, pixels normalised as in training'

CLASSES = 'Most probable classes'
SEGMENTED = 'Classes of the pixels'
DETECTED = 'Objects'
THRESHOLD = 'Smallest score'

BLOCK = 'Block'
OUTPUT = 'the whole encoder'
COUNT = 'Pictures'
NEAREST = '### Nearest pictures'
NO_FOLDER = 'Start the page with `--among FOLDER` to search the pictures of a folder.'
COMPONENTS = '### Principal components'

QUERY = 'Who looks'
QUERIES = {'cls': 'class token', 'mean': 'all patches, averaged', 'patch': 'one patch'}
PATCH = 'Patch'
PATCH_INFO = 'Or click on a patch of the picture'
SEEN = 'What the model sees'

EVERY = 5  # seconds
CURVES = f'The curves of `--output_dir` are read again every {EVERY} seconds.'


def reasons() -> str:
    """The section on noise of docs/visualize.md, without its heading."""
    page = Path(__file__).parent.parent / 'docs/visualize.md'
    text = page.read_text(encoding='utf-8')
    _, _, rest = text.partition('### The reconstruction looks like noise\n')
    return rest.partition('\n## ')[0].strip()
