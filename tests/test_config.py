"""seqae.parameters: what may be said, how it may be spelled, what is refused and in which words."""

import ast
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import seqae
from seqae.losses import LOSSES
from seqae.parameters import EXECUTION, ParameterError, Parameters
from seqae.runs.experiment import check_parameters
from seqae.runs.identity import defining, run_hash
from seqae.runs.merging import merge, resolve
from seqae.runs.notebook_cells import family_defaults, family_notebook, read_cell
from seqae.sweeps.parameter_files import read_yaml

# Another value than the default for every parameter, beside what else it needs to be sound.
OTHER: dict[str, Any] = {
    "seed": 7, "data_seed": 2, "pixel_range": [-1, 1], "activation": "sigmoid", "gain": 10,
    "task": "pred", "decoder_input": "zero", "recon_weight": 0.8,
    "architecture_arguments": {"size": 8}, "code": "0123456789ab", "metrics": ["my_metrics:iou"],
    "architecture": "fc_lstm", "hidden": 8, "layers": 2, "peepholes": True, "width": 0.5,
    "frame_size": 32, "frames_in": 3, "frames_out": 5, "digits": "mnist", "data_folder": "there",
    "digits_per_sequence": 3, "digit_speed": 0.05,
    "test_data": "official", "train_sequences": 5, "endless": True, "val_sequences": 6, "test_sequences": 7,
    "batch_size": 8, "epochs": 9, "optimizer": "SGD", "optimizer_arguments": {"nesterov": True},
    "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "schedule": "StepLR", "schedule_every": 3,
    "schedule_gamma": 0.9, "schedule_arguments": {"last_epoch": -1}, "clip_norm": None, "init": "orthogonal",
    "init_range": 0.1, "bias_init": "zero", "forget_bias": 1, "precision": "bf16", "device": "cpu",
    "label": "ours", "reduction": "sum", "clip_update": 1e-4, "patience": 5, "readout_bias": -2, "peephole_range": 0.1,
    "repeats": 3, "devices": 2, "horizon_until": 0.5,
    "clips": "there", "clips_val": "val", "clips_test": ["a", "b"], "clips_digest": "0123456789ab", "clip_stride": 5,
    "tracker": "wandb", "store": "elsewhere", "fresh": True, "keep_checkpoint": True, "checkpoint_seconds": 0,
}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {
    "training_loss": {"training_loss": "bce", "activation": "sigmoid"},
    "recon_truth": {"recon_truth": True, "decoder_input": "truth"},
    "schedule_per": {"schedule_per": "update", "schedule": "StepLR"},
    "horizon_until": {"horizon_until": 0.5, "task": "pred"},
}
# Where and how a run is executed, not what it is; nor is what comparisons call it.
WHERE_AND_HOW = {"label", "device", "devices", "data_folder", "store", "fresh", "keep_checkpoint", "tracker"}
WHERE_AND_HOW |= {"checkpoint_seconds", "metrics", "clips", "clips_val", "clips_test"}


def fault(*layers: dict[str, Any]) -> str:
    with pytest.raises(ParameterError) as caught:
        resolve(*layers)
    return str(caught.value)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("wrong", "near"), [("learning_rat", "learning_rate"), ("epoch", "epochs"), ("los", "loss"), ("Task", "task")]
)
def test_an_unknown_parameter_names_the_nearest_known(wrong: str, near: str) -> None:
    message = fault({wrong: 1})
    assert f"unknown parameter '{wrong}'" in message
    assert f"did you mean '{near}'?" in message


def test_an_unknown_parameter_near_to_none_lists_all() -> None:
    message = fault({"xyzzy": 1})
    assert all(name in message for name in Parameters.model_fields)
    assert "'1'" in fault({1: 2})  # type: ignore[dict-item]  # as YAML may have it


