"""tests/newcomer.md names the file that decides each of its questions, and a piece of its line."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def rows():
    table = [line for line in (HERE / 'newcomer.md').read_text().splitlines() if line[:2] == '| ']
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in table[1:]]


def test_there_are_39_questions():
    assert len(rows()) == 39


@pytest.mark.parametrize('question, file, piece', rows())
def test_the_deciding_line_is_in_the_file(question, file, piece):
    assert piece in (HERE.parent / file).read_text(), question
