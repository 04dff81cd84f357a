"""Which globals that a pickle names are harmless, and why; the rest is unknown, and some are known to be dangerous.

An allow-list: what is not in it is unknown, however innocent its name sounds. Whole names are compared, never
prefixes, because a harmless module reaches others by attributes (`torch.serialization.os.system`).
"""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Verdict

STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}  # fmt: skip

_DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "double",
    "float",
    "half",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "long",
    "int",
    "short",
    "bool",
    "complex32",
    "complex64",
    "complex128",
    "cfloat",
    "cdouble",
    "qint8",
    "quint8",
    "qint32",
    "quint4x2",
    "quint2x4",
    "bits8",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
]

# reason -> names, by module. Python 2 wrote __builtin__ and copy_reg, and protocols 0 to 2 still do.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("rebuilds a tensor from its storage", "torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 "
     "_rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor "
     "_rebuild_sparse_csr_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_wrapper_subclass "
     "_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor"),
    ("rebuilds a tensor from its storage", "torch._tensor", "_rebuild_from_type_v2"),
    ("a tensor's class", "torch", "Tensor " + " ".join(
        name.replace("Storage", "Tensor") for name in STORAGE_DTYPES if name != "UntypedStorage")),
    ("a tensor's class", "torch.nn.parameter", "Parameter Buffer UninitializedParameter"),
    ("a tensor's dtype", "torch", " ".join(_DTYPES)),
    ("a tensor's storage", "torch", " ".join(name for name in STORAGE_DTYPES if name != "UntypedStorage")),
    ("a tensor's storage", "torch.storage", "UntypedStorage TypedStorage"),
    ("a plain value of torch", "torch", "Size device strided sparse_coo sparse_csr per_tensor_affine "
     "per_channel_affine contiguous_format channels_last preserve_format"),
    ("a plain value of torch", "torch.serialization", "_get_layout"),
    ("a plain value of torch", "torch.torch_version", "TorchVersion"),
    ("a module of a saved network", "torch.nn.modules.linear", "Linear Bilinear Identity"),
    ("a module of a saved network", "torch.nn.modules.sparse", "Embedding EmbeddingBag"),
    ("a module of a saved network", "torch.nn.modules.normalization", "LayerNorm GroupNorm RMSNorm"),
    ("a module of a saved network", "torch.nn.modules.batchnorm", "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm"),
    ("a module of a saved network", "torch.nn.modules.dropout", "Dropout Dropout1d Dropout2d Dropout3d"),
    ("a module of a saved network", "torch.nn.modules.container", "Sequential ModuleList ModuleDict ParameterList"),
    ("a module of a saved network", "torch.nn.modules.conv", "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d"),
    ("a module of a saved network", "torch.nn.modules.activation", "ReLU GELU SiLU Tanh Sigmoid Softmax LeakyReLU "
     "MultiheadAttention"),
    ("a tensor made of others", "torch.nested._internal.nested_tensor", "_rebuild_njt NestedTensor"),
    ("a plain value of torch", "torch._dynamo.decorators", "_DimRange"),
    ("a random state", "torch._C", "Generator"),
    ("a value of TorchScript", "torch.jit._pickle", "restore_type_tag build_intlist build_boollist build_doublelist "
     "build_tensorlist build_tensor_from_id"),
    ("a container", "collections", "OrderedDict defaultdict deque Counter"),
    ("a plain value", "builtins", "set frozenset slice range complex bytearray bytes list dict tuple int float bool "
     "str object"),
    ("a plain value", "__builtin__", "set frozenset slice xrange complex bytearray bytes list dict tuple int long "
     "float bool str unicode object"),
    ("text turned into bytes", "_codecs", "encode"),
    ("builds a plain object", "copyreg", "_reconstructor __newobj__ __newobj_ex__"),
    ("builds a plain object", "copy_reg", "_reconstructor __newobj__ __newobj_ex__"),
    ("settings", "argparse", "Namespace"),
    ("settings", "types", "SimpleNamespace"),
    ("a path, as text", "pathlib", "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath"),
    ("a path, as text", "pathlib._local", "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath"),
    ("a date or time", "datetime", "datetime date time timedelta timezone"),
    ("a number", "decimal", "Decimal"),
    ("a number", "fractions", "Fraction"),
    ("an identifier", "uuid", "UUID SafeUUID"),
    ("a numpy value", "numpy", "dtype ndarray float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 "
     "uint8 bool_ bool"),
    ("a numpy value", "numpy.core.multiarray", "_reconstruct scalar"),
    ("a dtype for numpy", "ml_dtypes", "bfloat16 float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn "
     "float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn float6_e2m3fn float6_e3m2fn int2 int4 "
     "uint2 uint4"),
    ("a numpy value", "numpy._core.multiarray", "_reconstruct scalar"),
    ("a numpy value", "numpy.core.numeric", "_frombuffer"),
    ("a numpy value", "numpy._core.numeric", "_frombuffer"),
    ("where the pieces of a distributed checkpoint lie", "torch.distributed.checkpoint.metadata", "Metadata "
     "TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties MetadataIndex StorageMeta "
     "_MEM_FORMAT_ENCODING"),
    ("where the pieces of a distributed checkpoint lie", "torch.distributed.checkpoint.filesystem", "_StorageInfo "
     "_StoragePrefix"),
    ("where the pieces of a distributed checkpoint lie", "torch.distributed.checkpoint._hf_utils", "_HFStorageInfo"),
    ("where the pieces of a distributed checkpoint lie", "torch.distributed._shard.sharded_tensor.metadata",
     "TensorProperties MEM_FORMAT_ENCODING ShardedTensorMetadata"),
    ("where the pieces of a distributed checkpoint lie", "torch.distributed._shard.metadata", "ShardMetadata"),
    ("how DeepSpeed cut the weights", "deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("how DeepSpeed cut the weights", "deepspeed.utils.tensor_fragment", "fragment_address"),
    ("a loss scale", "deepspeed.runtime.fp16.loss_scaler", "LossScaler DynamicLossScaler"),
    ("numpy's random state", "numpy.random._pickle", "__generator_ctor __bit_generator_ctor __randomstate_ctor"),
    ("numpy's random state", "numpy.random._mt19937", "MT19937"),
    ("numpy's random state", "numpy.random._pcg64", "PCG64 PCG64DXSM"),
    ("numpy's random state", "numpy.random.bit_generator", "SeedSequence __pyx_unpickle_SeedSequence"),
    ("settings of transformers", "transformers.training_args", "TrainingArguments OptimizerNames ParallelMode"),
    ("settings of transformers", "transformers.training_args_seq2seq", "Seq2SeqTrainingArguments"),
    ("settings of transformers", "transformers.trainer_utils", "SchedulerType IntervalStrategy SaveStrategy "
     "HubStrategy EvaluationStrategy FSDPOption"),
    ("settings of transformers", "transformers.trainer_pt_utils", "AcceleratorConfig"),
    ("settings of transformers", "transformers.debug_utils", "DebugOption"),
    ("settings of transformers", "transformers.generation.configuration_utils", "GenerationConfig"),
    ("settings of transformers", "transformers.integrations.deepspeed", "HfDeepSpeedConfig HfTrainerDeepSpeedConfig"),
    ("settings of transformers", "transformers.deepspeed", "HfDeepSpeedConfig HfTrainerDeepSpeedConfig"),
    ("settings of accelerate", "accelerate.state", "PartialState AcceleratorState"),
    ("settings of accelerate", "accelerate.utils.dataclasses", "DistributedType DeepSpeedPlugin "
     "FullyShardedDataParallelPlugin GradientAccumulationPlugin TorchDynamoPlugin PrecisionType RNGType "
     "DynamoBackend ProjectConfiguration"),
    ("a sampler's position", "accelerate.data_loader", "SeedableRandomSampler"),
    ("settings of PEFT", "peft.utils.peft_types", "PeftType TaskType"),
    ("settings of PEFT", "peft.tuners.lora.config", "LoraConfig"),
    ("settings of TRL", "trl.trainer.sft_config", "SFTConfig"),
    ("settings of TRL", "trl.trainer.dpo_config", "DPOConfig"),
    ("settings of TRL", "trl.trainer.grpo_config", "GRPOConfig"),
    ("settings of TRL", "trl.trainer.reward_config", "RewardConfig"),
)  # fmt: skip