@pytest.mark.parametrize(
    ("name", "near"), [("heads", "; help(seqae.Parameters) lists all"), ("hiden", "; did you mean 'hidden'?")]
)
def test_an_unknown_parameter_may_be_an_argument_of_an_architecture_of_ones_own(name: str, near: str) -> None:
    told = f"unknown parameter '{name}'{near}; an argument of mine:Net goes to architecture_arguments={{{name}: 8}}"
    with pytest.raises(ParameterError, match=f"^{re.escape(told)}$"):
        resolve({"architecture": "mine:Net"}, {name: 8})


def test_all_faults_are_told_at_once() -> None:
    lines = fault(
        {"epochz": 3, "gain": -1, "seed": "six"},
        {"training_loss": "bce", "activation": "tanh", "task": "predict"},
    ).splitlines()
    for words in (["epochz", "epochs"], ["gain", "-1"], ["seed", "six"], ["bce", "sigmoid"], ["task", "predict"]):
        assert sum(all(word in line for word in words) for line in lines) == 1, words
    assert len(lines) == 5
    both = fault({"loss": "0sd", "epochz": 3})
    assert "0sb" in both
    assert "epochz" in both


@pytest.mark.parametrize("label", ["", " ", "_hidden", "$x^2$", "costs $5", "a$b$"])
def test_a_label_that_no_figure_can_show_is_refused(label: str) -> None:
    assert f"label {label!r} cannot be drawn in a figure" in fault({"label": label})


@pytest.mark.parametrize("label", ["the recipe", "with_underscore", "<b>é</b>", "100 %"])
def test_a_label_is_free_text_otherwise(label: str) -> None:
    assert resolve({"label": label}).label == label


def test_two_unsound_combinations_are_both_told() -> None:
    message = fault({"training_loss": "bce", "activation": "tanh", "pixel_range": [-2, 2]})
    assert "which activation tanh with pixels in (-2, 2) does not give" in message
    assert "choose activation: sigmoid and pixel_range: [0, 1]" in message


@pytest.mark.parametrize("activation", ["none", "tanh"])
def test_bce_needs_the_sigmoid(activation: str) -> None:
    message = fault({"training_loss": "bce", "activation": activation})
    assert "probability" in message
    assert "choose activation: sigmoid and pixel_range: [0, 1], or mse" in message


@pytest.mark.parametrize(
    ("activation", "pixel_range", "sound"),
    [
        ("tanh", [-1, 1], True),
        ("tanh", [-0.5, 0.5], True),
        ("tanh", [0, 1], True),
        ("tanh", [-1, 1.1], False),
        ("sigmoid", [0, 1], True),
        ("sigmoid", [0.2, 0.8], True),
        ("sigmoid", [-1, 1], False),
        ("none", [-7, 9], True),
    ],
)
def test_the_range_lies_within_what_the_activation_can_output(activation: str, pixel_range: Any, sound: bool) -> None:
    given = {"activation": activation, "pixel_range": pixel_range}
    if sound:
        assert resolve(given).pixel_range == tuple(pixel_range)
    else:
        message = fault(given)
        assert f"what {activation} can output" in message
        assert "activation: none" in message


def test_lbfgs_is_not_scaled() -> None:
    assert "optimizer LBFGS cannot be scaled for precision fp16: use bf16" in fault(
        {"optimizer": "LBFGS", "precision": "fp16"}
    )
    for sound in ({"optimizer": "LBFGS", "precision": "bf16"}, {"optimizer": "Adam", "precision": "fp16"}):
        assert resolve(sound).optimizer == sound["optimizer"]


def test_every_unsound_combination_is_told_at_once() -> None:
    message = fault({"activation": "tanh", "pixel_range": [-2, 2]}, {"optimizer": "LBFGS", "precision": "fp16"})
    assert [line.split()[0] for line in message.splitlines()] == ["pixel_range", "optimizer"]


