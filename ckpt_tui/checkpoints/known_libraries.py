"""Names of Python, numpy and of frameworks beside torch that honest checkpoints hold, each harmless when called.

Several call what they are given (`__generator_ctor`, `LambdaLR`): what they could be given is named in the file too,
and judged for itself.
"""

from __future__ import annotations

# (reason, module, names): a row for each module.
LIBRARY_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("a type hint", "typing", "Any Union Optional List Dict Tuple Set FrozenSet Sequence Mapping Iterable Callable "
     "Literal Type ClassVar Final Annotated Text NoReturn"),
    ("a type hint", "types", "NoneType GenericAlias UnionType"),
    ("a plain value", "builtins", "Ellipsis NotImplemented NoneType"),
    ("a plain value", "__builtin__", "Ellipsis NotImplemented NoneType"),
    ("a plain value", "types", "MappingProxyType"),
    ("bytes or text as a file in memory", "io", "BytesIO StringIO"),
    ("bytes or text as a file in memory", "_io", "BytesIO StringIO"),
    ("a container", "collections", "ChainMap UserDict UserList UserString"),
    ("a date or time", "time", "struct_time"),
    ("a date or time", "zoneinfo", "ZoneInfo ZoneInfo._unpickle"),
    ("a date or time", "pytz", "_UTC _p"),
    ("a date or time", "dateutil.tz.tz", "tzutc tzlocal"),
    ("a date or time", "pandas._libs.tslibs.timestamps", "_unpickle_timestamp Timestamp"),
    ("a pattern for text", "re", "_compile RegexFlag"),
    ("an address", "ipaddress", "IPv4Address IPv6Address"),
    ("a random state", "random", "Random"),
    ("a numpy value", "numpy", "complex64 complex128 longdouble clongdouble str_ bytes_ void object_ datetime64 "
     "timedelta64 intc uintc longlong ulonglong matrix recarray record"),
    ("a numpy value", "numpy.ma", "MaskedArray"),
    ("a numpy value", "numpy.ma.core", "MaskedArray _mareconstruct"),
    ("a numpy value", "numpy.rec", "recarray record"),
    ("a numpy value", "numpy.core.records", "recarray record"),
    ("a numpy value", "numpy.dtypes", "Float64DType Float32DType Float16DType Int64DType Int32DType Int16DType "
     "Int8DType UInt64DType UInt32DType UInt16DType UInt8DType BoolDType Complex64DType Complex128DType StrDType "
     "BytesDType ObjectDType VoidDType DateTime64DType TimeDelta64DType LongDType ULongDType"),
    ("numpy's random state", "numpy.random._philox", "Philox"),
    ("numpy's random state", "numpy.random._sfc64", "SFC64"),
    ("numpy's random state", "numpy.random.bit_generator", "SeedlessSeedSequence SeedSequence"),
    ("numpy's random state", "numpy.random._generator", "Generator"),
    ("numpy's random state", "numpy.random.mtrand", "RandomState"),
    ("settings", "lightning.fabric.utilities.data", "AttributeDict"),
    ("settings", "lightning_fabric.utilities.data", "AttributeDict"),
    ("settings", "lightning.pytorch.utilities.parsing", "AttributeDict"),
    ("settings", "pytorch_lightning.utilities.parsing", "AttributeDict"),
    ("settings", "lightning.pytorch.utilities.enums", "GradClipAlgorithmType"),
    ("settings of transformers", "transformers.utils.generic", "PaddingStrategy TensorType"),
    ("settings of transformers", "transformers.trainer_utils", "HPSearchBackend"),
    ("settings of accelerate", "accelerate.utils.dataclasses", "AutocastKwargs ComputeEnvironment CustomDtype "
     "DDPCommunicationHookType DataLoaderConfiguration DistributedDataParallelKwargs FP8BackendType GradScalerKwargs "
     "InitProcessGroupKwargs LoggerType SageMakerDistributedType TorchContextParallelConfig TorchTensorParallelConfig"),
    ("settings of PEFT", "peft.tuners.lora.config", "ArrowConfig CordaConfig EvaConfig LoftQConfig LoraRuntimeConfig"),
    ("settings of DeepSpeed", "deepspeed.runtime.zero.offload_config", "OffloadDeviceEnum OffloadStateTypeEnum"),
    ("settings of FSDP", "torch.distributed.fsdp.api", "LocalOptimStateDictConfig StateDictSettings"),
    ("settings of FSDP", "torch.distributed.fsdp.fully_sharded_data_parallel", "OptimStateKeyType"),
    ("settings", "omegaconf.dictconfig", "DictConfig"),
    ("settings", "omegaconf.listconfig", "ListConfig"),
    ("settings", "omegaconf.base", "ContainerMetadata Metadata UnionNode SCMode"),
    ("settings", "omegaconf.nodes", "AnyNode StringNode IntegerNode FloatNode BooleanNode BytesNode PathNode EnumNode "
     "InterpolationResultNode"),
    ("settings", "mmengine.config.config", "ConfigDict"),
    ("settings", "addict.addict", "Dict"),
    ("settings", "easydict", "EasyDict"),
    ("settings", "box.box", "Box"),
    ("settings", "munch", "Munch DefaultMunch"),
    ("settings", "yacs.config", "CfgNode"),
    ("settings", "fvcore.common.config", "CfgNode"),
    ("settings", "detectron2.config.config", "CfgNode"),
    ("a history of losses", "mmengine.logging.history_buffer", "HistoryBuffer"),
    ("a loss scale", "apex.amp.scaler", "LossScaler"),
    ("a version", "packaging.version", "Version _Version Infinity NegativeInfinity InfinityType NegativeInfinityType"),
    ("a version", "packaging._structures", "Infinity NegativeInfinity InfinityType NegativeInfinityType"),
)  # fmt: skip
