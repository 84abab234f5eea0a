"""What all tabs of the page share: the upload of a picture, errors as messages, turns of models."""

import functools
import html
import re
import tempfile
from collections.abc import Callable

import gradio as gr
import page_models
import page_text as text
from page_models import LARGE

from util import panels
from util.errors import InputError

# One model works at a time, and the last of several quick clicks counts; nothing is offered to
# programs
ONE = {
    'trigger_mode': 'always_last',
    'concurrency_limit': 1,
    'concurrency_id': 'models',
    'api_visibility': 'private',
    'show_progress': 'minimal',
}


def upload(value: str | None) -> gr.Image:
    """A picture to upload, paste or take; functions get the path of the file as it was uploaded.

    gradio itself would decode the file, and the project's own reader reads it otherwise. (For a
    subclass gradio would write a file beside this one.)
    """
    picture = gr.Image(
        value,
        label=text.PICTURE,
        sources=['upload', 'webcam', 'clipboard'],
        placeholder=text.DROP,
        webcam_options=gr.WebcamOptions(mirror=False),  # text and digits read as they are
        buttons=['fullscreen'],
        height=280,
        elem_id='picture',
    )
    picture.preprocess = path_of
    return picture


def path_of(payload) -> str | None:
    """The path of a file, which gradio has found to be an upload; None without a file."""
    return None if payload is None else payload.path


def choice_of(examples: list[str], picture: gr.Image) -> None:
    """Examples to choose from; their files must be in a folder that gradio may read."""
    samples = [[file] for file in examples]
    shown = gr.Dataset(
        components=['image'],
        samples=samples,
        samples_per_page=len(samples),
        type='index',
        label=text.EXAMPLES,
    )
    shown.click(lambda index: examples[index], shown, picture, api_visibility='private')


def told(function: Callable) -> Callable:
    """The function, with its InputError as a message on the page."""

    @functools.wraps(function)
    def wrapped(*values):
        try:
            return function(*values)
        except InputError as error:
            folders = rf'{re.escape(tempfile.gettempdir())}/\S+/'  # of uploads
            message = html.escape(re.sub(folders, '', str(error)))
            raise gr.Error(message, duration=None, print_exception=False) from None

    return wrapped


def weights_of(models: dict) -> gr.Dropdown:
    """The choice among some models, by their names; the name alone where there is one."""
    names = list(models)
    return gr.Dropdown(names, value=names[0], label=text.WEIGHTS, interactive=len(names) > 1)


def panel(label: str, min_width: int = 150, **options) -> gr.Image:
    """A place for a picture that is shown pixel by pixel."""
    return gr.Image(
        label=label,
        alt_text=label,
        format='png',
        interactive=False,
        buttons=['download', 'fullscreen'],
        min_width=min_width,
        elem_classes='panels',
        **options,
    )


def patch_of(place: gr.SelectData, size: tuple[int, int], grid: tuple[int, int]) -> int:
    """The number of the patch that was clicked in a panel of this size, enlarged."""
    times = panels.repeats(size, LARGE)
    x, y = (number // times for number in place.index)
    row = y * grid[0] // size[0]
    column = x * grid[1] // size[1]
    return row * grid[1] + column


class Desk:
    """The picture that is looked at, and the tab that is open.

    A tab computes when it is opened, when the picture changes, and when its own controls change.
    """

    def __init__(self, picture: gr.Image):
        self.picture = picture
        self.is_open = gr.State()

    def connect(
        self, tab: gr.Tab, function: Callable, inputs: list, outputs: list, changes: list
    ) -> None:
        """Show function(file, *inputs) in a tab; changes: the events of its own controls."""
        name = tab.label
        if self.is_open.value is None:
            self.is_open.value = name

        @told
        def opened(file, *values):
            if not file:
                return gr.skip()
            return function(page_models.check(file), *values)

        def changed(is_open, file, *values):
            return opened(file, *values) if is_open == name else gr.skip()

        asked = [self.picture, *inputs]
        tab.select(lambda: name, None, self.is_open, api_visibility='private')
        gr.on([tab.select, *changes], opened, asked, outputs, **ONE)
        # the first picture of the page is a change too
        self.picture.change(changed, [self.is_open, *asked], outputs, **ONE)
