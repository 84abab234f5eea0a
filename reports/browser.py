"""reports/index.html: all records, their curves and the reproduction table in one page.

The page opens from disk. It asks no host for anything: style, script and curves are in the file.
"""

import base64
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
from markupsafe import Markup

import recipes
from recipes import cost
from reports import digits, front, plots, training
from util import record as records

TEMPLATE = Path(__file__).with_name('template.html')
# Statuses in the order of the table: first what was measured
ORDER = ('measured', 'ported-eval', 'not-run', 'taken-over')


@dataclass(frozen=True)
class Cell:
    """A cell of the reproduction table: its text, and the number that it is sorted by, if any."""

    text: str
    key: float | None = None


def page(folder: str | Path) -> str:
    """The page of a folder of records."""
    folder = Path(folder)
    found = front.find(folder)
    shown = []
    for name, record in found.all.items():
        shown.append(_described(name, record) | {'pictures': pictures(folder, record)})
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    return template.render(
        counts=front.count(found),
        meanings=records.STATUSES,
        header=('run', 'family', 'to expect', 'status', 'here', 'device-hours'),
        rows=_rows(found),
        records=shown,
        order=ORDER,
    )


def _rows(found: front.Found) -> list[dict[str, Cell]]:
    """The reproduction table: every run once, what was measured first."""
    rows = []
    for family, runs in front.families().items():
        rows += [_row(family, recipe, found.done) for recipe in runs]
    return sorted(rows, key=lambda row: row['status'].key)


def _row(family: str, recipe: recipes.Recipe, done: dict) -> dict[str, Cell]:
    status = front.status(recipe, done)
    here = front.measured_here(recipe, done)
    hours = cost.hours(recipe)
    expected = '; '.join(map(str, recipe.figures))
    first = recipe.figures[0].value if recipe.figures else -1
    return {
        'run': Cell(recipe.name),
        'family': Cell(family),
        'to expect': Cell(expected, first),
        'status': Cell(status, ORDER.index(status)),
        'here': Cell(here, _number(here)),
        'device-hours': Cell(hours, _number(hours)),
    }


def _number(text: str) -> float:
    """The first number in a text; -1 where there is none, so that it is sorted first."""
    found = re.search(r'\d[\d,]*\.?\d*', text)
    return float(found[0].replace(',', '')) if found else -1


def _described(name: str, record: dict) -> dict:
    """What the template shows of a record: tables, lists and the ladder."""
    tables = {}
    for title in records.TABLES:
        entries = record.get(title) or {}
        if entries:
            tables[title] = {key: records.text(value) for key, value in entries.items()}
    lists = {}
    for title in (*records.PEOPLE_LISTS, *records.PROGRAM_LISTS):
        if record.get(title):
            lists[title] = record[title]

    rungs = record.get('parity') or []
    return {
        'name': name,
        'record': record,
        'tables': tables,
        'lists': lists,
        'columns': records.COLUMNS,
        'rungs': [records.cells(rung) for rung in rungs],
        'notes': [f'{rung["name"]}: {rung["note"]}' for rung in rungs if rung.get('note')],
        'legend': records.LEGEND,
    }


def pictures(folder: Path, record: dict) -> list[Markup]:
    """A record's curves as SVG, drawn from its log; other pictures as they are."""
    if not record.get('pictures'):
        return []
    drawings = _drawings(folder, record)
    if drawings:
        return [svg(draw) for draw in drawings]
    return [_embedded(folder / name) for name in record['pictures']]


def _drawings(folder: Path, record: dict) -> list[Callable]:
    """The functions(path) that draw a record's pictures from its log; none for unknown logs."""
    file = folder / record['log']['file']
    if 'recipe' in record:
        recipe = recipes.find(record['recipe'])
        runs = {recipe.name: training.read_log(file)}
        return [partial(plots.curves, runs=runs, published=recipe.figures)]

    results = json.loads(file.read_text())
    if digits.FINETUNED not in results:
        return []
    return [partial(draw, results) for draw in digits.drawings(results).values()]


def svg(draw: Callable) -> Markup:
    """What draw(path) writes, as an element of the page; black becomes the colour of the text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'curves.svg'
        draw(path)
        text = path.read_text(encoding='utf-8')
    element = text[text.index('<svg') :].rstrip()
    return Markup(element.replace('#000000', 'currentColor'))


def _embedded(path: Path) -> Markup:
    """A PNG inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup(f'<img alt="" src="data:image/png;base64,{data}">')