@pytest.mark.parametrize("pixel_range", [[1, 0], [0.5, 0.5], [0], [0, 1, 2], "wide", [0, "one"]])
def test_a_range_is_two_numbers_in_order(pixel_range: Any) -> None:
    assert "pixel_range" in fault({"pixel_range": pixel_range})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gain", 0), ("gain", float("inf")), ("learning_rate", float("nan")), ("clip_norm", 0), ("epochs", 0),
        ("epochs", 1.5), ("batch_size", "many"), ("seed", -1), ("seed", 2**32), ("data_seed", 2**64),
        ("task", "reconstruct"), ("decoder_input", None), ("precision", "fp8"),
        ("endless", "perhaps"), ("data_folder", 2024), ("optimizer_arguments", [1]), ("momentum", -0.1),
        ("reduction", "none"), ("clip_update", 0), ("patience", 0), ("patience", 2.5), ("peephole_range", -0.1),
        ("horizon_until", 0), ("horizon_until", 1.1),
        ("schedule_per", "step"), ("readout_bias", "low"), ("recon_truth", "perhaps"),
    ],
)  # fmt: skip
def test_a_value_out_of_place_is_named_with_what_it_means(name: str, value: Any) -> None:
    message = fault({name: value})
    assert message.startswith(f"{name}: ")
    assert repr(value) in message
    assert str(Parameters.model_fields[name].description) in message


@pytest.mark.parametrize("size", [0, -3, 1.5, "wide", True, [64], [64, 0], [1, 2, 3], [64, "x"], {"h": 3}])
def test_a_frame_size_is_one_or_two_numbers_of_pixels(size: Any) -> None:
    assert "frame_size must be pixels on a side, or [height, width]; not" in fault({"frame_size": size})


def test_square_frames_have_one_spelling_in_the_hash() -> None:
    assert resolve({"frame_size": [32, 32]}) == resolve({"frame_size": 32.0}) == resolve({"frame_size": "32"})
    assert resolve({"frame_size": [32, 32]}).frame_shape == (32, 32)
    assert "Moving MNIST has frames of 16, 32 or 64 pixels a side; not (32, 64)" in fault({"frame_size": [32, 64]})


# ---- how it may be spelled ----


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1E-3", " 1.0e-3 "])
def test_a_number_given_as_text_is_the_number(text: str) -> None:
    p = resolve({"learning_rate": text, "optimizer_arguments": {"eps": text, "betas": [text, "0.9"]}})
    assert p.learning_rate == 0.001
    assert p.optimizer_arguments == {"eps": 0.001, "betas": [0.001, 0.9]}


