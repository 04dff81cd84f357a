"""Whether `torch.load(weights_only=True)` takes a file, and if not, which names are in its way.

The list is torch's own (2.13, `torch/_weights_only_unpickler.py`) and a test holds it against the torch that is
installed. What a person has allowed with `add_safe_globals` is not known here.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, Severity

# Tensor and storage classes by their dtypes' old names.
_OLD_NAMES = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
_STORAGES = [*_OLD_NAMES, "ComplexFloat", "ComplexDouble"]
_QUANTIZED = ["QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4"]
_DTYPES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex32 complex64 complex128 qint8 "
    "quint8 qint32 quint4x2 quint2x4 bits8 bits16 bits1x8 bits2x4 bits4x2 uint1 uint2 uint3 uint4 uint5 uint6 uint7 "
    "int1 int2 int3 int4 int5 int6 int7"
)
_TENSOR_CLASSES = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
_NAMES = {
    "collections": "OrderedDict Counter",
    "torch.nn.parameter": "Parameter",
    "torch.serialization": "_get_layout",
    "torch": "Size Tensor device per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric "
    "per_channel_affine_float_qparams",
    "_codecs": "encode",
    "builtins": "bytearray set complex",
    "torch.storage": "TypedStorage UntypedStorage",
    "torch._utils": "_rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_tensor "
    "_rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage "
    "_rebuild_nested_tensor _rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy "
    "_rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor": "_rebuild_from_type_v2",
}
ALLOWED = frozenset(
    [f"{module}.{name}" for module, names in _NAMES.items() for name in names.split()]
    + [f"torch.{name}Storage" for name in _STORAGES + _QUANTIZED]
    + [f"torch.cuda.{name}Storage" for name in _STORAGES]
    + [f"torch.{place}{name}Tensor" for name in _OLD_NAMES for place in ("", "cuda.")]
    + [f"torch.{place}{name}Tensor" for name in _OLD_NAMES if name != "Bool" for place in ("sparse.", "cuda.sparse.")]
    + [f"torch.{name}" for name in _DTYPES.split()]
)
_BY_TORCH_LOAD = ("torch-zip", "torch-legacy", "lightning")


class WeightsOnly:
    """loads: None where it cannot be said. refuses: the globals in the way. reason: in words, what else is."""

    __slots__ = ("loads", "reason", "refuses")

    def __init__(self, loads: bool | None, refuses: list[str], reason: str = "") -> None:
        self.loads = loads
        self.refuses = refuses
        self.reason = reason


def weights_only(checkpoint: Checkpoint) -> WeightsOnly:
    """The answer to "can I load this with weights_only=True, and if not, what is in the way?" """
    refuses = []
    for ref in checkpoint.globals:
        if not ref.is_in_bytes and not is_taken(ref.name) and (name := _of_python_3(ref.name)) not in refuses:
            refuses.append(name)
    if checkpoint.format == "torchscript":
        return WeightsOnly(False, refuses, "torch.load takes no TorchScript archive with weights_only")
    if checkpoint.format == "torch-tar":
        return WeightsOnly(False, refuses, "torch.load takes no tar file with weights_only")
    if checkpoint.format == "pickle":
        return WeightsOnly(False, refuses, "it was not written by torch.save")
    if checkpoint.format == "dcp":
        reason = "torch.distributed.checkpoint opens .metadata as any pickle, without a safe mode"
        return WeightsOnly(None, [], reason)
    if checkpoint.format not in _BY_TORCH_LOAD:
        is_directory = any(part.file for part in checkpoint.parts)
        if is_directory and checkpoint.globals:
            return WeightsOnly(False if refuses else None, refuses, "" if refuses else "its files load one by one")
        return WeightsOnly(None, [], "torch.load is not what opens it")
    if refuses:
        return WeightsOnly(False, refuses)
    protocol = _protocol(checkpoint)
    if protocol in (0, 4, 5):
        return WeightsOnly(False, [], f"its pickle has protocol {protocol}, torch reads 2")
    if any(finding.severity is Severity.ERROR for finding in checkpoint.findings):
        return WeightsOnly(None, [], "it is damaged")
    return WeightsOnly(True, []) if protocol == 2 else WeightsOnly(None, [], "its pickle has not protocol 2")


def is_taken(name: str) -> bool:
    """Whether a global is one that torch's safe loader takes."""
    return name in ALLOWED or _of_python_3(name) in ALLOWED


def _protocol(checkpoint: Checkpoint) -> object:
    """Of the pickle that torch would load; a legacy file is nothing but pickles of one protocol."""
    if checkpoint.format != "torch-legacy":
        return checkpoint.metadata.get("pickle_protocol")
    try:
        with open(checkpoint.path, "rb") as file:
            head = file.read(2)
    except OSError:
        return None
    return head[1] if head[:1] == b"\x80" else 0


def _of_python_3(name: str) -> str:
    """The name as torch looks for it: Python 2's, which protocols 0 to 2 write, turned into Python 3's."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    module, _, attribute = name.rpartition(".")
    if (module, attribute) in NAME_MAPPING:
        module, attribute = NAME_MAPPING[(module, attribute)]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{attribute}"
