"""Globals that run code, reach any attribute, start processes, touch files or the network when a pickle calls them.

For the word "dangerous" only: a name that is neither here nor known is unknown, and not opened for that either.
Whole modules by their first names, so that `os.path.join` is as dangerous as `os.system`: no checkpoint needs either.
"""

from __future__ import annotations

_RUNS_COMMANDS = "runs commands"
_RUNS_CODE = "runs code"
_IMPORTS = "imports code"
_NETWORK = "talks to the network"
_FILES = "reads or changes files"
_PROCESSES = "starts processes or threads"
_PICKLES = "opens another pickle"
_REACHES = "reaches any attribute"
_INTERPRETER = "reaches into the interpreter"

# what it does -> modules, by the first parts of their names
_MODULES = {
    "runs commands and changes files": "os posix nt",
    _RUNS_COMMANDS: "subprocess _posixsubprocess _winapi pty commands popen2 distutils setuptools "
    "pkg_resources ensurepip venv pexpect ptyprocess paramiko platform.popen "
    "numpy.distutils numpy.f2py torch.utils.cpp_extension torch.utils.collect_env torch.utils.bottleneck mailcap "
    "_osx_support _aix_support _pyrepl antigravity",
    _RUNS_CODE: "runpy code codeop pdb bdb timeit cProfile profile trace doctest test.support unittest idlelib lib2to3 "
    "site sitecustomize usercustomize turtledemo tkinter cgitb IPython ipykernel nose pytest _pytest jinja2 mako "
    "numexpr executing asttokens torch._inductor torch._dynamo torch.utils.benchmark torch.testing._internal torch.hub "
    "torch.package torch.distributed.rpc torch.distributed.elastic torch.jit.frontend torch.fx.experimental torch._ops "
    "torch._library torch._C._distributed_rpc sympy.core.sympify sympy.parsing",
    _IMPORTS: "importlib imp pip pydoc pkgutil zipimport modulefinder _imp _frozen_importlib "
    "_frozen_importlib_external _frozen_importlib_bootstrap py_compile compileall hydra.utils hydra._internal",
    "calls machine code": "ctypes _ctypes cffi _cffi_backend numpy.ctypeslib llvmlite",
    "loads code": "marshal",
    _NETWORK: "socket _socket socketserver ssl urllib urllib2 urllib3 requests httplib http httpx aiohttp ftplib "
    "poplib imaplib smtplib telnetlib nntplib xmlrpc xmlrpclib websockets wsgiref huggingface_hub boto3 botocore "
    "torch.utils.model_zoo",
    "opens programs": "webbrowser",
    _FILES: "shutil tempfile glob fileinput linecache io _io zipfile tarfile gzip bz2 lzma sqlite3 _sqlite3 dbm mmap "
    "fsspec readline",
    _PROCESSES: "multiprocessing _multiprocessing asyncio concurrent threading _thread thread sched "
    "torch.multiprocessing",
    "sends signals": "signal _signal faulthandler",
    _PICKLES: "pickle _pickle cPickle pickletools shelve dill joblib pandas.io.pickle pandas.compat.pickle_compat "
    "jsonpickle sklearn.externals.joblib",
    "builds functions": "cloudpickle ray.cloudpickle",
    _REACHES: "operator _operator inspect",
    _INTERPRETER: "sys gc _testcapi _testinternalcapi _xxsubinterpreters _interpreters atexit",
}
_BUILTINS = (
    "eval exec execfile compile open file getattr setattr delattr __import__ __build_class__ apply input "
    "raw_input globals locals vars map filter reduce reload breakpoint exit quit help memoryview type super"
)
_NAMES = {
    _PICKLES: "torch.load torch.save torch.serialization.load torch.storage._load_from_bytes torch.export.load "
    "torch.utils._config_module.load_config torch.utils._config_module.ConfigModule.load_config numpy.load "
    "numpy.lib.npyio.load numpy.lib._npyio_impl.load numpy.lib.format.read_array pandas.read_pickle "
    "torch.distributed.checkpoint.load torch.distributed.checkpoint.state_dict_loader.load joblib.load "
    "skops.io.load torch.utils.data.datapipes.utils.decoder.basichandlers",
    "loads code": "torch.jit.load torch.jit._serialization.load torch.jit._script.unpackage_script_module "
    "torch._C.import_ir_module torch._C.import_ir_module_from_buffer torch.ops.load_library torch.classes.load_library "
    "keras.models.load_model keras.src.saving.saving_lib.load_model tensorflow.keras.models.load_model "
    "keras.layers.Lambda keras.src.layers.core.lambda_layer.Lambda "
    "transformers.dynamic_module_utils.get_class_from_dynamic_module "
    "transformers.dynamic_module_utils.get_class_in_module",
    _RUNS_CODE: "torch.fx.graph_module.reduce_graph_module torch.fx.graph_module.reduce_package_graph_module "
    "torch.fx.graph_module.reduce_deploy_graph_module torch.fx.graph_module._exec_with_source "
    "torch.fx.graph_module._forward_from_src torch.jit.unsupported_tensor_ops.execWrapper torch.jit.script "
    "torch.jit.CompilationUnit torch.compile torch.library.Library numpy.testing._private.utils.runstring "
    "numpy.testing.runstring numpy.testing._private.utils.rundocs numpy.vectorize numpy.frompyfunc "
    "numpy.apply_along_axis pandas.eval pandas.core.computation.eval.eval logging.config.listen "
    "logging.config.dictConfig logging.config.fileConfig logging.config._resolve uuid._get_command_stdout "
    "yaml.load yaml.unsafe_load yaml.full_load yaml.unsafe_load_all tensorflow.py_function tensorflow.numpy_function "
    "dataclasses.make_dataclass collections.namedtuple enum.Enum._missing_ typing.get_type_hints typing.NamedTuple "
    "types.coroutine string.Formatter contextvars.Context.run weakref.finalize contextlib.ExitStack",
    "builds code": "types.CodeType types.FunctionType types.LambdaType types.MethodType types.ModuleType "
    "types.new_class types.BuiltinMethodType",
    "calls whatever it is given": "functools.partial functools.partialmethod functools.reduce functools.singledispatch "
    "functools.cached_property functools.lru_cache functools.cmp_to_key itertools.starmap itertools.accumulate "
    "itertools.groupby itertools.takewhile itertools.dropwhile itertools.filterfalse itertools.imap itertools.ifilter "
    "torch.utils._pytree.tree_map torch.utils._pytree.tree_unflatten torch.utils.checkpoint.checkpoint torch.vmap "
    "torch.func.vmap torch.autograd.function.Function.apply optree.tree_map jax.tree_util.tree_map",
    _FILES: "numpy.fromfile numpy.memmap numpy.save numpy.savez numpy.savetxt numpy.loadtxt numpy.genfromtxt "
    "numpy.DataSource numpy.ndarray.tofile codecs.open pathlib.Path.unlink pathlib.Path.write_text "
    "pathlib.Path.write_bytes pathlib.Path.open pathlib.Path.rename pathlib.Path.replace pathlib.Path.rmdir "
    "pathlib.Path.touch pathlib.Path.chmod pathlib.Path.symlink_to pathlib.Path.hardlink_to pathlib.Path.mkdir "
    "pathlib.Path.read_text pathlib.Path.read_bytes torch.from_file torch.UntypedStorage.from_file "
    "torch.storage.UntypedStorage.from_file logging.FileHandler logging.handlers.RotatingFileHandler "
    "tensorflow.io.read_file tensorflow.io.write_file",
    _NETWORK: "logging.handlers.SocketHandler logging.handlers.HTTPHandler logging.handlers.SMTPHandler "
    "torch.distributed.init_process_group torch.distributed.distributed_c10d.init_process_group",
    _INTERPRETER: "ast.literal_eval.__globals__ builtins.__dict__ types.FrameType types.TracebackType",
}
DANGEROUS_MODULES = {module: reason for reason, modules in _MODULES.items() for module in modules.split()}
DANGEROUS_NAMES = {name: reason for reason, names in _NAMES.items() for name in names.split()} | {
    f"{module}.{name}": "runs code or reaches any attribute"
    for module in ("builtins", "__builtin__")
    for name in _BUILTINS.split()
}
# Modules and attributes through which any code is reached, wherever they stand in a name: `torch.serialization.os`.
_BRIDGE_NAMES = (
    "os sys subprocess importlib ctypes builtins shutil pickle socket runpy __builtins__ __globals__ __subclasses__ "
    "__dict__ __class__ __mro__ __base__ __bases__ __code__ __closure__ __func__ __self__ __wrapped__ __reduce__ "
    "__reduce_ex__ __getattribute__ __getattr__ __setattr__ __loader__ __spec__ __import__"
)
_BRIDGES = frozenset(_BRIDGE_NAMES.split())


def danger_of(module: str, name: str) -> str | None:
    """What a global does that makes it dangerous; None when it is not known to be."""
    full = f"{module}.{name}"
    reason = DANGEROUS_NAMES.get(full)
    if reason is not None:
        return reason
    parts = full.split(".")
    for end in range(1, min(len(parts), 5)):
        reason = DANGEROUS_MODULES.get(".".join(parts[:end]))
        if reason is not None:
            return reason
    if any(part in _BRIDGES for part in parts[1:]):
        return "reaches a dangerous module or attribute through another one"
    return None
