"""Panels, errors and curves as HTML, which holds all its pictures itself."""

import base64
import html
import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from reports import browser, plots, training
from util.errors import InputError
from util.panels import Sheet


def figures(panels: list[np.ndarray], captions: list[str]) -> str:
    """Panels uint8 [height, width, 3] side by side, or below each other where there is no room."""
    parts = []
    for pixels, caption in zip(panels, captions):
        text = html.escape(caption)
        parts.append(
            f'<figure><img alt="{text}" src="{embedded(pixels)}">'
            f'<figcaption>{text}</figcaption></figure>'
        )
    return f'<div class="figures">{"".join(parts)}</div>'


def sheet(panels: Sheet, first: int = 0) -> str:
    """The only row of a sheet with its texts, from one of its panels on."""
    captions = list(panels.captions)
    if panels.titles:
        captions = [f'{above}: {below}' for above, below in zip(captions, panels.titles[0])]
        captions[0] = panels.captions[0]  # its title is the name of an upload
    (shown,) = panels.rows
    return figures(shown[first:], captions[first:]) + note(panels.note)


def embedded(pixels: np.ndarray) -> str:
    """The address of a picture that holds the picture itself."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'png')
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'data:image/png;base64,{data}'


def note(text: str) -> str:
    """A note of a sheet, line by line."""
    lines = [html.escape(line) for line in text.splitlines()]
    return f'<p class="note">{"<br>".join(lines)}</p>'


def bars(title: str, values: dict[str, float]) -> str:
    """Numbers with their names and a bar for each."""
    largest = max(*values.values(), 1e-9)
    rows = []
    for name, value in values.items():
        share = 100 * value / largest
        rows.append(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{value:.4f}</td>'
            f'<td class="track"><div style="width:{share:.1f}%"></div></td></tr>'
        )
    return f'<table class="bars"><caption>{html.escape(title)}</caption>{"".join(rows)}</table>'


def curves(folders: list[str]) -> str:
    """The curves of runs, from the log.txt of each folder, and the last line of each."""
    runs, lines = {}, []
    for folder in folders:
        try:
            entries = training.read_log(Path(folder) / 'log.txt')
        except InputError as error:
            lines.append(f'{folder}: no curve yet ({error})')
            continue
        runs[folder] = entries
        last = entries[-1]
        lines.append(f'{folder}: epoch {last["epoch"] + 1}, loss {last["train_loss"]:.4f}')
    drawn = browser.svg(partial(plots.curves, runs=runs)) if runs else ''
    return f'<div class="curves">{drawn}</div>{note(chr(10).join(lines))}'
