"""Hyperparameters of two checkpoints, or of a checkpoint and a new run: what differs and what that does to a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

from ckpt_tui.records import dataclass


class Effect(StrEnum):
    """What a changed hyperparameter does to a training that is resumed with it, mildest first."""

    SAFE = "safe"
    UNKNOWN = "unknown"
    COURSE = "course"
    EXACTNESS = "exactness"
    IMPOSSIBLE = "impossible"

    @property
    def words(self) -> str:
        """How it is said to a person."""
        return _WORDS[self]

    @property
    def explanation(self) -> str:
        """One sentence: what happens when training is resumed with it changed."""
        return _EXPLANATIONS[self]


_WORDS = {
    Effect.SAFE: "safe",
    Effect.UNKNOWN: "not known",
    Effect.COURSE: "changes the course",
    Effect.EXACTNESS: "breaks exactness",
    Effect.IMPOSSIBLE: "impossible",
}
_EXPLANATIONS = {
    Effect.SAFE: "The weights come out the same.",
    Effect.UNKNOWN: "This key is not known here; look at what the training does with it.",
    Effect.COURSE: "Training goes on from the same state and takes another course from there.",
    Effect.EXACTNESS: "Batches or random numbers no longer follow on: the resume is not exact.",
    Effect.IMPOSSIBLE: "The saved state does not fit the changed model or optimizer: the resume fails.",
}


@dataclass(frozen=True, slots=True)
class HparamChange:
    """One hyperparameter that differs. key: dotted path. change: changed, added (only in b), removed (only in a)."""

    key: str
    change: str
    a: object
    b: object
    effect: Effect


# By the last part of the key, lower case, with `-` as `_`. The flags of the bundled trainer come first in each row.
_KNOWN: Mapping[Effect, str] = {
    Effect.SAFE: """
        out out_dir output_dir log_dir logging_dir run_name name experiment experiment_name project tags notes
        log_interval log_freq log_every logging_steps log_every_n_steps print_freq logging_first_step
        grad_checkpointing keep_every keep_best keep_checkpoints_when_full save_best_only min_improvement
        best_safetensors sync_saves grace_seconds print_seconds timeout_seconds
        eval_freq eval_interval eval_every eval_steps eval_batches eval_iters eval_strategy evaluation_strategy
        val_check_interval do_eval eval_batch_size per_device_eval_batch_size monitor monitor_mode
        metric_for_best_model greater_is_better load_best_model_at_end
        checkpoint_freq checkpoint_minutes checkpoint_auto checkpoint_format checkpoint_dir checkpoint_interval
        checkpoint_every keep_checkpoints keep_emergency_checkpoints keep_epoch_checkpoints keep_last save_weights
        save_safetensors
        save_steps save_interval save_every save_freq save_strategy save_total_limit save_top_k save_last
        always_save_checkpoint save_only_model async_checkpoint async_save checkpoint_async
        resume resume_from resume_from_checkpoint init_from list_checkpoints
        use_tensorboard use_mlflow use_wandb tensorboard mlflow wandb wandb_log wandb_project wandb_run_name
        report_to disable_tqdm progress quiet verbose debug log_level profile profiler
        pin_memory dataloader_pin_memory prefetch_factor persistent_workers push_to_hub hub_model_id
        gradient_checkpointing activation_checkpointing use_gradient_checkpointing
        config config_file local_rank node_rank master_addr master_port rdzv_endpoint timeout_minutes
        fault kill_at_step max_runtime_minutes time_limit_minutes max_time
        logging_strategy log_on_each_node logging_nan_inf_filter log_level_replica include_num_input_tokens_seen
        trackio_space_id trackio_bucket_id trackio_static_space_id skip_memory_metrics log_with logger
        eval_delay eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps
        prediction_loss_only include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval do_train do_predict
        save_on_each_node enable_jit_checkpoint enable_checkpointing checkpointing hub_token hub_private_repo
        hub_strategy hub_always_push hub_revision overwrite_output_dir project_dir default_root_dir
        gradient_checkpointing_kwargs activation_checkpointing_kwargs torch_empty_cache_steps
        dataloader_prefetch_factor dataloader_persistent_workers dataloader_multiprocessing_context
        initializer_range use_cache output_hidden_states output_attentions return_dict
        limit_val_batches limit_test_batches limit_predict_batches check_val_every_n_epoch num_sanity_val_steps
        enable_progress_bar enable_model_summary inference_mode barebones enable_autolog_hparams model_registry
        detect_anomaly steps_per_print wall_clock_breakdown dump_state ddp_timeout
        wandb_mode wandb_entity wandb_tags comment date
    """,
    Effect.COURSE: """
        scaler_growth_interval max_nonfinite max_rollbacks spike_guard
        lr learning_rate base_lr max_lr min_lr lr_min lr_max eta_min warmup warmup_steps warmup_iters warmup_ratio
        warmup_epochs lr_decay lr_decay_iters decay_lr schedule scheduler lr_schedule lr_scheduler lr_scheduler_type
        lr_scheduler_kwargs plateau_patience plateau_factor patience factor gamma step_size milestones
        max_steps total_steps max_iters num_epochs epochs max_epochs num_train_epochs train_steps total_iters
        weight_decay wd beta1 beta2 betas adam_beta1 adam_beta2 adam_epsilon eps epsilon momentum nesterov dampening
        clip grad_clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val gradient_clipping
        dropout attn_dropout resid_dropout embd_dropout attention_dropout hidden_dropout drop_path label_smoothing
        ema_decay ema_beta early_stopping early_stopping_patience z_loss aux_loss_weight loss_weight
        lora_alpha lora_dropout stop_after skip_nonfinite nonfinite_action loss_scale init_scale
        init_loss_scale growth_interval
        optim_args label_smoothing_factor neftune_noise_alpha average_tokens_across_devices gradient_clip_algorithm
        min_epochs min_steps max_train_steps max_epochs_no_improve cooldown_steps decay_steps num_warmup_steps
        num_training_steps warmup_num_steps warmup_min_lr warmup_max_lr total_num_steps lr_end power num_cycles
        hidden_act activation activation_function hidden_dropout_prob attention_probs_dropout_prob dropout_rate
        attention_dropout_prob classifier_dropout resid_pdrop embd_pdrop attn_pdrop summary_first_dropout
        layer_norm_eps layer_norm_epsilon rms_norm_eps norm_eps rope_theta rope_base rope_scaling rope_parameters
        sliding_window scale_attn_weights scale_attn_by_inverse_layer_idx logit_scale problem_type
        router_aux_loss_coef initial_scale_power loss_scale_window hysteresis min_loss_scale
        amsgrad maximize rho alpha centered muon_momentum muon_lr temperature
    """,
    Effect.EXACTNESS: """
        parallel seed data_seed random_seed manual_seed batch_size mini_batch_size micro_batch_size global_batch_size
        train_batch_size per_device_train_batch_size grad_accum grad_accum_steps gradient_accumulation_steps
        accumulate_grad_batches accumulation_steps
        data data_dir data_path dataset dataset_name train_data train_file train_files data_files corpus val_fraction
        val_split train_split shard_bytes shard_tokens num_shards shuffle drop_last sampler tokenizer_name
        num_workers dataloader_num_workers workers streaming packing
        precision dtype amp bf16 fp16 tf32 mixed_precision torch_dtype autocast use_amp
        compile torch_compile use_compile compile_mode deterministic deterministic_algorithms benchmark
        device device_type num_threads threads world_size num_nodes num_gpus devices accelerator strategy
        fsdp ddp backend flash attn_implementation fused foreach
        ema use_ema pytorch_version torch_version transformers_version deepspeed_version lightning_version
        train_micro_batch_size_per_gpu auto_find_batch_size per_gpu_train_batch_size tokens_per_batch
        split_batches dispatch_batches even_batches ignore_data_skip full_determinism overfit_batches fast_dev_run
        limit_train_batches dataloader_drop_last dataloader_in_order dataloader_config remove_unused_columns
        train_sampling_strategy group_by_length length_column_name label_names max_length max_seq_length
        max_source_length max_target_length block_len num_samples max_train_samples dataset_config
        dataset_config_name streaming_data reload_dataloaders_every_n_epochs use_distributed_sampler
        sync_batchnorm preprocessing_num_workers use_cpu no_cuda use_mps_device half_precision_backend
        fp16_opt_level bf16_enabled fp16_enabled torch_compile_backend torch_compile_mode
        use_liger_kernel liger_kernel_config dynamo_backend reorder_and_upcast_attn
        accelerator_config parallelism_config deepspeed fsdp_config fsdp_plugin deepspeed_plugin megatron_lm_plugin
        zero_optimization offload_optimizer offload_param overlap_comm contiguous_gradients reduce_scatter
        reduce_bucket_size allgather_bucket_size allgather_partitions round_robin_gradients prescale_gradients
        ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend plugins
        tensor_parallel_size pipeline_parallel_size data_parallel_size context_parallel_size sequence_parallel
        tp_size pp_size dp_size cp_size dp_replicate dp_shard rng_types step_scheduler_with_optimizer
    """,
    Effect.IMPOSSIBLE: """
        n_layer n_layers num_layers num_hidden_layers layers n_head n_heads num_heads num_attention_heads
        n_kv_head num_key_value_heads n_embd n_embed d_model dim hidden_size hidden_dim model_dim embed_dim
        intermediate_size ffn_dim d_ff mlp_ratio head_dim block_size context_length max_seq_len seq_len
        max_position_embeddings n_positions n_ctx vocab_size num_classes in_channels out_channels channels
        bias tie_weights tie_word_embeddings use_bias arch architecture model model_name model_type
        model_name_or_path optimizer optim optimizer_type optimizer_name lora_rank lora_r lora_target_modules
        patch_size num_experts position_embedding
        attention_bias mlp_bias qkv_bias n_inner num_labels num_local_experts type_vocab_size
        image_size num_channels hidden_sizes depths encoder_layers decoder_layers encoder_ffn_dim decoder_ffn_dim
        num_decoder_layers num_encoder_layers d_kv add_cross_attention is_encoder_decoder architectures
        padded_vocab_size n_query_groups ffn_hidden_size num_query_groups kv_channels zero_stage
        target_modules modules_to_save optim_target_modules use_dora quantization_config
    """,
}
_EFFECT_OF = {key: effect for effect, keys in _KNOWN.items() for key in keys.split()}
# What stands under these is of one kind, whatever it is called. Of others (`model.foo`) nothing is said.
_GROUPS: Mapping[Effect, str] = {
    Effect.SAFE: "wandb tensorboard mlflow logging logger loggers log checkpoint checkpointing profiler evaluation",
    Effect.COURSE: "scheduler lr_scheduler lr_scheduler_kwargs schedule lr_schedule",
    Effect.EXACTNESS: """
        data dataset datasets dataloader data_loader datamodule train_data sampler tokenizer
        zero_optimization fsdp fsdp_config ddp deepspeed accelerator_config parallelism_config amp
    """,
}
_GROUP_OF = {key: effect for effect, keys in _GROUPS.items() for key in keys.split()}
# These tell which one it is of what stands before them: `optimizer.name` is the optimizer.
_WHICH = frozenset({"name", "type", "path", "_target_", "class_name", "class_path", "cls", "kind", "enabled", "enable"})


def effect_of(key: str) -> Effect:
    """The effect on a resume of changing the hyperparameter `key`, a dotted path, whose last part decides.

    An unknown key is `Effect.UNKNOWN`: nothing is guessed from how a name looks.
    """
    parts = key.lower().replace("-", "_").split(".")
    if len(parts) > 1 and parts[-1] in _WHICH and parts[-2] in _EFFECT_OF:
        return _EFFECT_OF[parts[-2]]
    if parts[-2:] == ["zero_optimization", "stage"]:
        return Effect.IMPOSSIBLE  # the optimizer's state is shared out in another way
    if parts[-1] in _EFFECT_OF:
        return _EFFECT_OF[parts[-1]]
    return next((_GROUP_OF[part] for part in reversed(parts[:-1]) if part in _GROUP_OF), Effect.UNKNOWN)


# How often and on how much a training evaluates: safe, but where the learning rate goes by what comes of it.
_OF_EVALUATION = frozenset(
    ["eval_freq", "eval_interval", "eval_every", "eval_steps", "eval_batches", "eval_iters", "val_check_interval"]
)


def goes_by_evaluations(settings: Mapping[str, object]) -> bool:
    """Whether a schedule of these (flat) settings lowers the learning rate on a plateau of the validation loss."""
    return any(
        isinstance(value, str) and "plateau" in value.lower() and "sched" in key.lower()
        for key, value in settings.items()
    )


def effect_among(key: str, *, is_by_evaluations: bool) -> Effect:
    """`effect_of(key)` among the other settings. is_by_evaluations: of one of both sides (`goes_by_evaluations`)."""
    last = key.lower().replace("-", "_").rpartition(".")[2]
    return Effect.COURSE if is_by_evaluations and last in _OF_EVALUATION else effect_of(key)


def compare_hparams(a: Mapping[str, object], b: Mapping[str, object]) -> list[HparamChange]:
    """What differs between two sets of hyperparameters, gravest effect first, then by key.

    Nested mappings are compared by dotted path. Equal means equal in value and in kind: `1` and `1.0` are equal,
    `1` and `True` are not, NaN equals NaN, a tuple equals a list with the same items.
    """
    flat_a, flat_b = flat_settings(a), flat_settings(b)
    is_by_evaluations = goes_by_evaluations(flat_a) or goes_by_evaluations(flat_b)
    changes = []
    for key in {**flat_a, **flat_b}:
        effect = effect_among(key, is_by_evaluations=is_by_evaluations)
        if key not in flat_b:
            changes.append(HparamChange(key, "removed", flat_a[key], None, effect))
        elif key not in flat_a:
            changes.append(HparamChange(key, "added", None, flat_b[key], effect))
        elif not same_value(flat_a[key], flat_b[key]):
            changes.append(HparamChange(key, "changed", flat_a[key], flat_b[key], effect))
    gravity = {effect: place for place, effect in enumerate(Effect)}
    return sorted(changes, key=lambda change: (-gravity[change.effect], change.key))


def same_value(a: object, b: object) -> bool:
    """Equal as settings are: NaN equals NaN, lists equal tuples, booleans equal only booleans."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_value(a[key], b[key]) for key in a)
    return bool(a == b)


def key_text(key: object) -> str:
    """A key as part of a dotted path. Python refuses to spell integers of thousands of digits."""
    return f"({key.bit_length()}-bit integer)" if isinstance(key, int) and key.bit_length() > 256 else str(key)


def flat_settings(values: Mapping[str, object]) -> dict[str, object]:
    """Nested mappings by dotted path; an empty mapping stays a value. A mapping inside itself is met once."""
    flat: dict[str, object] = {}
    waiting: list[tuple[str, Mapping[str, object], frozenset[int]]] = [("", values, frozenset({id(values)}))]
    while waiting:
        prefix, mapping, inside = waiting.pop()
        for key, value in mapping.items():
            path = prefix + key_text(key)
            if isinstance(value, dict) and value:
                if id(value) not in inside:
                    waiting.append((f"{path}.", value, inside | {id(value)}))
            else:
                flat[path] = value
    return flat
