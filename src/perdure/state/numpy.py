"""NumPy arrays, scalars and generators, both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib import format as npy

from perdure.state.contract import Leaf, Node, Spec, Thunk
from perdure.state.plain import decode, encode_key

_BIT_GENERATORS = {"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}


class NumpyAdapter:
    """Kind `numpy`: an array of any dtype but object, in C order, with a flag where it was in Fortran order."""

    def flatten(self, value: Any, path: str, tree: Any) -> Node | None:
        if type(value) in (np.ndarray, np.memmap):
            return self._array(value, path, tree)
        if isinstance(value, np.generic):
            return self._scalar(value)
        if type(value) is np.random.Generator:
            return self._generator(value, path, tree)
        if type(value) is np.random.RandomState and type(value._bit_generator) is np.random.MT19937:
            return ["numpy.random_state", tree.node(value.get_state(legacy=False), path)]
        if isinstance(value, np.dtype) and _describe(value) is not None:
            return ["numpy.dtype", _describe(value)]
        return None

    def _array(self, value: np.ndarray[Any, Any], path: str, tree: Any) -> Node | None:
        descriptor = _describe(value.dtype)
        if descriptor is None:
            return None  # object arrays and dtypes of other libraries: pickle knows them
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        meta: dict[str, Any] = {"descr": descriptor}
        if fortran:
            meta["order"] = "F"
        spec = Spec("numpy", _name(value.dtype), value.shape, value.nbytes, meta)

        def fill(out: memoryview) -> None:
            if value.nbytes:
                flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                np.frombuffer(out, np.uint8)[:] = flat

        return tree.add(path, Leaf(spec, fill))

    def _scalar(self, value: np.generic) -> Node | None:
        descriptor = _describe(value.dtype)
        if descriptor is None or type(value) is not value.dtype.type:
            return None
        if isinstance(value, np.str_ | np.bytes_):
            # Their dtypes drop zeros at the end, and have no size when empty.
            plain = str.__str__(value) if isinstance(value, np.str_) else bytes(value)
            return ["numpy.text", encode_key(plain)]
        return ["numpy.scalar", descriptor, encode_key(np.asarray(value).tobytes())]

    def _generator(self, value: np.random.Generator, path: str, tree: Any) -> Node | None:
        bits = value.bit_generator
        seed = bits.seed_seq
        name = type(bits).__name__
        if name not in _BIT_GENERATORS or type(seed) is not np.random.SeedSequence:
            return None
        return ["numpy.generator", name, tree.node({"state": bits.state, "seed": seed.state}, path)]

    def spec(self, live: Any) -> Spec | None:
        # One that cannot be written is replaced by a new one, like any other value.
        # A masked array or matrix is none of ours either: `flatten` leaves it to pickle.
        if type(live) in (np.ndarray, np.memmap) and live.flags.writeable and _describe(live.dtype) is not None:
            return Spec("numpy", _name(live.dtype), live.shape, live.nbytes)
        return None

    def empty(self, spec: Spec) -> tuple[Any, memoryview]:
        dtype = npy.descr_to_dtype(_tuples(spec.meta["descr"]))
        # Not np.empty, which makes a native datetime of one in the other byte order that has no unit.
        array: np.ndarray[Any, Any] = np.ndarray(spec.shape, dtype)
        if array.nbytes != spec.nbytes:
            raise ValueError(f"{spec} has {array.nbytes} bytes, not {spec.nbytes}")
        view = array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(bytearray())
        return array, view

    def finish(self, value: Any, spec: Spec) -> Any:
        return np.asfortranarray(value) if spec.meta.get("order") == "F" else value

    def assign(self, live: Any, value: Any) -> None:
        live[...] = value

    def plan(self, tag: str, arguments: list[Any], live: Any, path: str, plan: Any) -> Thunk:
        if tag == "numpy.scalar":
            scalar = _new_scalar(*arguments)
            return (lambda: scalar) if plan.wants(path) else lambda: live
        if tag == "numpy.text":
            text = decode(arguments[0])
            text = np.str_(text) if isinstance(text, str) else np.bytes_(text)
            return (lambda: text) if plan.wants(path) else lambda: live
        if tag == "numpy.dtype":
            dtype = npy.descr_to_dtype(_tuples(arguments[0]))
            return (lambda: dtype) if plan.wants(path) else lambda: live
        if not plan.wants(path):
            return lambda: live
        if tag == "numpy.random_state":
            return _random_state(plan.node(arguments[0], path=path), live)
        if tag == "numpy.generator":
            name, inner = arguments
            if name not in _BIT_GENERATORS:
                raise LookupError(name)
            return _new_generator(name, plan.node(inner, path=path), live)
        raise LookupError(tag)

    def load_state(self, live: Any, inner: Node, path: str, plan: Any) -> Thunk | None:
        return None

    def generators(self) -> Any:
        """The state of NumPy's global generator."""
        return np.random.get_state(legacy=False)

    def set_generators(self, state: Any) -> None:
        """Put NumPy's global generator where it was."""
        np.random.set_state(state)


def _new_scalar(descriptor: Any, data: Any) -> Any:
    dtype = npy.descr_to_dtype(_tuples(descriptor))
    if not dtype.itemsize:
        return np.zeros(1, dtype)[0]
    # A copy: a scalar with fields is a view, and its fields can be set.
    return np.frombuffer(decode(data), dtype, count=1).copy()[0]


def _random_state(state: Thunk, live: Any) -> Thunk:
    def build() -> Any:
        target = live if isinstance(live, np.random.RandomState) else np.random.RandomState()
        target.set_state(state())
        return target

    return build


def _new_generator(name: str, parts: Thunk, live: Any) -> Thunk:
    def build() -> Any:
        saved = parts()
        seed = np.random.SeedSequence(**saved["seed"])
        if type(live) is np.random.Generator and type(live.bit_generator).__name__ == name:
            target = live
            # The seed too: it is what `spawn` goes by.
            target.bit_generator.__setstate__((saved["state"], seed))  # type: ignore[attr-defined]
        else:
            target = np.random.Generator(getattr(np.random, name)(seed))
        target.bit_generator.state = saved["state"]
        return target

    return build


def _name(dtype: np.dtype[Any]) -> str:
    """What tells dtypes apart: the code alone calls all structures of one size the same."""
    return dtype.str if dtype.names is None else str(_describe(dtype))


def _describe(dtype: np.dtype[Any]) -> Any:
    """NumPy's own description of a dtype as JSON, or None when it does not give the dtype back."""
    if dtype.hasobject or dtype.metadata:
        return None
    try:
        descriptor = npy.dtype_to_descr(dtype)
        again = npy.descr_to_dtype(descriptor)
    except (TypeError, ValueError):
        return None
    # For most dtypes it is a string; types of other libraries claim to be plain bytes there.
    # And generic datetimes of either byte order are equal to it, which `str` tells apart.
    same = again == dtype and again.type is dtype.type and str(again) == str(dtype)
    return descriptor if same else None


def _tuples(node: Any) -> Any:
    """JSON has no tuples, and NumPy's descriptions want them for fields, shapes and titles."""
    if isinstance(node, list) and node and isinstance(node[0], list):
        return [_field(item) for item in node]
    return tuple(_tuples(item) for item in node) if isinstance(node, list) else node


def _field(field: list[Any]) -> tuple[Any, ...]:
    name, descriptor, *shape = field
    name = tuple(name) if isinstance(name, list) else name
    return (name, _tuples(descriptor), *(tuple(part) for part in shape))


ADAPTER = NumpyAdapter()
