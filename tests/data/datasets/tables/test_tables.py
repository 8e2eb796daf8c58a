"""Tables as people have them: each report is a case here, with what it must become or what must be said."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from imgcls.cli.app import main
from imgcls.compose.overrides import is_table
from imgcls.data.datasets.tables.values import expression
from imgcls.data.renames import renames_of
from imgcls.data.source import Source
from imgcls.errors import ConfigError, DataError
from tests.conftest import SMALL, imagefolder
from tests.data.datasets.tables.test_image_table import lines, pictures, read, table

Capture = pytest.CaptureFixture[str]
PATHS = [*(f"red{i}.png" for i in range(12)), *(f"blue{i}.png" for i in range(12))]
COLORS = ["red"] * 12 + ["blue"] * 12


def rows(*columns: object, mark: str = ",", header: str = "") -> str:
    """A table of these columns: each a list, or a function of the row's number."""
    cells = [[one(i) if callable(one) else one[i] for i in range(24)] for one in columns]  # type: ignore[index]
    return header + "".join(mark.join(map(str, row)) + "\n" for row in zip(*cells, strict=True))


def labels(source: Source) -> dict[str, str]:
    """{name of the file: its class}, over all parts."""
    found = {}
    for part in source.parts.values():
        assert part.paths is not None
        found |= {Path(path).name: source.classes[i] for path, i in zip(part.paths, part.labels, strict=True)}
    return found


TRUTH = dict(zip(PATHS, COLORS, strict=True))


def stray(i: int) -> str:
    return '"x' if i == 8 else "x"


READ = {  # what is read as red and blue, without a warning: text, name of the file, keys
    "a stray quote in .tsv": (rows(PATHS, COLORS, stray, mark="\t", header="path\tlabel\tnote\n"), "l.tsv", {}),
    "a stray quote in .txt": (rows(PATHS, COLORS, stray, header="path,label,note\n"), "l.txt", {}),
    "a stray quote between blanks": (rows(PATHS, COLORS, stray, mark=" ", header="path label note\n"), "l.txt", {}),
    "a quote inside a cell": (rows(PATHS, COLORS, lambda i: '5" pot', header="path,label,note\n"), "l.csv", {}),
    "a text of two lines": (
        rows(PATHS, lambda i: '"one\ntwo, three"', COLORS, header="path,note,label\n"),
        "l.csv",
        {},
    ),
    "quotes after a blank": (rows(PATHS, lambda i: f' "{COLORS[i]}"', header="path, label\n"), "l.csv", {}),
    "quotes around all cells of .tsv": (
        rows(lambda i: f'"{PATHS[i]}"', lambda i: f'"{COLORS[i]}"', mark="\t", header='"path"\t"label"\n'),
        "l.tsv",
        {},
    ),
    "one-hot": (
        rows(PATHS, lambda i: int(i < 12), lambda i: int(i >= 12), mark=", ", header="filename, red, blue\n"),
        "_classes.csv",
        {},
    ),
    "one-hot as floats beside another column": (
        rows(PATHS, lambda i: float(i < 12), lambda i: float(i >= 12), range(24), header="image,red,blue,width\n"),
        "l.csv",
        {},
    ),
    "ELPV": (rows(PATHS, lambda i: f"  {i % 4 / 3}  ", COLORS, mark=" "), "labels.csv", {"label": 2}),
    "sep=": (rows(PATHS, COLORS, mark=";", header="sep=;\npath;label\n"), "l.csv", {}),
    "sep= of an odd separator": (rows(PATHS, COLORS, mark="^", header="sep=^\r\npath^label\r\n"), "l.csv", {}),
    "tabs in .csv": (rows(PATHS, COLORS, mark="\t", header="file name\tclass label\n"), "l.csv", {}),
    "columns by number": (rows(COLORS, range(24), PATHS, header="a,b,c\n"), "l.csv", {"path": 2, "label": "0"}),
    "the label first": (rows(COLORS, PATHS), "l.csv", {}),
    "an index by pandas": (rows(range(24), PATHS, COLORS, header=",path,label\n"), "l.csv", {}),
    "an index without a header": (rows(range(24), PATHS, COLORS), "l.csv", {}),
    "an id that is no path": (rows(range(24), PATHS, COLORS, header="id,photo,label\n"), "l.csv", {}),
    "Label Studio's column": (rows(range(24), PATHS, COLORS, header="annotation_id,image,choice\n"), "l.csv", {}),
    "JSON lines": (
        "".join(json.dumps({"file_name": p, "n": 1, "label": TRUTH[p]}) + "\n\n" for p in PATHS),
        "metadata.jsonl",
        {},
    ),
    "lists of one in JSON lines": (
        "".join(json.dumps({"image": p, "label": [TRUTH[p]]}) + "\n" for p in PATHS),
        "l.ndjson",
        {},
    ),
    "lines of old Macs": (rows(PATHS, COLORS, header="path,label\n").replace("\n", "\r"), "l.csv", {}),
    "an end of file of DOS": (rows(PATHS, COLORS, header="path,label\n") + "\x1a", "l.csv", {}),
    "a file that starts with #": (lines([("#1.png", "red")]) + rows(PATHS, COLORS), "l.csv", {}),
    "words of names of columns before blanks": (
        rows(PATHS, COLORS, range(24), header="Image Index,Finding Labels,Follow-up #\n"), "l.csv", {"label": 1},
    ),
    "words of names of columns before blanks, by ;": (
        rows(PATHS, COLORS, mark=";", header="My Image Name;The Class\n"), "l.csv", {},
    ),
    "a diagnosis": (rows(PATHS, COLORS, range(24), header="file,dx,mark\n"), "l.csv", {}),
    "a species": (rows(PATHS, range(24), COLORS, header="image_id,width,Species\n"), "l.csv", {}),
    "a breed beside parts": (
        rows(PATHS, COLORS, range(24), ["train"] * 24, header="id,breed,n,split\n"), "l.csv", {},
    ),
    "lists of one by Python": (rows(PATHS, lambda i: f"['{COLORS[i]}']", header="path,labels\n"), "l.csv", {}),
    "lists of one by JSON": (
        rows(PATHS, lambda i: f'[""{COLORS[i]}""]'.join('""'), header="path,tags\n"), "l.csv", {},
    ),
    "tuples of one": (rows(PATHS, lambda i: f"\"('{COLORS[i]}',)\"", header="path,label\n"), "l.csv", {}),
    "choices": (
        rows(PATHS, lambda i: f'"{{""choices"": [""{COLORS[i]}""]}}"', header="path,label\n"), "l.csv", {},
    ),
    "lists of one without quotes": (rows(PATHS, lambda i: f"[ {COLORS[i]} ]", header="path,label\n"), "l.csv", {}),
    "a list in JSON": (json.dumps([{"n": 1, "file": p, "label": TRUTH[p]} for p in PATHS], indent=1), "l.json", {}),
    "lists in a list in JSON": (json.dumps([[p, TRUTH[p]] for p in PATHS]), "l.json", {}),
    "lists of paths in JSON": (json.dumps({"red": PATHS[:12], "blue": PATHS[12:]}), "l.json", {}),
    "one-hot of the sides of a box": (
        rows(PATHS, COLORS, lambda i: int(i < 12), lambda i: int(i >= 12), header="path,label,rle_like,x\n"), "l.csv",
        {"label": "label"},
    ),
}  # fmt: skip


