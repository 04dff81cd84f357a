"""An interpreter of pickles that builds inert data. It imports nothing, calls nothing, and knows every opcode.

What a pickle would call becomes a plain value where `pickle_rebuild` understands it, and an `OpaqueObject` with the
name and the arguments where not. Every amount is bounded: by `ReadLimits`, and by the size of the pickle itself.
"""

from __future__ import annotations

from codecs import escape_decode
from collections.abc import Callable
from itertools import repeat
from struct import Struct
from struct import error as struct_error

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import OpaqueObject
from ckpt_tui.checkpoints.pickle_calls import MAX_EMBEDDED, OPENINGS, PickleCalls, RanOut, Stop
from ckpt_tui.checkpoints.pickle_rebuild import resolve_persistent_id
from ckpt_tui.text import count

TYPE_CHECKING = False  # what few pickles need is imported when one does: `inspect` has a budget of 70 ms altogether
if TYPE_CHECKING:
    from ckpt_tui.checkpoints.pickle_source import DistantBytes

_INT32 = Struct("<i").unpack_from
_UINT32 = Struct("<I").unpack_from
_UINT16 = Struct("<H").unpack_from
_UINT64 = Struct("<Q").unpack_from
_FLOAT64 = Struct(">d").unpack_from

_CHECK_EVERY = 16_384  # opcodes between looks at the limits
_MAX_INT_BYTES = 1024  # random states hold 128 bits; Python refuses to print more than 4,300 digits
_HIGHEST_PROTOCOL = 5
_MAX_KEPT_BYTES = 16_384  # of one bytes value; longer ones stay in the file, where the pickle is read from one
_MAX_TEXT_BYTES = 1 << 20  # a longer one stays in the file, where arrays are asked for: protocols 0 to 2 write them so