def test_what_pyyaml_takes_for_text_arrives_as_a_number(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-3\nepochs: 1e2\noptimizer_arguments: {eps: 1e-6}\n")
    assert read_yaml(file)["learning_rate"] == "1e-3"  # the trap
    p = resolve(read_yaml(file))
    assert (p.learning_rate, p.epochs, p.optimizer_arguments) == (0.001, 100, {"eps": 1e-6})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_has_one_hash_however_it_is_written(number: float) -> None:
    spelled = [{"optimizer_arguments": {"eps": n}} for n in (number, repr(number), f"{number:.17e}")]
    if number.is_integer() and abs(number) < 2**53:
        spelled.append({"optimizer_arguments": {"eps": int(number)}})
    assert len({run_hash(resolve(s)) for s in spelled}) == 1


def test_a_model_too_large_to_build_is_refused_in_a_sentence() -> None:
    told = r"^a model of this size cannot be built \([^\n]+\): lower width, hidden or layers$"
    for large in ({"hidden": 10**12}, {"width": 1e300}, {"hidden": 10**30, "width": 0.5}):
        with pytest.raises(ValueError, match=told):
            check_parameters(resolve(large))


def test_a_beta_that_the_schedule_sets_is_refused() -> None:
    cycled = {"schedule": "OneCycleLR", "schedule_arguments": {"max_lr": 0.01}, "frame_size": 16, "width": 0.01}
    with pytest.raises(
        ValueError, match=r"^the first of betas \[0.8, 0.99\] has no effect, as schedule OneCycleLR sets"
    ):
        check_parameters(resolve(cycled, {"optimizer_arguments": {"betas": [0.8, 0.99]}}))
    check_parameters(resolve(cycled, {"optimizer_arguments": {"betas": [0.9, 0.99]}}))
    kept = {"schedule_arguments": {"max_lr": 0.01, "cycle_momentum": False}}
    check_parameters(resolve(cycled, kept | {"optimizer_arguments": {"betas": [0.8, 0.99]}}))


def test_a_text_among_arguments_stays_one_unless_yaml_meant_a_number() -> None:
    """`load_yaml` says of 010: quote it if it is text."""
    given = {"tag": "010", "kind": "inf", "none": "nan", "name": "1_0", "arabic": "٣", "list": ["-00.5", "Infinity"]}
    assert resolve({"architecture": "m:A", "architecture_arguments": given}).architecture_arguments == given
    assert resolve({"optimizer_arguments": {"eps": "-1.5E+3"}}).optimizer_arguments == {"eps": -1500}


def test_names_stay_text() -> None:
    p = resolve({"data_folder": "2024", "store": "1e3"})
    assert (p.data_folder, p.store) == ("2024", "1e3")


def test_none_is_the_word_where_there_may_be_none() -> None:
    optional = [name for name, field in Parameters.model_fields.items() if type(None) in get_args(field.annotation)]
    optional.remove("frame_size")  # with clips only
    assert resolve({"frame_size": "none", "clips": "there"}).frame_size is None
    assert {"clip_norm", "learning_rate", "hidden", "forget_bias", "momentum", "patience", "clip_update"} <= {*optional}
    by_word, by_null = resolve(dict.fromkeys(optional, "none")), resolve(dict.fromkeys(optional))
    assert by_word == by_null
    assert all(getattr(by_word, name) is None for name in optional)
    assert resolve({"schedule": "none", "activation": "none"}).schedule == "none"


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_three_fields(name: str) -> None:
    pixel_range, activation, training_loss = LOSSES[name]
    spelled = {"pixel_range": [*pixel_range], "activation": activation, "training_loss": training_loss}
    assert resolve({"loss": name}) == resolve(spelled) == resolve({"loss": name} | spelled)
    assert resolve(spelled).loss == name
    assert pixel_range == {"0": (0, 1), "1": (-1, 1)}[name[0]]
    assert activation == {"n": "none", "t": "tanh", "s": "sigmoid"}[name[1]]
    assert training_loss == {"m": "mse", "b": "bce"}[name[2]]


def test_the_five_losses_are_the_diarys() -> None:
    assert [*LOSSES] == ["1tm", "1nm", "0sb", "0sm", "0nm"]


def test_another_sound_combination_has_a_name_in_words() -> None:
    p = resolve({"pixel_range": [-0.5, 0.5], "activation": "tanh"})
    assert p.loss not in LOSSES
    assert all(word in p.loss for word in ("-0.5..0.5", "tanh", "mse"))


def test_a_later_loss_wins_over_earlier_fields_and_later_fields_over_an_earlier_loss() -> None:
    assert resolve({"activation": "sigmoid", "training_loss": "bce"}, {"loss": "1tm"}).loss == "1tm"
    assert resolve({"loss": "0sb"}, {"training_loss": "mse"}).loss == "0sm"
    assert resolve({"loss": "0sb"}, {}, {"loss": "0nm"}, {"activation": "sigmoid"}).loss == "0sm"
    assert "bce" in fault({"loss": "0sb"}, {"activation": "none"})


def test_a_loss_beside_a_field_that_contradicts_it_is_refused() -> None:
    message = fault({"loss": "0sm", "activation": "tanh"})
    assert "loss 0sm means activation sigmoid" in message
    assert "tanh" in message


@pytest.mark.parametrize("loss", ["0tm", None, 3, ["0sm"], {"0sm": 1}])
def test_an_unknown_loss_lists_the_known(loss: Any) -> None:
    message = fault({"loss": loss})
    assert repr(loss) in message
    assert all(name in message for name in LOSSES)


def test_arguments_of_one_architecture_are_not_those_of_another() -> None:
    cell = {"architecture": "mine:A", "architecture_arguments": {"hidden": 3}}
    for layer, inherited in (
        ({"architecture": "mine:B"}, {}),
        ({"architecture": "mine:A"}, {"hidden": 3}),
        ({"seed": 1}, {"hidden": 3}),
        ({"architecture": "mine:B", "architecture_arguments": {"depth": 1}}, {"depth": 1}),
    ):
        assert resolve(cell, layer).architecture_arguments == inherited
        assert resolve(merge(cell, layer)).architecture_arguments == inherited
        edits = {"architecture_arguments": {"hidden": 3}}
        assert resolve(cell, merge(edits, layer, below=cell)).architecture_arguments == inherited
        assert merge(cell | {"architecture_arguments": {}}, layer) == cell | {"architecture_arguments": {}} | layer
    assert resolve({"architecture_arguments": {"hidden": 3}}, {"architecture": "mine:B"}).architecture_arguments


def test_later_layers_win_key_by_key() -> None:
    layers = [{"epochs": 1, "seed": 1, "gain": 1.5}, {"epochs": 2, "seed": 2}, {"epochs": 3}]
    assert merge(*layers) == {"epochs": 3, "seed": 2, "gain": 1.5}
    assert layers[0] == {"epochs": 1, "seed": 1, "gain": 1.5}
    # papermill replaces nested mappings, so this does too
    assert merge({"optimizer_arguments": {"a": 1}}, {"optimizer_arguments": {"b": 2}}) == {
        "optimizer_arguments": {"b": 2}
    }


# ---- one configuration, one hash ----


@pytest.mark.parametrize(
    "spelled",
    [
        {"loss": "0sm", "learning_rate": 0.01, "gain": 10, "optimizer_arguments": {"eps": 1, "betas": (0.5, 0.9)}},
        {"gain": 1e1, "optimizer_arguments": {"betas": [0.5, 0.9], "eps": 1.0}, "learning_rate": "1e-2", "loss": "0sm"},
        {"activation": "sigmoid", "learning_rate": "0.010", "gain": "10", "seed": 6,
         "optimizer_arguments": {"eps": "1.0", "betas": ["0.5", "9e-1"]}},
    ],
)  # fmt: skip
def test_one_configuration_in_other_words_has_one_hash(spelled: dict[str, Any]) -> None:
    usual = {"loss": "0sm", "gain": 10, "learning_rate": 0.01}
    same = resolve(usual | {"optimizer_arguments": {"betas": [0.5, 0.9], "eps": 1}})
    assert defining(resolve(spelled)) == defining(same)
    assert run_hash(resolve(spelled)) == run_hash(same)


def test_the_hash_is_eight_hex_digits_and_stays_what_it_is() -> None:
    assert int(run_hash(resolve()), 16) >= 0
    assert len(run_hash(resolve())) == 8
    # Of the JSON text {}: finished runs keep their folders only as long as this stays so.
    assert run_hash(resolve()) == "44136fa3"


@pytest.mark.parametrize("name", Parameters.model_fields)
def test_every_parameter_but_those_of_execution_changes_the_hash(name: str) -> None:
    usual = {key: value for key, value in NEEDS.get(name, {}).items() if key != name}
    changed = resolve(NEEDS.get(name, {name: OTHER.get(name)}))
    assert getattr(changed, name) != getattr(resolve(), name)
    assert (run_hash(changed) == run_hash(resolve(usual))) == (name in WHERE_AND_HOW)


def test_execution_is_a_part_of_the_parameters() -> None:
    assert set(EXECUTION) == WHERE_AND_HOW
    assert set(Parameters.model_fields) >= EXECUTION


def test_parameters_survive_their_own_record() -> None:
    p = resolve({"loss": "0sb", "task": "both", "optimizer_arguments": {"betas": [0.5, 0.9]}, "clip_norm": None})
    assert resolve(yaml.safe_load(yaml.safe_dump(p.model_dump(mode="json")))) == p
    assert resolve(defining(p)) == p


# ---- files and cells ----


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    for text in ("", "# only a comment\n", "---\n"):
        (tmp_path / "empty.yaml").write_text(text)
        assert read_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- task\n- pred\n", ["mapping", "list", "task: pred"]),
        (b"task", ["mapping", "str", "'task'"]),
        (b"3", ["mapping", "int"]),
        (b"task: [pred\n", ["not YAML"]),
        (b"a: 1\n b: 2\n", ["not YAML"]),
        (b"\xff\xfe\x00x", ["not YAML"]),
        (b"!!python/object/apply:os.getcwd []", ["not YAML"]),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, content: bytes, words: list[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ParameterError) as caught:
        read_yaml(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert all(word in message for word in words)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no parameter file .*nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ParameterError, match="cannot be read"):
        read_yaml(tmp_path)


def test_a_cell_holds_literals_with_any_annotation() -> None:
    source = """
# Parameters of the family
seed = 6
learning_rate: float = 1e-3  # a comment with = in it
task: Literal["recon", "pred"] = "pred"
data_folder = "a=b # c"
pixel_range = (-1, 1)
optimizer_arguments: dict[str, Any] = {"betas": [0.5, 0.9]}
momentum: float | None = None
endless = False
"""
    assert read_cell(source) == {
        "seed": 6, "learning_rate": 1e-3, "task": "pred", "data_folder": "a=b # c", "pixel_range": (-1, 1),
        "optimizer_arguments": {"betas": [0.5, 0.9]}, "momentum": None, "endless": False,
    }  # fmt: skip
    assert read_cell("") == {}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("epochs = 2 * 100", "epochs = 2 * 100"),
        ("epochs = n", "literals only"),
        ("seed = int('3')", "seed = int('3')"),
        ("import os", "import os"),
        ("a = b = 3", "a = b = 3"),
        ("seed: int", "seed: int"),
        ("gain = {[]: 1}", "literals only"),
        ("for i in range(3):\n    pass", "assignments"),
        ("seed = ", "not Python"),
    ],
)
def test_a_cell_takes_nothing_but_literals(source: str, words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_cell(source)
    assert words in str(caught.value)


@pytest.mark.parametrize("tagged", [0, 1, 2])
def test_a_family_has_one_parameters_cell(tmp_path: Path, tagged: int) -> None:
    import nbformat.v4 as v4

    cells = [v4.new_code_cell("epochs = 3", metadata={"tags": ["parameters"]}) for _ in range(tagged)]
    file = tmp_path / "family.ipynb"
    file.write_text(__import__("nbformat").writes(v4.new_notebook(cells=[v4.new_code_cell("x = 1"), *cells])))
    if tagged == 1:
        assert family_defaults(file) == {"epochs": 3}
    else:
        with pytest.raises(ParameterError, match=f"one cell tagged 'parameters'; it has {tagged}"):
            family_defaults(file)


@pytest.mark.parametrize(
    "text", ["", '{"cells": [', "{}", "[]", "null", '{"cells": null}', '{"cells": [1]}', '{"cells": [{}]}']
)
def test_what_is_no_notebook_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "family.ipynb"
    file.write_text(text)
    with pytest.raises(ParameterError, match=r"family\.ipynb is no notebook"):
        family_notebook(file)


# ---- a parameter that nothing reads is an error ----


def test_every_parameter_is_read_by_something() -> None:
    read: set[str] = set()
    for file in Path(seqae.__file__).parent.rglob("*.py"):
        if file.name == "parameters.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:  # p.name, parameters.name, self.parameters.name
                case (
                    ast.Attribute(value=ast.Name(id="p" | "parameters"), attr=name)
                    | ast.Attribute(value=ast.Attribute(attr="parameters"), attr=name)
                ):
                    read.add(name)
    assert read >= {"seed", "task"}
    assert set(Parameters.model_fields) - read == set()


def test_every_parameter_says_what_it_means() -> None:
    undescribed = [name for name, field in Parameters.model_fields.items() if not field.description]
    assert undescribed == []
    assert {*OTHER, *NEEDS} == set(Parameters.model_fields)  # the table above covers each


def test_help_tells_what_every_parameter_is():
    for name, field in Parameters.model_fields.items():
        assert f"{name}: {field.description}" in Parameters.__doc__.splitlines()
        assert len(field.description) > 10
