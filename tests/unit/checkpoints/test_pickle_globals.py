"""What honest checkpoints name is known, what runs code is dangerous, and no name is both."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from ckpt_tui.checkpoints.dangerous_globals import DANGEROUS_MODULES, DANGEROUS_NAMES, danger_of
from ckpt_tui.checkpoints.pickle_decode import decode_pickle
from ckpt_tui.checkpoints.pickle_globals import judge, known_names
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.pickle_routes import text
from tests.builders.torch_files import zip_of


def _verdict(name: str) -> str:
    module, _, last = name.rpartition(".")
    return judge(module, last)[0].value


def _unknown(names: list[str]) -> list[str]:
    return [name for name in names if _verdict(name) != "known"]


def test_everything_that_torch_loads_by_default_is_known() -> None:
    assert _unknown(list(_get_allowed_globals())) == []


@pytest.mark.parametrize(
    ("package", "base"), [(torch.nn.modules, torch.nn.Module), (torch.optim, torch.optim.Optimizer)]
)
def test_torchs_own_modules_and_optimizers_are_known(package: Any, base: type) -> None:
    found = []
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if "._multi_tensor" in module.name:  # old names for the same classes, which nothing writes
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and issubclass(kind, base) and kind.__module__ == module.name:
                found.append(f"{module.name}.{kind.__name__}")
    assert len(found) > 10
    assert _unknown(found) == []


def _saved_whole() -> dict[str, Any]:
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(linear.parameters(), 0.1, momentum=0.9)
    data = torch.utils.data.TensorDataset(torch.ones(4))
    return {
        "network": torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.LSTM(2, 2)),
        "transformer": torch.nn.TransformerEncoderLayer(8, 2, 8, activation="gelu", batch_first=True),
        "optimizer": optimizer,
        "schedule": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10),
        "cyclic": torch.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 0.2),
        "scaler": torch.amp.GradScaler("cpu"),
        "average": torch.optim.swa_utils.AveragedModel(linear),
        "data": [torch.utils.data.Subset(data, [1]), torch.utils.data.RandomSampler(data)],
        "packed": torch.nn.utils.rnn.pack_padded_sequence(torch.ones(2, 2, 1), [2, 1]),
        "class of None": type(None),
        "hint": dict[str, int] and __import__("typing").Union[int, float],
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("what", list(_saved_whole()))
def test_what_torch_saves_as_a_whole_is_safe(tmp_path: Path, what: str, protocol: int) -> None:
    path = tmp_path / "x.pt"
    torch.save(_saved_whole()[what], path, pickle_protocol=protocol)
    checkpoint = open_checkpoint(path)
    assert [ref.name for ref in checkpoint.globals if ref.verdict != "known"] == []
    assert checkpoint.safety == "safe"


# Seen in files that the real libraries wrote: torch 2.13, torchao 0.18, tensordict 0.15, OmegaConf 2.4.
_SEEN = """
torch.distributed.tensor.DTensor torch.distributed.tensor._dtensor_spec.DTensorSpec
torch.distributed.device_mesh.DeviceMesh torch.distributed._mesh_layout._MeshLayout
torch.distributed.tensor.placement_types.Shard torch.distributed.tensor.placement_types.Replicate
torch.distributed.tensor._dtensor_spec.ShardOrderEntry torch.distributed._shard.sharded_tensor.api.ShardedTensor
torch.distributed._shard.sharded_tensor.api.ShardedTensor.ProcessGroupState
torch.distributed.remote_device._remote_device
torchao.quantization.Int8Tensor torchao.quantization.granularity.PerRow torchao.optim.subclass_8bit.OptimState8bit
torchao.quantization.quant_primitives.MappingType tensordict._reductions._make_td tensordict._td.TensorDict
tensordict.nn.params.TensorDictParams tensordict.tensorclass.NonTensorData omegaconf.dictconfig.DictConfig
omegaconf.base.ContainerMetadata omegaconf.nodes.AnyNode omegaconf.listconfig.ListConfig typing.Any
lightning.fabric.utilities.data.AttributeDict transformers.training_args.TrainingArguments
torch.distributed.checkpoint.metadata.Metadata deepspeed.runtime.fp16.loss_scaler.LossScaler random.Random
numpy.random._philox.Philox numpy.ma.core._mareconstruct mmengine.logging.history_buffer.HistoryBuffer
"""


def test_names_that_frameworks_write_are_known() -> None:
    assert _unknown(_SEEN.split()) == []


_HOSTILE = """
os.system posix.system nt.system os.path.join os.popen subprocess.Popen subprocess.check_output builtins.eval
__builtin__.eval builtins.exec builtins.open builtins.getattr builtins.__import__ builtins.compile builtins.type
builtins.breakpoint operator.attrgetter operator.methodcaller _operator.itemgetter functools.partial functools.reduce
importlib.import_module runpy._run_code runpy.run_path code.InteractiveInterpreter codeop.compile_command pdb.run
bdb.Bdb.run timeit.timeit cProfile.run profile.run trace.Trace.run doctest.debug_script pip.main pip._internal.main
ensurepip._run_pip venv.create pty.spawn idlelib.run.Executive.runcode idlelib.pyshell.ModifiedInterpreter.runcode
idlelib.autocomplete.AutoComplete.get_entity lib2to3.pgen2.grammar.Grammar.loadgrammar uuid._get_command_stdout
_posixsubprocess.fork_exec _osx_support._read_output _aix_support._read_cmd_output _pyrepl.pager.pipe_pager
imaplib.IMAP4_stream logging.config.listen logging.config.dictConfig mailcap.findmatch test.support.script_helper.run
distutils.file_util.write_file ctypes.CDLL _ctypes.dlopen cffi.FFI marshal.loads types.CodeType types.FunctionType
numpy.f2py.crackfortran.getlincoef numpy.testing._private.utils.runstring numpy.load numpy.distutils.exec_command
numpy.fromfile numpy.memmap torch.load torch.hub.load torch.jit.load torch.utils.cpp_extension.load_inline
torch.fx.graph_module.reduce_graph_module torch._inductor.codecache.compile_file torch._dynamo.guards.GuardBuilder.get
torch.jit.unsupported_tensor_ops.execWrapper torch.utils._config_module.ConfigModule.load_config
torch.utils.bottleneck.__main__.run_cprofile torch.utils.collect_env.run torch.distributed.rpc.internal._run_function
torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression torch.storage._load_from_bytes
torch.utils.data.datapipes.utils.decoder.basichandlers torch.serialization.os.system torch.package.PackageImporter
torch.multiprocessing.spawn pickle.loads _pickle.loads cPickle.loads dill.loads joblib.load pandas.read_pickle
shelve.open cloudpickle.cloudpickle._make_function socket.socket urllib.request.urlopen requests.get httpx.get
aiohttp.client.ClientSession webbrowser.open shutil.rmtree tempfile.mkdtemp asyncio.run multiprocessing.Process
threading.Thread _thread.start_new_thread signal.alarm sys.exit sys.modules gc.get_objects inspect.getattr_static
pydoc.pipepager pkgutil.resolve_name zipimport.zipimporter zipfile.ZipFile sqlite3.connect io.open _io.FileIO
codecs.open pathlib.Path.unlink yaml.unsafe_load jinja2.Template itertools.starmap weakref.finalize
collections.OrderedDict.__init__.__globals__ numpy.os.system torch.sys.modules argparse._sys.exit
"""


@pytest.mark.parametrize("name", _HOSTILE.split())
def test_what_runs_code_is_not_safe(name: str) -> None:
    """By the lists of scanners (picklescan, fickling, modelscan) and by advisories against them."""
    allowed = {"unknown", "dangerous"} if name == "argparse._sys.exit" else {"dangerous"}
    assert _verdict(name) in allowed


def test_no_name_is_known_and_dangerous() -> None:
    both = [name for name in known_names() if name in DANGEROUS_NAMES]
    both += [name for name in known_names() if name.partition(".")[0] in DANGEROUS_MODULES]
    assert set(both) <= {"io.BytesIO", "io.StringIO", "_io.BytesIO", "_io.StringIO"}
    assert all(danger_of(*name.rpartition(".")[::2]) for name in DANGEROUS_NAMES)


def test_a_known_name_reached_in_another_way_is_not_known() -> None:
    for name in ("torch.nn.Linear.forward", "torch.serialization.Linear", "collections.OrderedDict.fromkeys"):
        assert _verdict(name) != "known"


# --- globals that are judged by how they are called

_ATTRIBUTE = b"c__builtin__\ngetattr\n"
_CLASS = b"ctorch._utils\n_rebuild_tensor_v2\n"
_MISUSES = {
    "an attribute that is not plain": _ATTRIBUTE + b"(" + _CLASS + text("__globals__") + b"tR",
    "an attribute of an object": _ATTRIBUTE + b"(ccollections\nOrderedDict\n)R" + text("popitem") + b"tR",
    "given to a function that calls it": b"cnumpy.random._pickle\n__generator_ctor\n(" + text("x") + _ATTRIBUTE + b"tR",
    "called by a rebuild": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + _ATTRIBUTE + _CLASS + b"(" + _CLASS
    + text("x") + b"tNtR",
    "called by a new object": b"ccopyreg\n__newobj__\n(" + _ATTRIBUTE + _CLASS + text("a.b") + b"tR",
    "one harmless and one not": _ATTRIBUTE + b"(" + _CLASS + text("Inner") + b"tR0" + _ATTRIBUTE + b"(]" + text("x")
    + b"tR",
    "never called": _ATTRIBUTE,
    "a class made by type": b"c__builtin__\ntype\n(" + text("X") + b")}tR",
    "an item of a dict": b"c_operator\ngetitem\n(}" + text("x") + b"tR",
    "put into an object, which calls it": b"cargparse\nNamespace\n)R}" + text("__setstate__") + _ATTRIBUTE + b"sb",
    "put into an object in one go": b"cargparse\nNamespace\n)R}(" + text("__new__") + _ATTRIBUTE + b"ub",
    "in a tuple of a state": b"cargparse\nNamespace\n)RN" + _ATTRIBUTE + b"\x85\x86b",
    "appended": b"]" + _ATTRIBUTE + b"a",
    "appended in a tuple": b"](" + _ATTRIBUTE + b"\x85e",
    "in a list": b"(" + _ATTRIBUTE + b"l",
    "in a dict": b"(" + text("x") + _ATTRIBUTE + b"d",
}  # fmt: skip


@pytest.mark.parametrize("misuse", list(_MISUSES))
def test_a_call_of_another_kind_stays_dangerous(tmp_path: Path, misuse: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(zip_of(_MISUSES[misuse] + b"."))
    assert open_checkpoint(path).safety == "dangerous"
    # A harmless call before it changes nothing.
    path.write_bytes(zip_of(_ATTRIBUTE + b"(" + _CLASS + text("Inner") + b"tR0" + _MISUSES[misuse] + b"."))
    assert open_checkpoint(path).safety == ("dangerous" if misuse != "never called" else "unknown")


# An attribute of anything, with no name that is dangerous in itself: each really runs `touch`.
_INNOCENT = (
    _ATTRIBUTE + b"(czoneinfo\nZoneInfo\n" + text("_unpickle") + b"tR0"
    b"c_operator\ngetitem\n(ctyping\nOptional\nctyping\nAny\ntR0"
)  # fmt: skip


def _duck(function: bytes) -> bytes:
    return (
        b"cargparse\nNamespace\n)R}(" + text("__new__") + function + text("__init__") + b"cbuiltins\nslice\nub"
    )  # fmt: skip


def _by_base(marker: object) -> bytes:
    """copyreg._reconstructor calls `__new__` of whatever it is given as a base."""
    call = b"ccopy_reg\n_reconstructor\n("
    attribute, item = _duck(_ATTRIBUTE), _duck(b"c_operator\ngetitem\n")
    names = call + b"ccopy_reg\n__newobj__\n" + attribute + text("__globals__") + b"tR"
    run = call + call + names + item + text("__builtins__") + b"tR" + item + text("eval") + b"tR"
    return _INNOCENT + run + b"(" + text(f"__import__('os').system('touch {marker}')") + b"tR"


def _by_class(marker: object) -> bytes:
    """The state of a class is set as its attributes: now calling an object of it is getattr."""
    caller = b"cargparse\nNamespace\n"
    caller += b"N}" + text("__call__") + _ATTRIBUTE + b"s\x86b)Rq\x01"
    item = b"ccollections\nUserDict\n"
    item += b"N}" + text("__call__") + b"c_operator\ngetitem\ns\x86b)Rq\x02"
    names = b"h\x01(ccopy_reg\n__newobj__\n" + text("__globals__") + b"tR"
    run = b"h\x02(h\x02(" + names + text("__builtins__") + b"tR" + text("eval") + b"tR"
    return (
        _INNOCENT
        + caller
        + b"0"
        + item
        + b"0"
        + run
        + b"("
        + text(f"__import__('os').system('touch {marker}')")
        + b"tR"
    )


@pytest.mark.parametrize("route", [_by_base, _by_class])
def test_an_attribute_reached_by_detours_is_dangerous(tmp_path: Path, route: Callable[[object], bytes]) -> None:
    marker = tmp_path / "ran"
    payload = b"\x80\x02" + route(marker) + b"."
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({payload!r})"], timeout=300, check=False)
    assert marker.exists(), "else this proves nothing"
    (tmp_path / "x.pt").write_bytes(zip_of(payload))
    assert open_checkpoint(tmp_path / "x.pt").safety == "dangerous"


def test_the_state_of_a_class_changes_it_for_the_whole_program() -> None:
    (ref,) = decode_pickle(b"cargparse\nNamespace\nN}" + text("x") + b"K\x01s\x86b.", "x").globals
    assert ref.verdict.value == "dangerous"


@pytest.mark.parametrize(
    "call",
    [
        b"cargparse\nNamespace\n)R(K\x01tR",
        b"ccopyreg\n__newobj__\n(cargparse\nNamespace\n)RK\x01tR",
        b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncargparse\nNamespace\n)RNtR",
    ],
)
def test_a_call_of_an_object_is_unknown(call: bytes) -> None:
    verdicts = {ref.name: ref.verdict.value for ref in decode_pickle(call + b".", "x").globals}
    assert verdicts.pop("object.__call__") == "unknown"
    assert set(verdicts.values()) == {"known"}


def test_tuples_in_tuples_are_not_followed_without_end() -> None:
    bomb = b"K\x01" + b"".join(b"q\x00h\x00\x86" for _ in range(60))
    refs = decode_pickle(_ATTRIBUTE + b"(" + _CLASS + text("Inner") + b"tR0]" + bomb + b"a.", "x").globals
    assert {ref.name: ref.verdict.value for ref in refs}["__builtin__.getattr"] == "dangerous"


def test_an_inner_name_is_judged_as_a_whole() -> None:
    refs = decode_pickle(_ATTRIBUTE + b"(" + _CLASS + text("system") + b"tR.", "x").globals
    assert {ref.name: ref.verdict.value for ref in refs} == {
        "__builtin__.getattr": "known",
        "torch._utils._rebuild_tensor_v2": "known",
        "torch._utils._rebuild_tensor_v2.system": "unknown",
    }
    refs = decode_pickle(_ATTRIBUTE + b"(ctorch\nserialization\n" + text("os") + b"tR.", "x").globals
    assert [ref.verdict.value for ref in refs] == ["known", "unknown", "dangerous"]


def test_a_network_of_ones_own_is_unknown() -> None:
    class Own(torch.nn.Module):
        pass

    Own.__qualname__ = Own.__name__ = "Tests"
    Own.__module__ = "tests"
    buffer = io.BytesIO()
    import tests

    tests.Tests = Own  # type: ignore[attr-defined]
    torch.save(Own(), buffer)
    refs = decode_pickle(_data_pkl(buffer), "x").globals
    assert [ref.name for ref in refs if ref.verdict == "unknown"] == ["tests.Tests"]


def _data_pkl(buffer: io.BytesIO) -> bytes:
    import zipfile

    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")
