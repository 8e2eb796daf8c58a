"""Malformed overrides and files, made from every key that there is: exit code 2, one line that names the key or the
file, nothing on disk.

The fast tests try all of them against the schema, composed once per option, and one of each kind and group through
the command line; the slow ones try all of them through the command line.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgcls.cli.app import main
from imgcls.compose.composer import Composer
from imgcls.compose.overrides import read_all
from imgcls.config.options import GROUPS, conf_dir, option_node
from imgcls.config.parsing import parse
from imgcls.config.schema import EvaluateConfig, PredictConfig, TrainConfig
from imgcls.config.yaml_files import read_yaml
from imgcls.errors import ConfigError
from imgcls.training.spec import check
from tests.cli.test_bad_inputs import EVERY, TEXTS, TRAIN_KEYS, leaves

Case = tuple[str, str, str]  # the option that has the key, the override, what the message must name
FileCase = tuple[str, bytes, str]  # the file in a --config-dir, what it says, what the message must name
KEYS = [(choice, key) for choice, key in EVERY if key not in TEXTS]
OTHERS = {command: leaves(option_node("", command)) for command in ("evaluate", "predict")}
OTHER_PATHS = ("checkpoint", "input", "output")
CONFIGS = {"train": TrainConfig, "evaluate": EvaluateConfig, "predict": PredictConfig}


def misspelt(key: str, count: int, known: set[str], draw: random.Random) -> list[str]:
    """Misspellings of the key, none of them known: a letter left out, doubled, or swapped with the next."""
    outer, dot, name = key.rpartition(".")
    made: set[str] = set()
    while len(made) < min(count, len(name)):
        i = draw.randrange(len(name))
        words = (
            name[:i] + name[i + 1 :],
            name[:i] + name[i] + name[i:],
            name[:i] + name[i : i + 2][::-1] + name[i + 2 :],
        )
        word = f"{outer}{dot}{draw.choice(words)}"
        if word not in known and not word.endswith(".") and word:
            made.add(word)
    return sorted(made)


# --- overrides of train ----------------------------------------------------------------------------------------------


def typos() -> Iterator[Case]:
    """Five for each key."""
    draw = random.Random(0)
    known = {key for _, key in EVERY}
    for choice, key in EVERY:
        for word in misspelt(key, 5, known, draw):
            yield choice, f"{word}=1", word


def wrong_types() -> Iterator[Case]:
    """Lists and groups where numbers, words and switches belong, each in two forms."""
    for choice, key in KEYS:
        for value in ("[[1],[2]]", "{a:{b:1}}"):
            yield choice, f"{key}={value}", key


def out_of_range() -> Iterator[Case]:
    """Numbers that no key takes."""
    for choice, key in KEYS:
        for value in ("-1000000000", "nan", "1e400"):
            yield choice, f"{key}={value}", key


def broken_grammar() -> Iterator[Case]:
    """What Hydra's grammar cannot read."""
    ends = ("=[1,2", "={a:1", "='abc", '="abc', "=${nope}", "=(1", "=a]", "=choice(1", "={a:[1}", "=range(")
    for i, (choice, key) in enumerate(KEYS):
        for end in (ends[i % len(ends)], ends[(3 * i + 1) % len(ends)], ends[(7 * i + 5) % len(ends)]):
            yield choice, f"{key}{end}", key


KINDS = {"typo": typos, "type": wrong_types, "range": out_of_range, "grammar": broken_grammar}


def test_there_are_enough_of_them() -> None:
    assert sum(len({case[1] for case in cases()}) for cases in KINDS.values()) >= 600


