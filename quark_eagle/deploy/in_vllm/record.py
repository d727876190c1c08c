"""What vLLM's loader does with a draft, watched from inside while it does it.

Three things are seen, each in its own way, so that no rule of ours is needed to read them:

* *What was not written.* Before the loader runs, every byte of every parameter is set to a pattern that no checkpoint
  holds; a row that still has it afterwards was left alone. Zeros and ones that were loaded are not mistaken for that.
* *What went where.* Every copy between tensors passes through PyTorch's dispatcher; one that reads the memory of a
  tensor from the file and writes that of a parameter is noted with its rows.
* *What is there.* The SHA-256 of every parameter's bytes.

All of it is taken when ``load_weights`` ends, **before** ``process_weights_after_loading``: that step reorders and
re-quantizes weights for the kernels of one device, after which nothing can be compared with a file any more.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

POISON = 0xA5
"""Of every byte: -2.9e-16 as BF16, negative as a scale, beyond any vocabulary as an offset."""
_KEPT_ELEMENTS = 1 << 20
"""Up to this size the initial value is kept and put back where nothing was written: norms, scales, maps. What is larger
is a matrix, which vLLM leaves uninitialized."""


@dataclass
class Record:
    """One load of one draft, in the words of a JSON object.

    Attributes:
        stage: how far it came: "config", "target", "build", "load", "loaded". An exception belongs to where it stopped.
        num_target_layers: as the draft was told.
        parameters: runtime name → dtype, shape, sha256, unwritten (row ranges), and of a scale smallest and largest.
        tensors: name in the file → where its rows went (parameter, first row, rows), in order; empty if nowhere.
    """

    stage: str = "config"
    num_target_layers: int | None = None
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, with the arch that all of it happened on."""
        return asdict(self) | {"arch": _arch()}


