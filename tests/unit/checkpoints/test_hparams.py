"""Hyperparameters: what differs, and what that does to a resume."""

from __future__ import annotations

from pathlib import Path

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
        ("warmup_steps", Effect.COURSE),
        ("data_seed", Effect.EXACTNESS),
        ("num_train_epochs", Effect.COURSE),
        ("save_steps", Effect.SAFE),
        ("num_hidden_layers", Effect.IMPOSSIBLE),
        ("train_micro_batch_size_per_gpu", Effect.EXACTNESS),
        ("zero_optimization.stage", Effect.IMPOSSIBLE),
        ("zero_optimization.sub_group_size", Effect.EXACTNESS),
        ("optimizer.name", Effect.IMPOSSIBLE),
        ("optimizer.params.lr", Effect.COURSE),
        ("scheduler.type", Effect.COURSE),
        ("bf16.enabled", Effect.EXACTNESS),
        ("dataset.name", Effect.EXACTNESS),
        ("wandb.whatever", Effect.SAFE),
        ("data.whatever", Effect.EXACTNESS),
        # not guessed
        ("config.whatever", Effect.UNKNOWN),
        ("model.whatever", Effect.UNKNOWN),
        ("optimizer.whatever", Effect.UNKNOWN),
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


def test_the_settings_of_the_common_frameworks_are_classified() -> None:
    """By the names in their own sources, read and not imported: that takes seconds."""
    import ast
    import importlib.util

    def names(module: str, cls: str) -> list[str]:
        spec = importlib.util.find_spec(module.partition(".")[0])
        assert spec is not None
        assert spec.submodule_search_locations
        path = Path(spec.submodule_search_locations[0], *module.split(".")[1:]).with_suffix(".py")
        tree = ast.parse(path.read_text())
        found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls)
        fields = [node.target.id for node in found.body
                  if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]  # fmt: skip
        init = next((n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        of_init = [] if init is None else [arg.arg for arg in (*init.args.args, *init.args.kwonlyargs)]
        return [name for name in (*fields, *of_init) if name != "self" and not name.startswith("_")]

    for module, cls, at_most in (
        ("transformers.training_args", "TrainingArguments", 2),
        ("lightning.pytorch.trainer.trainer", "Trainer", 2),
    ):
        settings = names(module, cls)
        assert len(settings) > 30, cls
        unknown = [name for name in settings if effect_of(name) == Effect.UNKNOWN]
        assert len(unknown) <= at_most, (cls, unknown)


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