# Names that stand for something special in a pickle.
OPENER = "torch.storage._load_from_bytes"
FROM_BUFFER = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
# Dangerous in general, harmless as honest pickles call them: `pickle_conditional` looks at each call.
CONDITIONAL = frozenset(
    {
        OPENER, "builtins.getattr", "__builtin__.getattr", "operator.getitem", "_operator.getitem", "builtins.type",
        "__builtin__.type",
    }
)  # fmt: skip

_known = {f"{module}.{name}": reason for reason, module, names in _FAMILIES for name in names.split()}
_has_all = False


def known_reason(full_name: str) -> str | None:
    """Why a global is harmless; None when it is not known to be."""
    reason = _known.get(full_name)
    if reason is None and not _has_all:
        known_names()
        reason = _known.get(full_name)
    return reason


def known_names() -> dict[str, str]:
    """Every known name with its reason. Those that few files hold are imported now, and not for the others."""
    global _has_all
    if not _has_all:
        from ckpt_tui.checkpoints.known_libraries import LIBRARY_FAMILIES
        from ckpt_tui.checkpoints.known_torch import TORCH_FAMILIES

        for families in (TORCH_FAMILIES, LIBRARY_FAMILIES):
            for reason, module, names in families:
                for name in names.split():
                    _known.setdefault(f"{module}.{name}", reason)
        _has_all = True
    return _known


def judge(module: str, name: str) -> tuple[Verdict, str]:
    """What is known of a global, and why. By its whole name, as the file writes it."""
    reason = known_reason(f"{module}.{name}")
    if reason is not None:
        return Verdict.KNOWN, reason
    from ckpt_tui.checkpoints.dangerous_globals import danger_of

    reason = danger_of(module, name)
    if reason is not None:
        return Verdict.DANGEROUS, reason
    return Verdict.UNKNOWN, "not on the list of what training checkpoints need; loading it would run its code"