class PickleMachine(PickleCalls):
    """One pickle being read. `position` is where the opcode that is being read begins, roughly: for messages."""

    def __init__(
        self,
        data: bytes,
        start: int,
        limits: ReadLimits,
        resolve: Callable[[object], object] = resolve_persistent_id,
    ) -> None:
        super().__init__(data, limits)
        self.position = start
        self.resolve = resolve
        self.base = 0  # where `data` begins in the source
        self.start = 0  # ... and the pickle, for messages
        self.is_cut = False
        self.is_too_much = False
        self.depth = 0

    def run(self) -> object:
        """The loop. Opcodes of tensors come first and inline; `_rare` has the rest."""
        data, limits, names, resolve = self.data, self.limits, self.names, self.resolve
        position, size, code = self.position, len(self.data), 0
        stack: list[object] = []
        marks: list[list[object]] = []
        memo: dict[int, object] = {}
        push: Callable[[object], None] = stack.append
        num_opcodes = 0
        while True:
            self.position = position
            num_opcodes += _CHECK_EVERY
            if num_opcodes > limits.max_opcodes + _CHECK_EVERY:
                self.is_too_much = True
                raise Stop(f"more than {count(limits.max_opcodes)} opcodes")
            if len(stack) + len(marks) > limits.max_stack or len(memo) > limits.max_memo:
                raise Stop("its stack or memo grows without end")
            try:
                for _ in repeat(None, _CHECK_EVERY):
                    try:
                        code = data[position]
                    except IndexError:
                        data = self.more(position, 1)
                        position, size = 0, len(data)
                        code = data[0]
                    position += 1
                    if code == 0x71:  # BINPUT
                        memo[data[position]] = stack[-1]
                        position += 1
                    elif code == 0x72:  # LONG_BINPUT
                        memo[_UINT32(data, position)[0]] = stack[-1]
                        position += 4
                    elif code == 0x68:  # BINGET
                        push(memo[data[position]])
                        position += 1
                    elif code == 0x4B:  # BININT1
                        push(data[position])
                        position += 1
                    elif code == 0x6A:  # LONG_BINGET
                        push(memo[_UINT32(data, position)[0]])
                        position += 4
                    elif code == 0x28:  # MARK
                        marks.append(stack)
                        stack = []
                        push = stack.append
                    elif code == 0x74:  # TUPLE
                        items = tuple(stack)
                        stack = marks.pop()
                        push = stack.append
                        push(items)
                    elif code == 0x58:  # BINUNICODE
                        end = position + 4 + _UINT32(data, position)[0]
                        if end > size:
                            raise RanOut("a text goes beyond the end", end - position + 1)
                        push(str(data[position + 4 : end], "utf-8", "surrogatepass"))
                        position = end
                    elif code == 0x52:  # REDUCE
                        arguments = stack.pop()
                        stack[-1] = self.call(stack[-1], arguments)
                    elif code == 0x51:  # BINPERSID
                        stack[-1] = resolve(stack[-1])
                    elif code == 0x4D:  # BININT2
                        push(_UINT16(data, position)[0])
                        position += 2
                    elif code == 0x4A:  # BININT
                        push(_INT32(data, position)[0])
                        position += 4
                    elif code == 0x94:  # MEMOIZE
                        memo[len(memo)] = stack[-1]
                    elif code == 0x8C:  # SHORT_BINUNICODE
                        end = position + 1 + data[position]
                        if end > size:
                            raise RanOut("a text goes beyond the end", end - position + 1)
                        push(str(data[position + 1 : end], "utf-8", "surrogatepass"))
                        position = end
                    elif code == 0x85:  # TUPLE1
                        stack[-1] = (stack[-1],)
                    elif code == 0x86:  # TUPLE2
                        stack[-2:] = [(stack[-2], stack[-1])]
                    elif code == 0x87:  # TUPLE3
                        stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
                    elif code == 0x29:  # EMPTY_TUPLE
                        push(())
                    elif code == 0x89:  # NEWFALSE
                        push(False)
                    elif code == 0x88:  # NEWTRUE
                        push(True)
                    elif code == 0x4E:  # NONE
                        push(None)
                    elif code == 0x7D:  # EMPTY_DICT
                        push({})
                    elif code == 0x5D:  # EMPTY_LIST
                        push([])
                    elif code == 0x47:  # BINFLOAT
                        push(_FLOAT64(data, position)[0])
                        position += 8
                    elif code == 0x73:  # SETITEM
                        value = stack.pop()
                        key = stack.pop()
                        self.set_items(stack[-1], [key, value])
                    elif code == 0x75:  # SETITEMS
                        pairs = stack
                        stack = marks.pop()
                        push = stack.append
                        self.set_items(stack[-1], pairs)
                    elif code == 0x61:  # APPEND
                        value = stack.pop()
                        self.extend(stack[-1], [value])
                    elif code == 0x65:  # APPENDS
                        values = stack
                        stack = marks.pop()
                        push = stack.append
                        self.extend(stack[-1], values)
                    elif code == 0x63 or code == 0x93:  # GLOBAL, STACK_GLOBAL
                        if code == 0x63:
                            middle = data.index(b"\n", position)
                            end = data.index(b"\n", middle + 1)
                            module = str(data[position:middle], "utf-8", "surrogateescape")
                            name = str(data[middle + 1 : end], "utf-8", "surrogateescape")
                            position = end + 1
                        else:
                            name, module = _text(stack.pop()), _text(stack.pop())
                        push(names.get((module, name)) or self.name(module, name))
                    elif code == 0x62:  # BUILD
                        state = stack.pop()
                        if self.in_place is None or not self.build_array(stack, state, memo):
                            self.build(stack[-1], state)
                    elif code == 0x81:  # NEWOBJ
                        arguments = stack.pop()
                        stack[-1] = self.call(stack[-1], arguments)
                    elif code == 0x2E:  # STOP
                        self.position = position
                        return stack[-1]
                    else:
                        self.position = position
                        if code == 0x31:  # POP_MARK
                            stack = marks.pop()
                            push = stack.append
                            continue
                        if code in _TAKES_MARK:
                            if code == 0x69:
                                data.index(b"\n", data.index(b"\n", position) + 1)  # before anything is taken
                            taken = stack
                            stack = marks.pop()
                            push = stack.append
                            position = self.rare_marked(code, position, taken, stack)
                        elif code == 0x30 and not stack:  # POP of a mark
                            stack = marks.pop()
                            push = stack.append
                        else:
                            position = self.rare(code, position, stack, memo)
            except (IndexError, ValueError, struct_error, RanOut) as problem:
                # Nothing was done yet of an opcode whose operand is not there as a whole: it is read again with more.
                self.position = position
                needed = self.lacking(problem, code, size - position)
                if not needed:
                    raise
                if code == 0x58 and needed > _MAX_TEXT_BYTES and (text := self.distant_text(position + 4, needed - 5)):
                    push(text)
                    position += needed - 1
                    continue
                data = self.more(position - 1, needed)
                position, size = 0, len(data)
                num_opcodes -= _CHECK_EVERY

    def lacking(self, problem: Exception, code: int, available: int) -> int:
        """How many bytes from the opcode on it needs to be read again; 0 when more bytes do not help."""
        if self.window is None:
            return 0
        if type(problem) is RanOut:
            return problem.needed
        if _OPERAND_BYTES.get(code, 0) > available:
            return _OPERAND_BYTES[code] + 1
        if code in _LINES:
            first = self.data.find(b"\n", self.position)
            if first < 0 or (_LINES[code] == 2 and self.data.find(b"\n", first + 1) < 0):
                left = self.window.source.end - self.base - self.position
                return min(2 * available + _CHECK_EVERY, left) + 1 if left > available else available + 2
        return 0

    def distant_text(self, position: int, num_bytes: int) -> DistantBytes | None:
        """A text that is left where it lies; None when it is not there as a whole, or is needed."""
        if self.in_place is None or self.base + position + num_bytes > self.in_place.source.end:
            return None
        from ckpt_tui.checkpoints.pickle_source import DistantBytes

        text = DistantBytes(self.in_place.source, self.base + position, num_bytes)
        text.type_name = "builtins.str"
        return text

    def more(self, position: int, needed: int) -> bytes:
        """What follows in the source from `position` on: at least `needed` bytes."""
        self.position = position
        if self.window is None:
            raise Stop("it goes on where its bytes end")
        data = self.window.at(self.base + position, needed, is_jump=position > len(self.data))
        if data is None and needed <= self.window.source.end - self.base - position:
            self.is_too_much = True
            raise Stop(f"it has more than {count(self.limits.max_pickle_bytes)} bytes beside its arrays")
        if data is None:
            self.is_cut = True
            raise Stop("it is cut short")
        self.base += position
        self.data = data
        return data

    def line(self, position: int) -> tuple[bytes, int]:
        end = self.data.index(b"\n", position)
        return self.data[position:end], end + 1

    def piece(self, position: int, num_bytes: int) -> tuple[bytes, int]:
        end = position + num_bytes
        if num_bytes < 0:
            raise Stop("a negative number of bytes is announced")
        if end > len(self.data):
            raise RanOut(f"{count(num_bytes)} bytes are announced, fewer are there", end - self.position + 1)
        return self.data[position:end], end

    def rare_marked(self, code: int, position: int, taken: list[object], stack: list[object]) -> int:
        """Opcodes that take everything above the mark."""
        if self.conditional is not None:
            self.note_held(taken)
        if code == 0x6C:  # LIST
            stack.append(taken)
        elif code == 0x64:  # DICT
            target: dict[object, object] = {}
            self.set_items(target, taken)
            stack.append(target)
        elif code == 0x91:  # FROZENSET
            stack.append(OpaqueObject("builtins.frozenset", items=taken))
        elif code == 0x90:  # ADDITEMS
            self.extend(stack[-1], taken)
        elif code == 0x6F:  # OBJ
            stack.append(self.call(taken[0], tuple(taken[1:])))
        else:  # INST
            module, position = self.line(position)
            name, position = self.line(position)
            pair = str(module, "utf-8", "surrogateescape"), str(name, "utf-8", "surrogateescape")
            stack.append(self.call(self.names.get(pair) or self.name(*pair), tuple(taken)))
        return position

    def rare(self, code: int, position: int, stack: list[object], memo: dict[int, object]) -> int:
        """Every other opcode; gives the position behind it."""
        data, push = self.data, stack.append
        if code == 0x80:  # PROTO
            if data[position] > _HIGHEST_PROTOCOL:
                raise Stop(f"protocol {data[position]} is not known")
            return position + 1
        if code == 0x95:  # FRAME
            end = len(data) if self.window is None else self.window.source.end - self.base
            if _UINT64(data, position)[0] > end - position - 8:
                self.is_cut = True
                raise Stop("a frame goes beyond the end")
            return position + 8
        if code in _COUNTED:
            width, kind = _COUNTED[code]
            num_bytes = int.from_bytes(self.piece(position, width)[0], "little", signed=code in _SIGNED_COUNTS)
            begin = position + width
            if self.window is not None and num_bytes > _MAX_KEPT_BYTES and kind in ("bytes", "str8"):
                from ckpt_tui.checkpoints.pickle_source import DistantBytes

                source = self.window.source
                if self.base + begin + num_bytes <= source.end:
                    distant = DistantBytes(source, self.base + begin, num_bytes)
                    if distant.head[:1] in OPENINGS and len(self.embedded) < MAX_EMBEDDED:
                        self.embedded.append(distant)
                    push(distant)
                    return begin + num_bytes
            piece, position = self.piece(begin, num_bytes)
            if kind == "int":
                push(_integer(int.from_bytes(piece, "little", signed=True), len(piece)))
            elif kind == "str":
                push(str(piece, "utf-8", "surrogatepass"))
            else:  # str8 is Python 2's str: text where it is, bytes where not
                value = _old_string(piece) if kind == "str8" else piece
                push(value)
                if type(value) is bytes:
                    self.note_bytes(value)
                if self.in_place is not None:
                    self.in_place.places[id(value)] = (value, self.base + begin)
        elif code == 0x82 or code == 0x83 or code == 0x84:  # EXT1, EXT2, EXT4
            width = 1 << (code - 0x82)
            piece, position = self.piece(position, width)
            pair = "copyreg extension", str(int.from_bytes(piece, "little"))
            push(self.names.get(pair) or self.name(*pair))
        elif code == 0x8F:  # EMPTY_SET
            push(OpaqueObject("builtins.set"))
        elif code == 0x92:  # NEWOBJ_EX
            keywords = stack.pop()
            arguments = stack.pop()
            made = self.call(stack.pop(), arguments)
            if type(made) is OpaqueObject and type(keywords) is dict and keywords:
                made.args = (*made.args, keywords)
            push(made)
        elif code == 0x30:  # POP
            stack.pop()
        elif code == 0x32:  # DUP
            push(stack[-1])
        elif code == 0x97:  # NEXT_BUFFER
            push(OpaqueObject("out-of-band buffer"))
        elif code == 0x98:  # READONLY_BUFFER
            return position
        elif code in b"IFLSVgpP":
            return self.text_opcode(code, position, stack, memo)
        else:
            raise Stop(f"0x{code:02x} is no opcode")
        return position

    def text_opcode(self, code: int, position: int, stack: list[object], memo: dict[int, object]) -> int:
        """Opcodes of protocol 0: one line of text."""
        line, position = self.line(position)
        if code == 0x49:  # INT
            stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _decimal(line))
        elif code == 0x46:  # FLOAT
            stack.append(float(line[:1000]))
        elif code == 0x4C:  # LONG
            stack.append(_decimal(line.rstrip(b"L")))
        elif code == 0x53:  # STRING
            if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
                raise Stop("a text without quotes")
            stack.append(_old_string(escape_decode(line[1:-1])[0]))
        elif code == 0x56:  # UNICODE
            stack.append(str(line, "raw-unicode-escape"))
        elif code == 0x67:  # GET
            stack.append(memo[int(line[:20])])
        elif code == 0x70:  # PUT
            memo[int(line[:20])] = stack[-1]
        else:  # PERSID
            stack.append(self.resolve(str(line, "utf-8", "surrogateescape")))
        return position