ONES = {  # how a class is marked, and how the others
    "yes": ("yes", "no"), "TRUE": ("TRUE", "FALSE"), "x": ("x", ""), "X and -": ("X", "-"), "1.00": ("1.00", "0.00"),
    "✓": ("✓", ""), "y": ("Y", "N"), "probabilities": ("0.9", "0.1"), "with a comma": ('"0,75"', '"0,25"'),
}  # fmt: skip
for one, (mark, other) in ONES.items():
    hot = rows(
        PATHS,
        lambda i, a=mark, b=other: a if i < 12 else b,  # type: ignore[misc]
        lambda i, a=mark, b=other: a if i >= 12 else b,  # type: ignore[misc]
        header="filename,red,blue\n",
    )
    READ[f"one-hot by {one}"] = (hot, "l.csv", {})
for left, right in ("''", "‘’", "“”", "„“", "«»", "``"):
    quoted = rows(lambda i, a=left, b=right: f"{a}{PATHS[i]}{b}", lambda i, a=left, b=right: f"{a}{COLORS[i]}{b}")  # type: ignore[misc]
    READ[f"quotes {left}{right}"] = (f"path,label\n{quoted}", "l.csv", {})
    READ[f"quotes {left}{right} without a header"] = (quoted.replace(",", ", "), "l.txt", {})
for mark in (": ", ":", " -> ", "=", " => "):
    READ[f"pairs by {mark}"] = (rows(PATHS, COLORS, mark=mark), "l.txt", {})
