"""Hyperparameters: what differs, and what that does to a resume."""

from __future__ import annotations

import pytest

from ckpt_tui.checkpoints.hparams import Effect, compare_hparams, effect_of, same_value

NAN = float("nan")


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("log_freq", Effect.SAFE),
        ("checkpoint_freq", Effect.SAFE),
        ("keep_checkpoints", Effect.SAFE),
        ("eval_freq", Effect.SAFE),
        ("out", Effect.SAFE),
        ("lr", Effect.COURSE),
        ("dropout", Effect.COURSE),
        ("max_steps", Effect.COURSE),
        ("weight_decay", Effect.COURSE),
        ("batch_size", Effect.EXACTNESS),
        ("mini_batch_size", Effect.EXACTNESS),
        ("seed", Effect.EXACTNESS),
        ("data", Effect.EXACTNESS),
        ("precision", Effect.EXACTNESS),
        ("n_layer", Effect.IMPOSSIBLE),
        ("n_embd", Effect.IMPOSSIBLE),
        ("block_size", Effect.IMPOSSIBLE),
        ("lora_rank", Effect.IMPOSSIBLE),
        # other people's names
        ("learning_rate", Effect.COURSE),
        ("per_device_train_batch_size", Effect.EXACTNESS),
        ("accumulate_grad_batches", Effect.EXACTNESS),
        ("logging_steps", Effect.SAFE),
        ("hidden_size", Effect.IMPOSSIBLE),
        ("optimizer.lr", Effect.COURSE),
        ("model.d-model", Effect.IMPOSSIBLE),
        ("Trainer.Max_Epochs", Effect.COURSE),
        # not guessed
        ("my_lr_like_thing", Effect.UNKNOWN),
        ("", Effect.UNKNOWN),
    ],
)
def test_effect(key: str, effect: Effect) -> None:
    assert effect_of(key) == effect


def test_every_flag_of_the_bundled_trainer_is_classified() -> None:
    import dataclasses

    from trainer.config import Config

    unknown = [item.name for item in dataclasses.fields(Config) if effect_of(item.name) == Effect.UNKNOWN]
    assert not unknown


def test_words() -> None:
    assert [effect.words for effect in Effect] == [
        "safe", "not known", "changes the course", "breaks exactness", "impossible",
    ]  # fmt: skip
    assert all(effect.explanation.endswith(".") for effect in Effect)


def test_changes_come_gravest_first() -> None:
    a = {"lr": 1e-3, "batch_size": 16, "n_layer": 4, "log_freq": 10, "seed": 1, "gone": 5, "foo": NAN}
    b = {"lr": 2e-3, "batch_size": 32, "n_layer": 6, "log_freq": 20, "seed": 1, "new": None, "foo": NAN}
    changes = compare_hparams(a, b)
    assert [(c.key, c.change, c.a, c.b) for c in changes] == [
        ("n_layer", "changed", 4, 6),
        ("batch_size", "changed", 16, 32),
        ("lr", "changed", 1e-3, 2e-3),
        ("gone", "removed", 5, None),
        ("new", "added", None, None),
        ("log_freq", "changed", 10, 20),
    ]


def test_nested_settings_are_compared_by_path() -> None:
    a, b = {"lr": 1, "betas": [0.9, 0.95]}, {"lr": 2, "betas": (0.9, 0.95)}
    changes = compare_hparams({"optimizer": a}, {"optimizer": b})
    assert [(c.key, c.effect) for c in changes] == [("optimizer.lr", Effect.COURSE)]


def test_settings_that_hold_themselves_end() -> None:
    loop: dict[str, object] = {"lr": 1}
    loop["self"] = loop
    assert compare_hparams(loop, {"lr": 1}) == []


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (NAN, NAN, True),
        ([1, NAN], (1, NAN), True),
        ([1], [1, 2], False),
        ("1", 1, False),
        (None, 0, False),
        ({"a": NAN}, {"a": NAN}, True),
    ],
)
def test_same_value(a: object, b: object, same: bool) -> None:
    assert same_value(a, b) is same
