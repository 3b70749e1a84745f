"""PyTorch tensors, modules and generators, both directions."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import IO, Any

from perdure.errors import MissingExtraError, StateError
from perdure.state.contract import Leaf, Node, Spec, Thunk
from perdure.state.plain import decode_key
from perdure.state.tree import join

try:
    import torch
except ImportError as error:
    raise MissingExtraError.of("torch", "torch") from error

# The state of torch's optimizers that has the shape of its parameter, by name.
_LIKE_PARAMETER = {
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg"),
    *("acc_delta", "sum", "prev", "step_size", "ax"),
}
_TENSORS = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


class TorchAdapter:
    """Kind `torch`: a dense tensor, in C order. Kind `torch.storage`: memory that several views share."""

    def flatten(self, value: Any, path: str, tree: Any) -> Node | None:
        if type(value) in _TENSORS and value.layout is torch.strided and not value.is_quantized:
            if value.device.type == "meta":
                raise StateError(f"{path} is on the meta device and has no data", hint="materialise it first")
            return self._tensor(value, path, tree)
        if type(value) is torch.Generator:
            return ["torch.generator", str(value.device), tree.node(value.get_state(), path)]
        if type(value) in (torch.Size, torch.device, torch.dtype):
            return [f"torch.{type(value).__name__.lower()}", *_constant(value)]
        return None

    def _tensor(self, value: torch.Tensor, path: str, tree: Any) -> Node:
        plain = value.detach().resolve_conj().resolve_neg()
        spec = _spec(plain, _flags(value))
        if not plain.numel():
            return tree.add(path, Leaf(spec, lambda out: None))
        groups = tree.scratch.setdefault("torch", {})
        memory = plain.untyped_storage()
        # The group keeps its tensors alive: a freed one's address would look like sharing.
        group = groups.setdefault((plain.device, memory.data_ptr()), [])
        view = _view(plain)
        touching = [part for part in group if part.start < view[1] and view[0] < part.end]
        for other, other_view, other_flags, node in (view for part in touching for view in part.views):
            if other_view == view and other_flags == _flags(value) and other.dtype == plain.dtype:
                return node
        node = tree.add(path, Leaf(spec, lambda out: _copy_out(plain, out)))
        whole = _Part(view[0], view[1], [(plain, view, _flags(value), node)])
        for part in touching:
            # Views that do not overlap stay leaves of their own: two ends of a file are not the file.
            whole = _Part(min(whole.start, part.start), max(whole.end, part.end), part.views + whole.views)
            group.remove(part)
        group.append(whole)
        if touching:
            _share(whole, tree)
        return node

    def spec(self, live: Any) -> Spec | None:
        if type(live) in _TENSORS and live.layout is torch.strided and not live.is_quantized:
            return _spec(live, {})
        return None

    def empty(self, spec: Spec) -> tuple[Any, memoryview]:
        dtype = torch.uint8 if spec.kind == "torch.storage" else _dtype(spec.dtype)
        tensor = torch.empty(spec.shape, dtype=dtype)
        if tensor.nbytes != spec.nbytes:
            raise ValueError(f"{spec} has {tensor.nbytes} bytes, not {spec.nbytes}")
        if not tensor.numel():
            return tensor, memoryview(bytearray())
        return tensor, tensor.reshape(-1).view(torch.uint8).numpy().data

    def finish(self, value: Any, spec: Spec) -> Any:
        stride = spec.meta.get("stride")
        if stride:
            strided = torch.empty_strided(spec.shape, stride, dtype=value.dtype)
            value = strided.copy_(value)
        return _dressed(value, spec.meta)

    def assign(self, live: Any, value: Any) -> None:
        with torch.no_grad():
            live.copy_(value)

    def plan(self, tag: str, arguments: list[Any], live: Any, path: str, plan: Any) -> Thunk:
        if not plan.wants(path):
            return lambda: live
        if tag == "torch.view":
            return self._plan_view(arguments, live, path, plan)
        if tag == "torch.generator":
            state = plan.node(arguments[1], path=path)
            return lambda: _generator(live, arguments[0]).set_state(state())
        if tag == "torch.size":
            return lambda: torch.Size(arguments)
        if tag == "torch.device":
            return lambda: torch.device(arguments[0])
        if tag == "torch.dtype":
            return lambda: _dtype(arguments[0])
        raise LookupError(tag)

    def _plan_view(self, arguments: list[Any], live: Any, path: str, plan: Any) -> Thunk:
        leaf, name, shape, stride, offset, flags = arguments
        dtype = _dtype(name)
        spec = self.spec(live)
        if spec is not None and (spec.dtype, spec.shape) != (name, tuple(shape)):
            plan.reshaped(path, f"{name}{list(shape)}", live)
            return lambda: live
        memory = plan.need(leaf)

        def build() -> Any:
            typed = torch.empty(0, dtype=dtype)
            typed.set_(memory().untyped_storage(), offset // dtype.itemsize, shape, stride)
            if spec is None:
                # One object for one view, as it is one leaf where nothing overlaps it: weights stay tied.
                return plan.scratch.setdefault(("torch", repr(arguments)), _dressed(typed, flags))
            self.assign(live, typed)
            return live

        return build

    def load_state(self, live: Any, inner: Node, path: str, plan: Any) -> Thunk | None:
        """Modules and optimizers: all of it is checked before `load_state_dict` copies any of it."""
        if isinstance(live, torch.optim.Optimizer):
            return _plan_optimizer(live, inner, path, plan)
        if not isinstance(live, torch.nn.Module):
            return None
        current = live.state_dict()
        before = len(plan.problems)
        items = _items(inner)
        if items is None:
            plan.reshaped(path, inner[0] if type(inner) is list else type(inner).__name__, live)
            return lambda: live
        thunks = {}
        for key, node in items.items():
            at = join(path, key)
            if not plan.wants(at):
                continue
            if key not in current:
                plan.problem("extra", f"{at} has no place in the live module")
                continue
            count = len(plan.problems)
            # Only for its verdict: the module itself does the copying, and knows what its extra state may be.
            extra = key.rpartition(".")[2] == "_extra_state"
            plan.node(node, plan.MISSING if extra else current[key], at)
            if len(plan.problems) == count:
                thunks[key] = plan.node(node, path=at)
        for key in current:
            if key not in items and plan.wants(join(path, key)):
                plan.problem("missing", f"{join(path, key)} is not in the checkpoint")
        whole = len(plan.problems) == before and len(thunks) == len(current)
        if not thunks:
            return lambda: live

        def load() -> Any:
            state = {key: thunk() for key, thunk in thunks.items()}
            live.load_state_dict(state, strict=whole)
            return live

        return load

    def as_numpy(self, value: torch.Tensor) -> Any:
        """The content as a NumPy array; dtypes that NumPy lacks as the next wider one, which holds all values."""
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        try:
            return plain.numpy()
        except TypeError:
            return plain.to(torch.complex64 if plain.is_complex() else torch.float32).numpy()

    def write(self, state: Any, file: IO[bytes]) -> None:
        """The state as `torch.load` gives it back; StateError when torch cannot write it."""
        try:
            torch.save(state, file)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise StateError(f"torch cannot write this state: {error}", hint="leave parts of it out") from error

    def generators(self) -> Any:
        """The states of torch's global generators: the CPU's, and each GPU's that is in use."""
        cuda = torch.cuda.get_rng_state_all() if _uses_cuda() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def set_generators(self, state: Any) -> None:
        """Put torch's global generators where they were; GPUs that are not there are left out."""
        torch.set_rng_state(state["cpu"])
        for index, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, index)


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _spec(value: torch.Tensor, flags: dict[str, Any]) -> Spec:
    meta = dict(flags)
    if not value.is_contiguous() and _is_dense(value):
        # Such as channels_last: kernels choose by the strides, and other kernels round otherwise.
        meta["stride"] = list(value.stride())
    return Spec("torch", _name(value.dtype), tuple(value.shape), value.numel() * value.itemsize, meta)