_TAKES_MARK = frozenset({0x6C, 0x64, 0x91, 0x90, 0x6F, 0x69})
# opcode -> (bytes of its count, what follows)
_COUNTED = {
    0x8A: (1, "int"), 0x8B: (4, "int"), 0x8D: (8, "str"), 0x43: (1, "bytes"), 0x42: (4, "bytes"), 0x8E: (8, "bytes"),
    0x96: (8, "bytes"), 0x55: (1, "str8"), 0x54: (4, "str8"),
}  # fmt: skip
# How many bytes, and how many lines, must be there behind an opcode before anything is done of it.
_OPERAND_BYTES = {
    0x71: 1, 0x72: 4, 0x68: 1, 0x4B: 1, 0x6A: 4, 0x58: 4, 0x4D: 2, 0x4A: 4, 0x8C: 1, 0x47: 8, 0x80: 1, 0x95: 8,
}  # fmt: skip
_LINES = {0x63: 2, 0x69: 2, **dict.fromkeys(b"IFLSVgpP", 1)}
_SIGNED_COUNTS = frozenset({0x8B, 0x54})


def _text(value: object) -> str:
    if type(value) is not str:
        raise Stop("the name of a global is no text")
    return value


def _integer(value: int, num_bytes: int) -> object:
    return value if num_bytes <= _MAX_INT_BYTES else OpaqueObject("builtins.int", (f"{count(num_bytes)} bytes long",))


def _decimal(line: bytes) -> object:
    if len(line) > 2 * _MAX_INT_BYTES:
        return OpaqueObject("builtins.int", (f"{count(len(line))} digits long",))
    try:
        return int(line)
    except ValueError:
        return int(line, 0)  # as C reads it: 0x10


def _old_string(piece: bytes) -> object:
    try:
        return piece.decode("ascii")
    except UnicodeDecodeError:
        return piece
