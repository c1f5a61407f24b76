"""The one reader of YAML, and what counts as a number: nothing is read as something else, nothing has no bound."""

from typing import Any

import pytest
import yaml

from seqae.commands.options import given_parameters
from seqae.parameters import ParameterError, Parameters
from seqae.runs.merging import resolve
from seqae.runs.optimizers import optimizer_factory
from seqae.runs.records import RunError, read_record
from seqae.stores.transfer import read_run_state
from seqae.stores.yaml_text import UnfitYamlError, load_yaml
from seqae.sweeps.parameter_files import read_yaml

# --- aliases without bound, nesting without bound ---


def laughs(levels: int, times: int = 9) -> str:
    lines = ["a0: &a0 [lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, levels)]
    return "\n".join(lines)


BOMBS = {
    "a billion laughs": laughs(9),
    "laughs in mappings": "a0: &a0 {x: lol}\n" + "\n".join(
        f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 30)
    ),
    "one long text, often": f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 10_000)}]",
    "an alias in what it names": "a: &a [1, *a]",
    "a mapping in itself": "a: &a {b: *a}",
    "brackets": "a: " + "[" * 200_000,
    "closed brackets": "a: " + "[" * 500 + "]" * 500,
    "braces": "{a: " * 200_000,
    "dashes": "- " * 200_000 + "1",
    "questions": "? " * 200_000 + "1",
    "indented": "\n".join(" " * n + "a:" for n in range(500)),
}  # fmt: skip


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_text_without_bound_is_refused_wherever_it_is_read(text, tmp_path) -> None:
    with pytest.raises(UnfitYamlError, match=r"alias|nested"):
        load_yaml(text)
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ParameterError, match=r"run\.yaml is not accepted: [^\n]+$"):
        read_yaml(tmp_path / "run.yaml")
    with pytest.raises(RunError, match="is damaged"):
        read_record(tmp_path)
    assert read_run_state(tmp_path.joinpath, None).trained == 0
    with pytest.raises(ValueError, match=r"^-p: "):
        given_parameters([f"optimizer_arguments={text}"])


def test_aliases_may_be_used() -> None:
    assert load_yaml("a: &a [1, 2]\nb: *a\nc: {x: *a}") == {"a": [1, 2], "b": [1, 2], "c": {"x": [1, 2]}}
    merged = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}"
    assert load_yaml(merged) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 2, "y": 3}}
    shared = [1, 2, 3]
    assert load_yaml(yaml.safe_dump({"a": shared, "b": shared})) == {"a": shared, "b": shared}
    deep: Any = {"a": 1}
    for _ in range(40):
        deep = {"a": deep, "b": [deep["a"]] if isinstance(deep["a"], int) else 0}
    assert load_yaml(yaml.safe_dump(deep)) == deep
    assert load_yaml("[" + ", ".join(map(str, range(20_000))) + "]") == [*range(20_000)]


# --- keys and numbers ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\ngain: 2\nseed: 3", "lines 1 and 3: seed is given twice"),
        ('seed: 1\n"seed": 1', "seed is given twice"),
        ("optimizer_arguments: {eps: 1, eps: 2}", "eps is given twice"),
        ("optimizer_arguments:\n  eps: 1\n  betas: [0.5, 0.9]\n  eps: 2", "lines 2 and 4: eps"),
        ("metrics:\n- {a: 1, a: 2}", "a is given twice"),
        ("epochs: 010", "line 1: YAML reads 010 to base 8"),
        ("seed: 1\nepochs: -010", "line 2: YAML reads -010 to base 8"),
        ("epochs: 0_17", "0_17 to base 8"),
        ("epochs: 1:30", "1:30 to base 60"),
        ("gain: 1:30.5", r"1:30\.5 to base 60"),
        ("optimizer_arguments: {betas: [00, 0.9]}", "00 to base 8"),
        ("label: 007", "quote it if it is text"),
    ],
)
def test_what_yaml_would_read_as_something_else_is_refused(text, words, tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=words) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file} is not accepted: line")


@pytest.mark.parametrize("text", ["a: 2026-13-45", "a: !!int x", "a: !!float x", "a: !!bool maybe", "a: !!timestamp 3",
                                  "a: " + "9" * 5000, "a: !!binary é"])  # fmt: skip
def test_a_value_that_cannot_be_what_yaml_takes_it_for_is_refused(text, tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"run\.yaml is not (accepted|YAML): "):
        read_yaml(file)
    with pytest.raises(RunError, match="is damaged"):
        read_record(tmp_path)
    with pytest.raises(ValueError, match=r"^-p: "):
        given_parameters([text.replace(": ", "=", 1)])


def test_what_it_reads_as_it_says_is_read() -> None:
    text = "a: 0\nb: -1\nc: 1_000\nd: '010'\ne: 0.1\nf: 0x10\ng: 08\nh: 00.5\ni: 12:75\nj: a:1:30\nk: 1e-3\nl: 10"
    read = {"a": 0, "b": -1, "c": 1000, "d": "010", "e": 0.1, "f": 16, "g": "08", "h": 0.5, "i": "12:75",
            "j": "a:1:30", "k": "1e-3", "l": 10}  # fmt: skip
    assert load_yaml(text) == read
    assert load_yaml("") is None
    assert load_yaml("a: {x: 1}\nb: {x: 1}") == {"a": {"x": 1}, "b": {"x": 1}}


def test_the_command_line_says_a_thing_once() -> None:
    assert given_parameters(["seed=1", "gain=1"]) == {"seed": 1, "gain": 1}
    with pytest.raises(ValueError, match=r"^-p seed is given twice"):
        given_parameters(["seed=1", "gain=1", "seed=2"])
    with pytest.raises(ValueError, match=r"^-p: line 1: YAML reads 010 to base 8"):
        given_parameters(["epochs=010"])


NUMBERS = [n for n, f in Parameters.model_fields.items() if any(k in str(f.annotation) for k in ("int", "float"))]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("word", ["on", "yes", "true", "off", "no"])
def test_a_word_is_no_number(name, word) -> None:
    for value in (load_yaml(word), [load_yaml(word), 2]):
        with pytest.raises(ParameterError, match=rf"^{name}"):
            resolve({name: value})
    assert resolve({"endless": load_yaml(word), "peepholes": load_yaml(word)}).endless == load_yaml(word)


def test_a_word_is_no_number_of_an_optimizer_either() -> None:
    with pytest.raises(ValueError, match="optimizer Adam: eps is a number; not True"):
        optimizer_factory("Adam", arguments={"eps": True})
    assert optimizer_factory("Adam", arguments={"amsgrad": True}) is not None
    assert len(NUMBERS) > 25