def _is_dense(value: torch.Tensor) -> bool:
    order = sorted(range(value.dim()), key=lambda d: value.stride(d), reverse=True)
    return value.permute(order).is_contiguous()


def _flags(value: torch.Tensor) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    if isinstance(value, torch.nn.Parameter):
        flags["wrap"] = "parameter"
    elif isinstance(value, torch.nn.Buffer):
        flags["wrap"] = "buffer"
    if value.requires_grad:
        flags["requires_grad"] = True
    return flags


def _dressed(value: torch.Tensor, flags: Any) -> torch.Tensor:
    grad = bool(flags.get("requires_grad"))
    if flags.get("wrap") == "parameter":
        return torch.nn.Parameter(value, requires_grad=grad)
    if flags.get("wrap") == "buffer":
        value = torch.nn.Buffer(value)
    return value.requires_grad_() if grad else value


def _view(value: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in its memory: first byte, byte after the last, shape and stride."""
    start = value.storage_offset() * value.itemsize
    last = sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    return start, start + (last + 1) * value.itemsize, tuple(value.shape), value.stride()


@dataclass(slots=True, eq=False)
class _Part:
    """A stretch of one memory, in bytes, and the overlapping views that cover it: tensor, view, flags, node."""

    start: int
    end: int
    views: list[Any]


def _share(part: _Part, tree: Any) -> None:
    """Turn the views of a stretch of memory into one leaf, and their nodes into views of it."""
    # Views are aligned to 16 bytes, more than any dtype needs.
    start, end, group = part.start // 16 * 16, part.end, part.views
    first = group[0][0]
    memory = torch.empty(0, dtype=torch.uint8, device=first.device).set_(
        first.untyped_storage(), start, (end - start,), (1,)
    )
    path = group[0][3][1]
    for other in {node[1] for *_, node in group} - {path}:
        del tree.leaves[other]
    spec = Spec("torch.storage", "uint8", (end - start,), end - start)
    tree.leaves[path] = Leaf(spec, lambda out: _copy_out(memory, out))
    for value, view, flags, node in group:
        place = [list(value.shape), list(value.stride()), view[0] - start]
        node[:] = ["torch.view", path, _name(value.dtype), *place, flags]


def _copy_out(value: torch.Tensor, out: memoryview) -> None:
    target = torch.frombuffer(out, dtype=torch.uint8).view(value.dtype).view(value.shape)
    target.copy_(value)


def _constant(value: Any) -> list[Any]:
    if isinstance(value, torch.Size):
        return list(value)
    return [_name(value) if isinstance(value, torch.dtype) else str(value)]


def _generator(live: Any, device: str) -> torch.Generator:
    if isinstance(live, torch.Generator):
        return live
    wanted = torch.device(device)
    return torch.Generator(wanted if wanted.type == "cpu" or torch.cuda.is_available() else "cpu")


def _plan_optimizer(live: torch.optim.Optimizer, inner: Node, path: str, plan: Any) -> Thunk | None:
    """Its groups, their sizes and the shapes of its state; None to go on with `load_state_dict`."""
    kind = type(live)
    base = torch.optim.Optimizer
    own = kind.state_dict is not base.state_dict or kind.load_state_dict is not base.load_state_dict
    if own or getattr(live, "_optimizer_load_state_dict_pre_hooks", None):
        return None  # its format is its own affair
    if not plan.wants_whole(path):
        return lambda: live
    before = len(plan.problems)
    items = _items(inner) or {}
    if not {"param_groups", "state"} <= items.keys():
        plan.reshaped(path, "no state of an optimizer", live)
        return lambda: live
    at = join(path, "param_groups")
    groups = [(_items(group) or {})["params"][1:] for group in items["param_groups"][1:]]
    if len(groups) != len(live.param_groups):
        plan.problem("reshaped", f"{at} is saved as {len(groups)} groups, live it is {len(live.param_groups)}")
        return lambda: live
    parameters: dict[Any, torch.Tensor] = {}
    for index, (saved, group) in enumerate(zip(groups, live.param_groups, strict=True)):
        sizes = len(saved), len(group["params"])
        if sizes[0] != sizes[1]:
            where = join(join(at, index), "params")
            plan.problem("reshaped", f"{where} is saved as {sizes[0]} parameters, live it is {sizes[1]}")
        parameters.update(zip(saved, group["params"], strict=False))
    if len(plan.problems) == before and any(
        c.__module__.startswith("torch.optim.") for c in kind.__mro__ if c is not base
    ):
        for key, node in (_items(items["state"]) or {}).items():
            if key in parameters:
                _check_shapes(node, tuple(parameters[key].shape), join(join(path, "state"), key), plan)
    return None if len(plan.problems) == before else lambda: live


def _check_shapes(node: Node, shape: tuple[int, ...], path: str, plan: Any) -> None:
    """What torch's own optimizers keep for one parameter, in its shape. Others may keep it in any shape."""
    for name, part in (_items(node) or {}).items():
        tag = part[0] if type(part) is list else None
        if name not in _LIKE_PARAMETER or tag not in ("leaf", "torch.view"):
            continue
        saved = plan.spec(part[1]).shape if tag == "leaf" else tuple(part[3])
        if saved != shape:
            plan.problem(
                "reshaped", f"{join(path, name)} is saved as {list(saved)}, live its parameter is {list(shape)}"
            )


def _items(node: Node) -> dict[Any, Node] | None:
    """The entries of a saved state dict, whichever kind of dict it was; None when it was none."""
    if type(node) is dict:
        return node
    tag, *rest = node if type(node) is list else (None,)
    if tag == "stateful":
        return _items(rest[0])
    if tag not in ("odict", "dict"):
        return None
    return {decode_key(key): item for key, item in (rest[1:] if tag == "odict" else rest)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise LookupError(name)
    return dtype


ADAPTER = TorchAdapter()