MARKDOWN = "| path | label |\n|------|:-----:|\n" + rows(
    lambda i: f"| {PATHS[i]}", lambda i: f"{COLORS[i]} |", mark=" | "
)
READ |= {
    "Markdown": (MARKDOWN, "l.csv", {}),
    "a database's table": (rows(PATHS, COLORS, mark=" | ", header="path | label\n-----+-----\n"), "l.txt", {}),
    "bars at the ends": (rows(lambda i: f"| {PATHS[i]}", lambda i: f"{COLORS[i]} |", mark=" | "), "l.txt", {}),
    "a ruler": (rows(PATHS, COLORS, mark="   ", header="path  label\n----  -----\n"), "l.txt", {}),
    "pairs below a header": (rows(PATHS, COLORS, mark=": ", header="path: label\n"), "l.txt", {}),
    "a JSON object": (json.dumps(TRUTH, indent=1), "l.json", {}),
    "a header again": ((one := rows(PATHS, COLORS, header="path,label\n")) + one, "l.csv", {}),
    "names beside numbers": (rows(PATHS, lambda i: i // 12, COLORS, header="path,label,class\n"), "l.csv", {}),
    "numbers beside names": (rows(PATHS, COLORS, lambda i: i // 12, header="path,label,class_id\n"), "l.csv", {}),
    "a label that is always the same": (rows(PATHS, ["x"] * 24, COLORS, header="path,label,class\n"), "l.csv", {}),
    "where it is": (rows(PATHS, COLORS, range(24), lambda i: i % 5, header="path,label,x,y\n"), "l.csv", {}),
    "an attribute": (
        rows(PATHS, lambda i: 1 if i < 12 else -1, [1, -1] * 12, mark="  ", header="24\nRed Young\n"),
        "list_attr.txt",
        {"label": "Red", "rename": {"1": "red", "-1": "blue"}},
    ),
    "a label that looks like a mark": (
        rows(PATHS, lambda i: "x" if i < 12 else "y", ["0"] * 24, header="path,label,flipped\n"),
        "l.csv",
        {"rename": {"x": "red", "y": "blue"}},
    ),
    "one-hot beside another flag": (
        rows(PATHS, lambda i: int(i < 12), lambda i: int(i >= 12), [1, 0, 0] * 8, header="path,red,blue,is_flipped\n"),
        "l.csv",
        {},
    ),
}


@pytest.mark.parametrize("name", READ)
def test_tables_that_are_read(name: str) -> None:
    pictures()
    Path("pictures/#1.png").write_bytes(Path("pictures/red0.png").read_bytes())
    text, file, keys = READ[name]
    source = read(table(text, f"pictures/{file}"), **keys)
    assert labels(source) == TRUTH | ({"#1.png": "red"} if "#" in name else {})
    assert not source.all_warnings()


REFUSED = {  # what is a question or an error: text, name of the file, keys, what the message says
    "a stray quote": (
        rows(PATHS, COLORS, stray, header="path,label,note\n"),
        {},
        "line 10: a quote is opened and not closed: red8.png,red,",
    ),
    "two stray quotes": (
        rows(PATHS, COLORS, lambda i: '"x' if i == 8 else 'x"' if i == 15 else "x", header="path,label,note\n"),
        {},
        "line 10: a quote is opened here and closed only in line 17, with rows in between",
    ),
    "a stray quote before quoted cells": (
        rows(PATHS, lambda i: '"red' if i == 3 else f'"{COLORS[i]}"', header="path,label\n\n"),
        {},
        "line 6: a quote is opened and not closed",
    ),
    "text after a quote": (
        rows(PATHS, lambda i: '"red" x' if i == 3 else "red", header="path,label\n"),
        {},
        "line 5: text after a closing quote: red3.png,",
    ),
    "lines after a text of two lines": (
        'path,note,label\nred0.png,"a\nb",red\nred1.png,x,\n',
        {},
        "line 4: no label",
    ),
    "no one in a row of one-hot": (
        rows(PATHS, lambda i: int(i < 12 and i != 3), lambda i: int(i >= 12), header="filename,red,blue\n"),
        {},
        "line 5: of the one-hot columns red, blue, none of them is 1",
    ),
    "two in a row of one-hot": (
        rows(PATHS, lambda i: int(i < 12), lambda i: int(i >= 12 or i == 3), header="filename,red,blue\n"),
        {},
        "line 5: of the one-hot columns red, blue, 2 of them are 1 (red, blue); one class an image is needed",
    ),
    "a label among one-hot columns": (
        rows(PATHS, lambda i: int(i < 12), lambda i: int(i >= 12), header="path,target,background\n"),
        {},
        "is 'target' the label, or one of the one-hot columns target, background? Type dataset.label=target",
    ),
    "two columns that may be the label": (
        rows(PATHS, lambda i: i % 4 / 4, COLORS, mark="  "),
        {},
        "which one is the label? dataset.label=1 (0.0, 0.25, 0.5, ... (4 in all)); dataset.label=2 (red, blue)",
    ),
    "a separator in a cell": (
        rows(PATHS, COLORS, lambda i: "dark", header="path,label\n"),
        {},
        "line 2: 3 cells (red0.png, red, dark), but the header has 2",
    ),
    "two columns of one name": (
        rows(PATHS, COLORS, range(24), header="path,label,Label\n"),
        {},
        "2 columns are called 'label'; choose by number: dataset.label=1 or dataset.label=2",
    ),
    "many numbers": (
        rows(PATHS, lambda i: i / 23, header="path,prob\n"),
        {},
        "column 'prob' has 24 different numbers from 0 to 1, too many for classes; type dataset.label='prob > 0.5'",
    ),
    "many numbers that come again": (
        rows(PATHS, lambda i: i // 2 / 11, header="path,prob\n"),
        {},
        "'prob' has 12 different numbers from 0 to 1, too many for classes; type dataset.label='prob > 0.5' for two",
    ),
    "text among numbers": (rows(PATHS, COLORS, header="path,y\n"), {"label": "y > 1"}, "line 2: 'red' in a column of"),
    "a number for each row": (rows(range(24), PATHS), {}, "it seems to number them; name the label's with dataset.la"),
    "one column": (rows(PATHS), {}, "which column is the path? It has red0.png; path and label are needed"),
    "no such column": (rows(PATHS, COLORS, header="path,label\n"), {"label": "labl"}, "did you mean 'label'?"),
    "no such number": (rows(PATHS, COLORS), {"label": 2}, "it has columns 0 to 1, without a header"),
    "an absolute path": (
        rows(lambda i: f"/data/upload/1/{PATHS[i]}", COLORS, header="image,choice\n"),
        {},
        "(24 of 24 are missing); the paths are absolute, perhaps of another machine: add dataset.images=FOLDER",
    ),
    "addresses": (
        rows(lambda i: f"https://a.example/{PATHS[i]}", COLORS, header="image,choice\n"),
        {},
        "the paths are addresses: download the pictures and add dataset.images=FOLDER",
    ),
    "files that are not there either": (
        rows(lambda i: f"C:\\x\\other{i}.png", COLORS),
        {"images": "pictures"},
        "are absolute, perhaps of another machine, and no file below dataset.images has that name",
    ),
    "the same file twice": (
        rows(PATHS, COLORS, header="path,label\n") + "./red0.png,blue\n",
        {},
        "line 2 (red0.png) and line 26 (./red0.png) are the same file, ./red0.png, with another label",
    ),
    "control characters": (
        rows(PATHS, lambda i: "a\x07", header="path,label\n"),
        {},
        "line 2: the label 'a\\x07' is not",
    ),
}


PART = ["train", "train", "val", "test"] * 6
OTHER = ["train", "test", "train", "train"] * 6
REFUSED |= {
    "two columns of parts": (
        rows(PATHS, COLORS, PART, OTHER, header="path,label,split,my phase\n"),
        {},
        "which column is the split? 'split' and 'my phase' disagree (in line 3: train, test); type dataset.split=split "
        "or dataset.split='my phase', or ignore both with dataset.split=none",
    ),
    "a part and a flag": (
        rows(PATHS, COLORS, PART, lambda i: int(OTHER[i] == "test"), header="path,label,subset,is_test\n"),
        {},
        "'subset' and 'is_test' disagree (in line 3: train, 1)",
    ),
    "flags that contradict each other": (
        rows(PATHS, COLORS, [1, 0] * 12, [1, 1, 0, 0] * 6, header="path,label,train,test\n"),
        {},
        "which column is the split? It has train, test; name one with dataset.split=COLUMN",
    ),
    "a part that is none": (
        rows(PATHS, COLORS, ["train", "test", "extra"] * 8, header="path,label,phase\n"),
        {},
        "line 4: unknown split 'extra'",
    ),
    "parts and no label": (
        rows(PATHS, PART, header="path,phase\n"),
        {},
        "which column is the label? It has path, phase",
    ),
    "two labels": (
        rows(PATHS, ["a", "b"] * 12, COLORS, header="path,label,class name\n"),
        {},
        "which column is the label? 'label' (a, b) and 'class name' (red, blue) are different classes; type "
        "dataset.label=label or dataset.label='class name'",
    ),
    "a coarser label": (
        rows(PATHS, COLORS, lambda i: f"{COLORS[i]}{i % 2}", header="path,category,target\n"),
        {},
        "type dataset.label=target or dataset.label=category",
    ),
    "two groups of one-hot columns": (
        rows(
            PATHS,
            *([int(i // 12 == k) for i in range(24)] for k in (0, 1)),
            [1, 0] * 12,
            [0, 1] * 12,
            header="path,red,blue,sun,rain\n",
        ),
        {},
        "which of the columns of 0 and 1 are the classes? Each row has one 1 in sun, rain or red, blue",
    ),
    "equal probabilities": (rows(PATHS, [0.5] * 24, [0.5] * 24, header="path,a,b\n"), {}, "line 2: a, b have the same"),
    "words that are no marks": (
        rows(PATHS, ["x", "y"] * 12, [0, 1] * 12, header="path,axis,flipped\n"),
        {},
        "which column is the label? It has path, axis, flipped",
    ),
    "probabilities of several": (
        rows(PATHS, [0.5] * 24, [0.9] * 24, header="path,a,b\n"),
        {},
        "which column is the label",
    ),
    "a header in another order": (
        rows(PATHS, COLORS, header="path,label\n") + rows(COLORS, PATHS, header="label,path\n"),
        {},
        "line 26: another header, with the columns in another order (label, path)",
    ),
    "pixels": (
        "emotion,pixels,Usage\n" + rows(range(24), lambda i: "7 " * 99, PART),
        {},
        "column 'pixels' holds pixels",
    ),
    "uncertain in one-hot": (
        rows(PATHS, lambda i: (1, 0, -1)[i % 3], lambda i: (0, 1, 1)[i % 3], header="path,red,blue\n"),
        {},
        "which column is the label? It has path, red, blue",
    ),
    "uncertain beside nothing": (
        rows(PATHS, lambda i: (1, "", -1)[i % 3], lambda i: ("", 1, 1)[i % 3], header="path,red,blue\n"),
        {},
        "which column is the label?",
    ),
    "two names of labels": (
        rows(PATHS, COLORS, range(24), header="path,species,genus\n"),
        {},
        "which column is the label?",
    ),
    "a diagnosis beside a category": (
        rows(PATHS, COLORS, COLORS, header="path,dx,masterCategory\n"),
        {},
        "which column is the label?",
    ),
    "boxes of sides": (
        rows(PATHS, COLORS, *[range(24)] * 4, header="path,class,x,y,width,height\n"),
        {},
        "object detection (boxes)",
    ),
    "regions of VIA": (
        rows(
            PATHS,
            ["1"] * 24,
            ["0"] * 24,
            ["{}"] * 24,
            header="filename,region_count,region_id,region_shape_attributes\n",
        ),
        {},
        "object detection (boxes)",
    ),
    "pixels without a header": (
        rows(COLORS, *[range(24)] * 60),
        {},
        "column '0' holds pixels, but a table lists image files",
    ),
    "a long text in each row": (
        rows(PATHS, lambda i: f"{i} " * 500, header="path,pixels\n"),
        {},
        "(0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 , 1 1",
    ),
    "a column for each pixel": (
        rows(COLORS, range(24), range(24), header="label,pixel0,pixel1\n"),
        {},
        "column 'pixel0' holds pixels, but a table lists image files",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_are_refused_by_line(name: str) -> None:
    pictures()
    text, keys, needle = REFUSED[name]
    with pytest.raises(DataError) as caught:
        read(table(text, "pictures/l.csv"), **keys)
    assert needle in str(caught.value)
    assert "\n" not in str(caught.value)


def finding(source: Source, kind: str) -> str:
    """The sentence of the only finding of that kind."""
    (found,) = (one for one in source.findings if one.kind == kind)
    return found.line


NFD = unicodedata.normalize("NFD", "grün")
ALIKE = {
    "case": (["red", "Red", "RED"], "dataset.rename='{Red: RED, red: RED}'"),
    "Unicode": (["grün", NFD], f"""dataset.rename='{{grün: "{NFD}"}}'"""),
    "blanks": (["dark red", "dark\u00a0red"], "dataset.rename='"),
    "numbers": (["1", "1.0"], "dataset.rename='{"),
    "no value": (["red", "nan"], "6 rows have"),
    "NA": (["red", "NA"], "may mean that they have none"),
    "an empty list": (["[red]", "[]"], "may mean that they have none"),
    "a question mark": (["red", "?"], "may mean that they have none"),
    "a dash": (["red", "-"], "may mean that they have none"),
    "an error of a spreadsheet": (["red", "#REF!"], "may mean that they have none"),
    "-1 among numbers": (["0", "1", "2", "-1"], "may mean that they have none"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_labels_that_are_probably_one_are_warned_about(name: str) -> None:
    pictures()
    words, needle = ALIKE[name]
    own = words if "0" in words else [*words, "blue"]
    source = read(table(rows(PATHS, lambda i: own[i % len(own)], header="path,label\n"), "pictures/l.csv"))
    assert len(source.classes) == len(own)
    needle = needle.replace("6 rows", f"{24 // len(own)} rows")
    assert needle in finding(source, "alike_names")
    assert "dataset.rename" in finding(source, "alike_names")


@pytest.mark.parametrize("mark", [" ", "|", ";", ", ", "+", " & "])
def test_several_labels_in_a_cell_are_warned_about(mark: str) -> None:
    pictures()
    words = ["scab", "rust", f"scab{mark}rust"]
    source = read(table(rows(PATHS, lambda i: f'"{words[i % 3]}"', header="path,label\n"), "pictures/l.csv"))
    assert f"8 rows seem to have several labels in one cell (scab{mark}rust)" in finding(source, "several_labels")
    words[2] = "hot dog"
    source = read(table(rows(PATHS, lambda i: words[i % 3], header="path,label\n"), "pictures/l.csv"))
    assert not source.all_warnings()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["147 616", "51", "616 51 8"], "147 616, 616 51 8"),
        (["['red', 'blue']", "['red']", "['blue']"], "red|blue"),
        (["[0, 1]", "[1]", "[2]"], "0|1"),
        (["[red, blue]", "[red]", "[dark green]"], "red|blue"),
        (["['scab|rust']", "['scab', 'rust']", "['scab']"], "scab|rust"),
    ],
)
def test_lists_of_labels_are_warned_about(words: list[str], shown: str) -> None:
    pictures()
    source = read(table(rows(PATHS, lambda i: f'"{words[i % 3]}"', header="path,tags\n"), "pictures/l.csv"))
    assert f"several labels in one cell ({shown})" in finding(source, "several_labels")


@pytest.mark.parametrize(
    "words",
    [
        ["-1", "1"],
        ["+", "-"],
        ["A", "A+", "A-"],
        ["!", "?", "a"],
        ["-1", "0", "1"],
        ["[a] b", "[c]", "d"],
        ["(a)", "(b)"],
        ["[['a']]", "[['b']]"],
    ],
)
def test_labels_that_are_meant_so_are_not_warned_about(words: list[str]) -> None:
    pictures()
    source = read(table(rows(PATHS, lambda i: words[i % len(words)], header="path,label\n"), "pictures/l.csv"))
    assert source.classes == tuple(words)
    assert not source.all_warnings()


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        ("{RED: red}", ("Red", "red")),
        ({"RED": "red", "Red": "red"}, ("red",)),
        ("{'RED': 'dark, red', Red: red}", ("dark, red", "red")),
        ({"RED": "Red", "Red": "RED"}, ("RED", "Red", "red")),
        (None, ("RED", "Red", "red")),
    ],
)
def test_labels_are_renamed_and_merged(given: object, classes: tuple[str, ...]) -> None:
    pictures()
    words = ["red", "Red", "RED"]
    where = table(rows(PATHS, lambda i: words[i % 3], header="path,label\n"), "pictures/l.csv")
    assert read(where, rename=given).classes == classes


def test_names_that_only_the_test_part_has_can_be_merged() -> None:
    pictures()
    part = ["test" if i % 3 == 0 else "train" for i in range(24)]
    words = [color.upper() if part[i] == "test" else color for i, color in enumerate(COLORS)]
    where = table(rows(PATHS, words, part, header="path,label,split\n"), "pictures/l.csv")
    with pytest.raises(DataError, match=r"line 2: no training row has class 'RED'"):
        read(where)
    source = read(where, rename="{RED: red, BLUE: blue}")
    assert labels(source) == TRUTH
    assert not source.all_warnings()


def test_class_folders_are_renamed_too() -> None:
    pictures("photos/Red")
    pictures("photos/blue")
    pictures("photos/red\u00a0apple")
    with pytest.raises(ConfigError, match=r"dataset.rename: no class is called 'rad'; did you mean 'Red'\?"):
        imagefolder(root="photos", rename="{rad: red}")
    source = imagefolder(root="photos", rename="{red\u00a0apple: Red}")
    assert source.classes == ("Red", "blue")
    assert len(source.train) == 72
    assert (source.train.labels == 0).sum() == 48
    assert imagefolder(root="photos").classes == ("Red", "blue", "red\u00a0apple")


@pytest.mark.parametrize("bad", ["x", ["a"], "{a}", {"a": None}, "{a: b, c}", {"a": "b\n"}])
def test_what_is_no_map_of_names_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match=r"dataset.rename: "):
        renames_of(bad)


FAR = (
    *("/data/upload/1/", "C:\\Users\\me\\", "D:/x/", "file:///home/me/", "https://a.example/b/", "s3://bucket/"),
    *("\\\\server\\share\\", "/data/upload/3/0a1b2c3d-", "/data/local-files/?d=x/"),
)


@pytest.mark.parametrize("start", FAR)
def test_paths_of_other_machines_are_found_by_name(start: str) -> None:
    pictures("photos/some")
    where = table(rows(lambda i: start + PATHS[i], COLORS, header="image,choice\n"), "t/l.csv")
    source = read(where, images="photos")
    assert labels(source) == TRUTH
    assert "24 files were found by their names below photos (such as" in finding(source, "found_elsewhere")
    assert source.train.ids[0] == "some/red0.png"


def test_equal_names_are_told_apart_by_their_folders_or_refused() -> None:
    for color in ("red", "blue"):
        pictures(f"photos/{color}")
    pairs = [(f"C:\\x\\{color}\\{name}", color) for color in ("red", "blue") for name in PATHS]
    source = read(table(lines(pairs), "t/l.csv"), images="photos")
    assert [source.classes[i] for i in source.train.labels] == [color for _, color in pairs]
    assert source.train.ids[0] == "red/red0.png"
    with pytest.raises(DataError, match=r"photos has several files of that name: blue/red0.png, red/red0.png"):
        read(table(rows(PATHS, COLORS), "t/l.csv"), images="photos")


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (str.upper, "another spelling"),
        (lambda name: name.replace(".png", ".jpg"), "another suffix"),
        (lambda name: name, "by their names"),
    ],
)
def test_files_in_sub_folders_and_of_other_spelling_are_found(change: Callable[[str], str], needle: str) -> None:
    pictures("photos/a/b")
    where = table(rows(lambda i: change(PATHS[i]), COLORS, header="file,class\n"), "t/l.csv")
    source = read(where, images="photos")
    assert labels(source) == TRUTH
    assert needle in finding(source, "found_elsewhere")


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_unicode_forms_of_names_do_not_matter(on_disk: str, in_table: str) -> None:
    pictures()
    for name in PATHS:
        os.rename(f"pictures/{name}", unicodedata.normalize(on_disk, f"pictures/ü{name}"))
    source = read(table(rows(lambda i: unicodedata.normalize(in_table, "ü" + PATHS[i]), COLORS), "pictures/l.csv"))
    assert len(source.train) == 24
    assert not source.findings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_can_be_told(encoding: str) -> None:
    pictures()
    text = rows(PATHS, lambda i: "weiß 白" if i % 2 else "grün", header="path,label\n")
    Path("pictures/l.csv").write_bytes(text.encode(encoding))
    source = read("pictures/l.csv")
    assert source.classes == ("grün", "weiß 白")
    assert not source.findings


@pytest.mark.parametrize(
    ("encoding", "words", "said"),
    [
        ("cp1252", ("weiß", "grün"), "was read as Windows-1252 (grün, weiß)"),
        ("latin-1", ("café", "thé"), "was read as Windows-1252 (café, thé)"),
        ("cp1251", ("красный", "синий"), "dataset.encoding=cp1251 reads 'синий' 'красный'"),
        ("gb18030", ("红色", "蓝色"), "dataset.encoding=gb18030 reads '蓝色' '红色'"),
        ("shift_jis", ("赤い", "青い"), "dataset.encoding=shift_jis reads '青い' '赤い'"),
        ("cp1250", ("červená", "žlutá"), "dataset.encoding=cp1250 reads"),
    ],
)
def test_other_encodings_are_said_or_asked(encoding: str, words: tuple[str, str], said: str) -> None:
    pictures()
    text = rows(PATHS, lambda i: words[i % 2 == 0], header="path,label\n")
    Path("pictures/l.csv").write_bytes(text.encode(encoding))
    try:
        heard = finding(read("pictures/l.csv"), "encoding")
    except DataError as error:
        heard = str(error)
    assert said in heard
    source = read("pictures/l.csv", encoding=encoding)
    assert set(source.classes) == set(words)
    assert not source.findings
    with pytest.raises(ValueError, match=r"unknown dataset.encoding 'klingon'"):
        read("pictures/l.csv", encoding="klingon")


@pytest.mark.parametrize("label", ["👩\u200d🔬", "می\u200cخواهم", "red\u00a0apple", "soft\u00adhyphen", "日本\u3000語"])
def test_labels_are_any_text(label: str) -> None:
    pictures()
    source = read(table(rows(PATHS, lambda i: label if i % 2 else "x", header="path,label\n"), "pictures/l.csv"))
    assert set(source.classes) == {label, "x"}


@pytest.mark.parametrize(
    ("text", "classes", "of"),
    [
        ("prob > 0.5", ("prob<=0.5", "prob>0.5"), {0.5: 0, 0.6: 1}),
        ("prob>=0.5", ("prob<0.5", "prob>=0.5"), {0.49: 0, 0.5: 1}),
        ("prob < 0.5", ("prob>=0.5", "prob<0.5"), {0.5: 0, 0.4: 1}),
        ("a b > 1, 2", ("a b<=1", "1<a b<=2", "a b>2"), {1: 0, 1.5: 1, 2: 1, 3: 2}),
        ("x <= 1, 2", ("x<=1", "1<x<=2", "x>2"), {1: 0, 2: 1, 2.1: 2}),
        ("x < 1, 2", ("x<1", "1<=x<2", "x>=2"), {0: 0, 1: 1, 2: 2}),
    ],
)
def test_numbers_are_cut_into_classes(text: str, classes: tuple[str, ...], of: dict[float, int]) -> None:
    cut = expression(text)
    assert cut is not None
    assert cut.classes == classes
    assert {value: classes.index(cut(value)) for value in of} == of


def test_what_is_no_comparison_is_a_column() -> None:
    assert expression("label") is expression("a > b") is expression("> 1") is None
    with pytest.raises(ValueError, match="must rise"):
        expression("x > 2, 1")
    pictures()
    where = table(rows(PATHS, COLORS, range(24), header="path,n > 3,n\n"), "pictures/l.csv")
    assert labels(read(where, label="n > 3")) == TRUTH


def test_a_few_numbers_are_classes_with_a_note() -> None:
    pictures()
    source = read(table(rows(PATHS, lambda i: i % 4 / 3, header="path,prob\n"), "pictures/l.csv"))
    assert len(source.classes) == 4
    assert "dataset.label='prob > 0.5' makes two classes of them" in finding(source, "numbers")


@pytest.mark.parametrize(
    ("name", "is_said"), [("age", True), ("Patient Age", True), ("score_2", True), ("label", False)]
)
def test_many_whole_numbers_that_are_measured_are_noted(name: str, is_said: bool) -> None:
    pictures()
    source = read(table(rows(PATHS, lambda i: i // 2 + 20, header=f"path,{name}\n"), "pictures/l.csv"))
    assert len(source.classes) == 12
    assert is_said == any(f"dataset.label='{name} > 25' makes two classes" in one.line for one in source.findings)


def test_missing_numbers_do_not_hide_that_the_others_are_many() -> None:
    pictures()
    where = table(rows(PATHS, lambda i: i / 23 if i else "nan", header="path,prob\n"), "pictures/l.csv")
    with pytest.raises(DataError, match=r"column 'prob' has 23 different numbers"):
        read(where)
    with pytest.raises(DataError, match=r"line 2: 'nan' in a column of numbers"):
        read(where, label="prob > 0.5")


def test_a_one_hot_column_without_images_is_noted() -> None:
    pictures()
    columns = (lambda i: int(i < 12), lambda i: int(i >= 12), lambda i: 0)
    source = read(table(rows(PATHS, *columns, header="file,red,blue,green\n"), "pictures/l.csv"))
    assert source.classes == ("blue", "red")
    assert "no image is of the one-hot column green" in finding(source, "empty_class")


def test_another_spelling_at_the_same_place_comes_before_other_folders() -> None:
    pictures("photos")
    pictures("photos/sub")
    source = read(table(rows(lambda i: PATHS[i].upper(), COLORS), "t/l.csv"), images="photos")
    assert source.train.ids[0] == "red0.png"


def test_a_column_that_looks_like_an_id_is_pointed_at() -> None:
    pictures()
    patients = [f"p{i // 3}" for i in range(24)]
    source = read(table(rows(PATHS, COLORS, patients, header="path,label,patient_id\n"), "pictures/l.csv"))
    assert "pictures of one ID may land in both train and test; to keep the pictures of each together" in finding(
        source, "id_column"
    )
    part = ["test" if i // 3 % 4 == 0 else "train" for i in range(24)]
    text = rows(PATHS, COLORS, patients, part, header="path,label,Patient ID,split\n")
    assert not read(table(text, "pictures/l.csv")).findings  # each in one part already
    part = ["test" if i % 3 == 0 else "train" for i in range(24)]
    text = rows(PATHS, COLORS, patients, part, header="path,label,Patient ID,split\n")
    assert "8 of them are in several parts" in finding(read(table(text, "pictures/l.csv")), "id_column")
    for other in (range(24), [COLORS[i] + "_id" for i in range(24)]):  # each its own; another name of the class
        assert not read(table(rows(PATHS, COLORS, other, header="path,label,case\n"), "pictures/l.csv")).findings


@pytest.mark.parametrize("name", ["valid", "is_hybrid", "super_class_id", "category_id2", "thyroid"])
def test_columns_that_merely_end_like_an_id_are_not_pointed_at(name: str) -> None:
    pictures()
    own = [f"p{i // 3}" for i in range(24)]
    source = read(table(rows(PATHS, COLORS, own, header=f"path,label,{name}\n"), "pictures/l.csv"))
    assert "id_column" not in {one.kind for one in source.findings}


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ('{"images": [], "annotations": [], "categories": []}', "annotations as COCO's"),
        ('{"train": ["a.png"], "test": ["b.png"]}', "lists of the parts (train, test), without labels"),
        ('[{"path": "a.png", "label": "red"}, 3]', "line 2: expected an object"),
        ('[{"path": "a.png"', "not JSON"),
        ('["a.png", "b.png"]', "path and label are needed"),
        ("[]", "it lists no images"),
        ('{"red": ["a.png"], "blue": ["a.png"]}', "a.png is listed under 'red' and 'blue'"),
    ],
)
def test_json_of_other_kinds_is_refused(text: str, needle: str) -> None:
    with pytest.raises(DataError) as caught:
        read(table(text, "l.json"))
    assert needle in str(caught.value)


def test_another_table_is_the_test_part() -> None:
    pictures()
    pictures("more/pictures")
    table(lines(list(TRUTH.items())[::2]), "pictures/train.csv")
    table("file,class\n" + lines([(f"pictures/{path}", color) for path, color in TRUTH.items()]), "more/test.csv")
    source = read("pictures/train.csv", test="more/test.csv")
    assert {name: len(part) for name, part in source.parts.items()} == {"train": 12, "test": 24}
    assert source.train.ids[0] == "red0.png"
    assert source.parts["test"].ids[0] == "../more/pictures/red0.png"
    where = table(
        rows(PATHS, COLORS, lambda i: ["train", "test"][i % 2], header="path,label,split\n"), "pictures/l.csv"
    )
    with pytest.raises(
        DataError, match=r"has test rows itself, and dataset.test names test.csv; leave one of them out"
    ):
        read(where, test="more/test.csv")
    assert set(read(where, test="more/test.csv", split="none").parts) == {"train", "test"}
    with pytest.raises(DataError, match=r"no such file: gone\.csv"):
        read(where, test="gone.csv")


@pytest.mark.parametrize("name", ["l.xlsx", "l.parquet", "l.csv"])
def test_files_of_other_programs_are_named(name: str) -> None:
    Path(name).write_bytes(b"PAR1" if "parq" in name else b"PK\x03\x04\0\0")
    with pytest.raises(DataError, match=r"not a table of text; save it as CSV in UTF-8"):
        read(name)
    assert is_table(f"./{name}")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[1, 2]", '{"a"', '{"path": "x.png"}', "7", '{"path": "a", "label": NaN}']
)
def test_bad_json_lines_are_refused_by_line(text: str) -> None:
    with pytest.raises(DataError, match=r"l\.jsonl(, line 2)?: "):
        read(table(f"\n{text}\n", "l.jsonl"))


def test_the_keys_on_the_command_line(capsys: Capture) -> None:
    pictures()
    Path("pictures/l.jsonl").write_text(
        "".join(
            json.dumps({"file_name": p, "my prob": i / 23, "color": c}) + "\n" for i, (p, c) in enumerate(TRUTH.items())
        )
    )
    words = [*SMALL, "dataset=./pictures/l.jsonl", "run_dir=run"]
    assert main(["train", *words, "dataset.label=my prob > 0.5"]) == 0
    header = capsys.readouterr().err
    assert "labels   from the numbers in 'my prob': 12 my prob<=0.5, 12 my prob>0.5" in header
    assert json.loads(Path("run/report.json").read_text())["per_class"][1]["class"] == "my prob>0.5"
    assert yaml.safe_load(Path("run/config.yaml").read_text())["dataset"]["label"] == "my prob > 0.5"
    assert main(["train", "resume=run", "epochs=3"]) == 0
    capsys.readouterr()
    assert (
        main(["data", "dataset=./pictures/l.jsonl", "dataset.label=2", "dataset.rename={red: 'a: b'}", "--json"]) == 0
    )
    assert list(json.loads(capsys.readouterr().out)["classes"]) == ["a: b", "blue"]
    assert main(["data", "dataset=./pictures/l.jsonl", "dataset.label=color", "dataset.rename={rde: x}"]) == 2
    assert "dataset.rename: no class is called 'rde'; did you mean 'red'?" in capsys.readouterr().err


FER = ["Training", "Training", "PublicTest", "PrivateTest"] * 6
PARTS = {  # columns, their names, what the header of a run says
    "dev and eval": ([["train", "train", "dev", "eval"] * 6], "subset", "'subset': eval is test"),
    "val and evaluation": ([["Train", "Train", "Val", "Evaluation set"] * 6], "split", "Evaluation set is test"),
    "phase": ([PART], "phase", "split 'phase'"),
    "FER2013": ([FER], "Usage", "'Usage': PrivateTest is test, PublicTest is val"),
    "Kaggle": ([[one.replace("Test", "") for one in FER]], "Usage", "'Usage': Private is test, Public is val"),
    "COCO's": ([["train2017", "train2017", "val2017", "test2017"] * 6], "source", "val2017 is val"),
    "other words": ([["Train set", "training", "Dev", "Hold-out"] * 6], "dataset", "Hold-out is test"),
    "three flags": (
        [[int(one == name) for one in PART] for name in ("train", "val", "test")],
        "train,val,test",
        "'train' and",
    ),
    "two flags": (
        [[str(one == name) for one in PART] for name in ("val", "test")],
        "is_valid,is_test",
        "'is_valid' and",
    ),
    "flags or nothing": ([["1" * (one == name) for one in PART] for name in ("val", "test")], "val,test", "'val' and"),
    "the same twice": ([PART, [one.upper() for one in PART]], "split,fold_type", "split 'split'; not used: fold_type"),
    "a flag beside it": (
        [PART, [int(one == "test") for one in PART]],
        "subset,is_test",
        "split 'subset'; not used: is_test",
    ),
    "another set": ([["a", "b"] * 12, PART], "set,phase", "split 'phase'; not used: set"),
    "the label's name": ([PART], "category", "split 'category'"),
}


@pytest.mark.parametrize("name", PARTS)
def test_columns_of_parts_are_found_by_what_is_in_them(name: str) -> None:
    pictures()
    columns, names, said = PARTS[name]
    label = "species" if names == "category" else "label"
    source = read(table(rows(PATHS, COLORS, *columns, header=f"path,{label},{names}\n"), "pictures/l.csv"))
    assert {part: len(images) for part, images in source.parts.items()} == {"train": 12, "val": 6, "test": 6}
    assert labels(source) == TRUTH
    assert said in " ".join(source.notes)
    assert not source.all_warnings()
    assert set(read("pictures/l.csv", split="none", label=label).parts) == {"train"}


@pytest.mark.parametrize("name", ["train", "test", "is_test"])
def test_a_class_or_a_part_of_that_name(name: str) -> None:
    pictures()
    classes = [[int(i % 3 == k) for i in range(24)] for k in range(3)]
    source = read(table(rows(PATHS, *classes[:2], classes[2], header="path,car,bus,train\n"), "pictures/l.csv"))
    assert (source.classes, set(source.parts)) == (("bus", "car", "train"), {"train"})
    colors = [[int(color == one) for color in COLORS] for one in TRUTH.values()]
    text = rows(PATHS, colors[0], colors[-1], classes[2], header=f"path,red,blue,{name}\n")
    source = read(table(text, "pictures/l.csv"))
    assert (labels(source), set(source.parts)) == (TRUTH, {"train", "test"})


@pytest.mark.parametrize("text", ["path,label,Usage\n", "path,label,fold\n", "path,label,valid\n"])
def test_columns_that_are_no_parts_are_named_as_not_used(text: str) -> None:
    pictures()
    words = {"Usage": ["Public", "Private"], "fold": ["0", "1"], "valid": ["1", "0"]}[text.split(",")[2].strip()]
    source = read(table(rows(PATHS, COLORS, words * 12, header=text), "pictures/l.csv"))
    assert set(source.parts) == {"train"}
    assert "not used: " in source.notes[0]


def test_boxes_are_another_task() -> None:
    pictures()
    text = rows(PATHS, COLORS, ["1"] * 24, ["1"] * 24, ["3"] * 24, ["3"] * 24)
    text = text.partition("\n")[2] if text.startswith("path") else text
    made = table("filename,class,xmin,ymin,xmax,ymax\n" + text.partition("\n")[2] + text.partition("\n")[0], "b/l.csv")
    with pytest.raises(DataError, match="its columns are those of object detection") as refused:
        read(made, images="pictures")
    assert refused.value.kind == "other_task"


def test_a_path_without_suffix_that_means_two_files_is_not_guessed() -> None:
    pictures()
    first = PATHS[0]
    Image.new("RGB", (4, 4)).save(Path("pictures", first).with_suffix(".jpg"))
    stems = [path.rpartition(".")[0] for path in PATHS]
    with pytest.raises(DataError, match="line 1: no such file: pictures/red0"):
        read(table(rows(stems, COLORS), "pictures/l.csv"))
    Path("pictures", first).with_suffix(".jpg").unlink()
    assert len(read(table(rows(stems, COLORS), "pictures/l.csv")).train) == len(PATHS)


def test_labels_that_are_objects_are_refused() -> None:
    pictures()
    lines = [json.dumps({"path": path, "label": {"name": color}}) for path, color in zip(PATHS, COLORS, strict=True)]
    with pytest.raises(DataError, match="line 1: the label is an object"):
        read(table("\n".join(lines), "pictures/l.jsonl"))


def test_a_flag_that_is_read_as_the_split_is_said() -> None:
    pictures()
    flags = ["1" if i % 3 == 0 else "0" for i in range(len(PATHS))]
    source = read(table(rows(PATHS, COLORS, flags, header="path,label,is_valid\n"), "pictures/l.csv"))
    assert any("split 'is_valid'" in note for note in source.notes)