def mistake(argv: list[str], needle: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is wrong with how the command line ends; nothing, as it should be."""
    code = main(argv)
    out, err = capsys.readouterr()
    if code != 2 or len(err.strip().splitlines()) != 1 or out or needle not in err or "Traceback" in err:
        return [f"{' '.join(argv)}: exit {code}, {err.strip()[:200]!r} lacks {needle!r}"]
    return []


@cache
def composed(command: str, words: tuple[str, ...]) -> dict[str, Any]:
    """The composed table of those words."""
    composer = Composer()
    table = composer.table(read_all(words, composer.paths), command)
    return table | ({"input": ["photo.png"]} if command == "predict" else {})


def refusal(command: str, words: tuple[str, ...], word: str) -> str:
    """What the schema says to one more word, without composing anew; "" if it takes it."""
    try:
        composer = Composer()
        [(key, value)] = composer.values(read_all([word], composer.paths)).items()
        table = copy.deepcopy(composed(command, words))
        *outer, name = key.split(".")
        node = table
        for group in outer:
            node = node[group]
        node[name] = value
        config = parse(CONFIGS[command], table)
        if isinstance(config, TrainConfig):
            check(config)
    except ConfigError as error:
        return str(error)
    return ""


def unnamed(command: str, cases: Iterable[tuple[tuple[str, ...], str, str]]) -> list[str]:
    """Which of the cases (words, one word more, what the message must name) the schema does not refuse as it should.

    A value with an interpolation may be text to the schema: composing refuses it.
    """
    wrong = []
    for words, word, needle in cases:
        message = refusal(command, words, word)
        if needle not in message and not (message == "" and "${" in word):
            wrong.append(f"{' '.join(words)} {word}: {message!r} lacks {needle!r}")
    return wrong


@pytest.mark.parametrize("option", sorted({choice for choice, _ in EVERY}))
@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_refuses(kind: str, option: str) -> None:
    cases = [((choice,), word, needle) for choice, word, needle in KINDS[kind]() if choice == option]
    assert cases or kind != "typo"  # the only key of an option may be a path
    assert not (wrong := unnamed("train", cases)), "\n".join(wrong)


def first_of_each(cases: Iterable[Case]) -> list[Case]:
    """The first case of each group, the first of the run's own keys, and the interpolations that the schema takes."""
    cases = list(cases)
    first = {case[2].rpartition(".")[0]: case for case in reversed(cases)}
    taken = [case for case in cases if "${" in case[1] and not refusal("train", case[:1], case[1])]
    return [*first.values(), *taken]


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_each_group_through_the_command_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = first_of_each(KINDS[kind]())
    wrong = [line for choice, word, needle in cases for line in mistake(["train", choice, word], needle, capsys)]
    assert not wrong, "\n".join(wrong)
    assert list(Path().iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_malformed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = KINDS[kind]()
    wrong = [line for choice, word, needle in cases for line in mistake(["train", choice, word], needle, capsys)]
    assert not wrong, "\n".join(wrong)
    assert list(Path().iterdir()) == []


# --- evaluate and predict --------------------------------------------------------------------------------------------


BAD = ("[[1],[2]]", "{a:{b:1}}", "-1000000000", "nan", "1e400", "", "[1,2", "'abc", "${nope}", "1,2")


def of_the_other(command: str) -> list[tuple[str, str]]:
    """(override, what the message must name)"""
    draw = random.Random(1)
    keys = OTHERS[command]
    cases = [(f"{word}=1", word) for key in keys for word in misspelt(key, 5, set(keys), draw)]
    cases += [(f"{key}={value}", key) for key in keys if key not in OTHER_PATHS for value in BAD]
    cases += [(f"{key}=", key) for key in OTHER_PATHS if key in keys]
    assert len(cases) >= 60
    return cases


def mistakes(command: str, cases: Iterable[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    words = ["run", "photo.png"][: 1 if command == "evaluate" else 2]
    wrong = []
    for word, needle in cases:
        given = [one for one in words if not word.startswith("checkpoint=") or one != "run"]
        wrong += mistake([command, *given, word], needle, capsys)
    return wrong


@pytest.mark.parametrize("command", OTHERS)
def test_the_schema_of_the_other_commands_refuses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("checkpoint=run", "input=null")[: 1 if command == "evaluate" else 2]
    cases = of_the_other(command)
    wrong = unnamed(command, ((words, word, needle) for word, needle in cases))
    assert not wrong, "\n".join(wrong)
    taken = [case for case in cases if "${" in case[0] and not refusal(command, words, case[0])]
    wrong = mistakes(command, cases[::7] + taken, capsys)
    assert not wrong, "\n".join(wrong)
    assert list(Path().iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHERS)
def test_malformed_for_the_other_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = mistakes(command, of_the_other(command), capsys)
    assert not wrong, "\n".join(wrong)
    assert list(Path().iterdir()) == []


# --- files -----------------------------------------------------------------------------------------------------------


def changed_files(count: int, value: Any) -> Iterator[FileCase]:
    """For each key a file that has it, misspelt count times (0: spelled correctly), with that value.

    The file is an option's, or in turn an experiment and a --config-name.
    """
    draw = random.Random(2)
    known = {key for _, key in EVERY}
    for i, (choice, key) in enumerate(EVERY):
        group, _, name = choice.partition("=")
        for new in misspelt(key, count, known, draw) if count else [key] if key not in TEXTS else []:
            outer, _, inner = new.rpartition(".")
            table: dict[str, Any] = {outer: {inner: value}} if outer else {inner: value}
            if key not in TRAIN_KEYS:
                others = {param: now for param, now in option_node(group, name).items() if f"{group}.{param}" != key}
                filled = {param: "x" if now == "???" else now for param, now in others.items()}
                yield f"{group}/mine.yaml", as_yaml(filled | table[group]), new
            elif i % 2:
                yield "mine.yaml", as_yaml({"defaults": ["train", "_self_"]} | table), new
            else:
                yield "experiment/mine.yaml", b"# @package _global_\n" + as_yaml(table), new


def as_yaml(table: dict[str, Any]) -> bytes:
    return yaml.safe_dump(table).encode()


def broken_files() -> Iterator[FileCase]:
    """A good file of each kind with something in it that is no YAML, or not the YAML of a configuration."""
    ends = (b"\tx: 1", b"x: [1, 2", b"x: {a: 1", b"x: 'abc", b"x: *nope", b"x: !!python/name:os.system y", b"x: 1: 2")
    ends += (b"--- {x: 1}", b"x: 1\nx: 2", b"x: \xff", b"x: \x00", b"? [x]\n: 1", b"x: &x [*x]", b"x: 1\n1: x")
    for group in ("", *GROUPS):
        first = min((conf_dir() / group).glob("*.yaml")) if group else conf_dir() / "train.yaml"
        good = first.read_bytes()
        for end in ends:
            yield str(Path(group, "mine.yaml")), good + b"\n" + end + b"\n", f"own/{Path(group, 'mine.yaml')}:"


FILES = {
    "typo": lambda: changed_files(1, 1),
    "type": lambda: changed_files(0, [{"a": [1]}]),
    "broken": broken_files,
}


def file_mistakes(cases: Iterable[FileCase], capsys: pytest.CaptureFixture[str]) -> list[str]:
    wrong = []
    for name, content, needle in cases:
        file = Path("own", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        word = f"{file.parent.name}=mine" if "/" in name else "--config-name=mine"
        wrong += [f"{line} in\n{content!r}" for line in mistake(["train", "--config-dir=own", word], needle, capsys)]
        file.unlink()
    assert [path for path in Path().rglob("*") if path.is_file() or path.parent.name != "own"] == [Path("own")]
    return wrong


def test_every_broken_file_is_refused_by_its_reader() -> None:
    """What other parts of the program refuse (an option that has no such key, say) is good YAML."""
    Path("own").mkdir()
    for name, content, _ in broken_files():
        file = Path("own", Path(name).name)
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^own/mine\.yaml:"):
            read_yaml(file)
    for kind in ("typo", "type"):
        for _, content, _ in FILES[kind]():
            Path("own/mine.yaml").write_bytes(content)
            assert read_yaml(Path("own/mine.yaml")) == yaml.safe_load(content)


@pytest.mark.parametrize("kind", FILES)
def test_one_malformed_file_of_each_group(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = {name: (name, content, needle) for name, content, needle in FILES[kind]()}
    assert len(first) >= 8
    assert not (wrong := file_mistakes(first.values(), capsys)), "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_malformed_files(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = list(FILES[kind]())
    assert len({(name, content) for name, content, _ in cases}) >= 40
    assert not (wrong := file_mistakes(cases, capsys)), "\n".join(wrong)
