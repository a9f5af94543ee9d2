"""What a run is told: presets, TOML, flags, and which of them wins."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clgrad.cli.config import PRESETS, TrainConfig, all_fields, check_type, model_fields, resolve
from clgrad.cli.errors import UsageError
from clgrad.models import GPTConfig


@pytest.fixture
def toml(tmp_path):
    def write(text):
        file = tmp_path / "config.toml"
        file.write_text(text)
        return str(file)

    return write


def test_flags_win_over_toml_over_preset_over_defaults(toml):
    file = toml('preset = "nanogpt-gpu"\nmax_iters = 7\nn_layer = 2\nseed = 5\nmin_lr = 0')
    chosen = resolve({"seed": 9, "n_head": 3}, file)
    assert chosen.train.seed == 9 and chosen.model["n_head"] == 3  # flags
    assert chosen.train.max_iters == 7 and chosen.model["n_layer"] == 2  # TOML
    assert isinstance(chosen.train.min_lr, float)
    assert chosen.train.batch_size == 64 and chosen.model["n_embd"] == 384  # preset
    assert chosen.train.warmup_iters == TrainConfig.warmup_iters  # default
    assert resolve({"preset": "nanogpt-cpu"}, file).train.batch_size == 12


def test_nanogpt_s_presets_are_nanogpt_s():
    cpu = resolve({"preset": "nanogpt-cpu"})
    assert cpu.model == dict(n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0)
    train = cpu.train
    assert (train.batch_size, train.max_iters, train.learning_rate, train.min_lr) == (12, 2000, 1e-3, 1e-4)
    assert (train.warmup_iters, train.beta1, train.beta2, train.weight_decay) == (100, 0.9, 0.99, 0.1)
    assert train.grad_clip == 1.0
    gpu = resolve({"preset": "nanogpt-gpu"})
    assert gpu.model == dict(n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2)
    assert (gpu.train.batch_size, gpu.train.max_iters) == (64, 5000)


def test_the_default_preset_is_shakespeare():
    assert resolve({}) == resolve({"preset": "shakespeare"})


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_fields_and_keep_to_their_types(preset):
    for name, value in PRESETS[preset].items():
        assert type(value) is all_fields()[name], name


def test_the_fields_are_those_of_both_configurations():
    names = {field.name for field in (*dataclasses.fields(TrainConfig), *dataclasses.fields(GPTConfig))}
    assert all_fields().keys() == names
    assert model_fields().keys() <= names
    assert set(all_fields().values()) <= {bool, int, float, str}


@pytest.mark.parametrize(
    "text, message",
    [
        ("n_layers = 2", "unknown key 'n_layers'. Did you mean n_layer.*Valid: .*batch_size"),
        ("max_iters = 2.5", "max_iters must be of type int, not 2.5"),
        ("max_iters = true", "max_iters must be of type int, not True"),
        ('dropout = "0.1"', "dropout must be of type float, not '0.1'"),
        ("bias = 1", "bias must be of type bool, not 1"),
        ("max_iters = ", "is not TOML"),
        ("[train]\nseed = 1", "unknown key 'train'"),
    ],
)
def test_a_bad_toml_file_is_one_clear_error(toml, text, message):
    with pytest.raises(UsageError, match=message):
        resolve({}, toml(text))


def test_a_missing_toml_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="none.toml cannot be read: No such file"):
        resolve({}, str(tmp_path / "none.toml"))


def test_an_unknown_preset_lists_the_known_ones(toml):
    message = "unknown preset 'nanogpt'.*shakespeare, nanogpt-cpu, nanogpt-gpu"
    for chosen in (({"preset": "nanogpt"}, None), ({}, toml('preset = "nanogpt"'))):
        with pytest.raises(UsageError, match=message):
            resolve(*chosen)


@pytest.mark.parametrize(
    "field, value",
    [("batch_size", 0), ("max_iters", -1), ("eval_interval", 0), ("eval_iters", 0), ("checkpoint_interval", 0)]
    + [("seed", -1), ("learning_rate", -1.0), ("learning_rate", float("nan")), ("grad_clip", -1.0)]
    + [("beta1", 1.0), ("beta2", -0.1), ("beta1", float("nan")), ("weight_decay", -0.1), ("warmup_iters", -1)],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(UsageError, match=field):
        TrainConfig(**{field: value})


@given(st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.none(), st.lists(st.integers())))
def test_a_value_has_exactly_its_type_but_integers_may_be_floats(value):
    for kind in (bool, int, float, str):
        fits = type(value) is kind or (kind is float and type(value) is int)
        if fits:
            assert type(check_type("x", value, kind)) is kind
        else:
            with pytest.raises(UsageError, match=f"x must be of type {kind.__name__}"):
                check_type("x", value, kind)