@contextmanager
def recording(draft: str, loaded: Callable[[Record], None] = lambda record: None) -> Iterator[Record]:
    """While this is open, the load of the draft in this directory is recorded; `loaded` is called when it is done.

    Patched is the loader of safetensors checkpoints (``model_loader/default_loader.py`` of vLLM 0.19 to 0.32).
    """
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    record = Record()
    copies = _Copies(record.tensors)
    load_model, load_weights = BaseModelLoader.load_model, DefaultModelLoader.load_weights
    get_all_weights = DefaultModelLoader.get_all_weights

    def watched_model(self: Any, vllm_config: Any, model_config: Any, *args: Any, **kwargs: Any) -> Any:
        record.stage = "build" if str(model_config.model) == draft else "target"
        return load_model(self, vllm_config, model_config, *args, **kwargs)

    def watched_read(self: Any, model_config: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        pairs = get_all_weights(self, model_config, model)
        return copies.reading(pairs) if str(model_config.model) == draft else pairs

    def watched_weights(self: Any, model: Any, model_config: Any) -> None:
        if str(model_config.model) != draft:
            load_weights(self, model, model_config)
            return
        record.stage = "load"
        record.num_target_layers = getattr(model.config, "target_layer_count", None)
        parameters = dict(model.named_parameters())
        initial = {name: _poison(parameter) for name, parameter in parameters.items()}
        with copies.into(parameters):
            load_weights(self, model, model_config)
        for name, parameter in parameters.items():
            record.parameters[name] = _facts(name, parameter, initial[name])
        record.stage = "loaded"
        loaded(record)

    BaseModelLoader.load_model = watched_model
    DefaultModelLoader.load_weights = watched_weights
    DefaultModelLoader.get_all_weights = watched_read
    try:
        yield record
    finally:
        BaseModelLoader.load_model = load_model
        DefaultModelLoader.load_weights = load_weights
        DefaultModelLoader.get_all_weights = get_all_weights


class _Copies(TorchDispatchMode):
    """Notes every copy from a tensor of the file into a parameter."""

    def __init__(self, tensors: dict[str, list[dict[str, Any]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors = tensors
        self._parameters: dict[str, torch.Tensor] = {}
        self._read: list[tuple[str, torch.Tensor]] = []  # held, so that no memory is used twice

    def into(self, parameters: dict[str, torch.Tensor]) -> _Copies:
        """Itself, watching these."""
        self._parameters = parameters
        return self

    def reading(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The pairs, noting whose memory each is."""
        for name, tensor in pairs:
            self.tensors.setdefault(name, [])
            self._read.append((name, tensor))
            yield name, tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.copy_:
            self._note(target=args[0], source=args[1])
        elif func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.clone):
            name = _owner(args[0], reversed(self._read))
            if name is not None:
                self._read.append((name, result))  # moved to the device or cast first, and copied from there
        return result

    def _note(self, target: torch.Tensor, source: torch.Tensor) -> None:
        name, parameter = _owner(source, reversed(self._read)), _owner(target, self._parameters.items())
        if name is None or parameter is None or not target.numel():
            return
        whole = self._parameters[parameter]
        row_bytes = max(1, _num_bytes(whole) // _rows(whole))
        first = (target.data_ptr() - whole.data_ptr()) // row_bytes
        place = {"parameter": parameter, "row": first, "rows": max(1, _num_bytes(target) // row_bytes)}
        self.tensors[name].append(place)


def _arch() -> str:
    """``gfx950`` (ROCm says ``gfx950:sramecc+:xnack-``), ``sm_90``, and ``x86_64 AVX2`` where vLLM has no GPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() or not torch.cuda.is_available():
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    found = torch.cuda.get_device_properties(0)
    gcn = getattr(found, "gcnArchName", "")
    return gcn.split(":")[0] if gcn else f"sm_{found.major}{found.minor}"


def _owner(tensor: torch.Tensor, owners: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The first of them in whose memory a tensor, perhaps a view, begins."""
    address, device = tensor.data_ptr(), tensor.device
    for name, owner in owners:
        if owner.device == device and owner.data_ptr() <= address < owner.data_ptr() + max(1, _num_bytes(owner)):
            return name
    return None


def _poison(parameter: torch.Tensor) -> torch.Tensor | None:
    """Sets every byte; the initial value, where it is small enough to have been meant."""
    initial = parameter.detach().clone() if parameter.numel() <= _KEPT_ELEMENTS else None
    _bytes(parameter).fill_(POISON)
    return initial


def _facts(name: str, parameter: torch.Tensor, initial: torch.Tensor | None) -> dict[str, Any]:
    """What the loader left in one parameter; rows that it did not write get their initial value back."""
    rows = _bytes(parameter).view(_rows(parameter), -1)
    unwritten = (rows == POISON).all(dim=1)
    facts: dict[str, Any] = {
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "shape": list(parameter.shape),
        "sha256": hashlib.sha256(_bytes(parameter).cpu().numpy().data).hexdigest(),
        "unwritten": _ranges(unwritten),
    }
    if name.endswith("_scale") and not unwritten.any():
        values = torch.nan_to_num(parameter.detach().float())  # JSON has neither NaN nor infinity
        facts |= {"smallest": float(values.min()), "largest": float(values.max())}
    if unwritten.any():
        rows[unwritten] = _bytes(initial).view(rows.shape)[unwritten] if initial is not None else 0
    return facts


def _ranges(marks: torch.Tensor) -> list[list[int]]:
    """The marked rows as [first, past the last].

    >>> _ranges(torch.tensor([False, True, True, False, True]))
    [[1, 3], [4, 5]]
    """
    edges = torch.diff(torch.nn.functional.pad(marks.int(), (1, 1)))
    begins, ends = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return [list(pair) for pair in zip(begins, ends, strict=True)]


def _rows(tensor: torch.Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 1


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its own memory as bytes. At this point every parameter is as vLLM made it: contiguous."""
    return tensor.detach().view(-1).view(torch.uint8)
