"""QuarkObservers: Quark's ``ModelQuantizer`` on an `ObservedDraft`, and the observers that it puts in place.

Quark's own run is used as it is: it exchanges the linears (``process_model_transformation``), switches observers on and
quantization off, and calls the module with each item of a data loader (``ModelQuantizer._do_calibration``). Arranged
around it are five things (quark 0.13, ``torch/quantization/api.py`` and ``tensor_quantize.py``):

* the loader is a generator, which knows between two items what the observers have seen. So it can keep their state,
  note how scales converge, and, before the first item, put back the state of an earlier run;
* a quantizer makes a scale anew after every batch (``StaticScaledFakeQuantize.observe``), which for ``MSE`` searches
  all bins each time. Here a scale is made when it is asked for: it depends on what was seen, not on when it is made;
* keys and values are nobody's input. They pass quantizers of their own, of the class that Quark makes for a cache;
* what `Observer.HISTOGRAM` finds is a range, of which Quark's parent class of all observers makes the FP8 scale;
* its bars, and its count of tokens, which would read the loader a second time, are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

from quark_eagle.errors import QuantizationError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.quantize.calibration.observer import Observer, ObserverChoice
from quark_eagle.quantize.quark_backend import quark_version, require_quark
from quark_eagle.quantize.quark_import import importing

if TYPE_CHECKING:
    from torch import Tensor

    from quark_eagle.trace.target_trace import TracedPrompt

Feed = Callable[["QuarkObservers"], Iterator["TracedPrompt"]]


class QuarkObservers:
    """The observers of a module by the name of what they observe: its linears, and keys and values."""

    def __init__(self, observers: Mapping[str, Any], scale_of: Callable[[Any], Tensor]) -> None:
        """``observers``: Quark's, by name; ``scale_of``: what makes a scale [] float32 of one of them."""
        self._observers, self._scale_of = dict(observers), scale_of

    def scales(self) -> dict[str, float]:
        """The scale that each would give for what it has seen so far, in float32."""
        return {name: float(self._scale_of(observer)) for name, observer in self._observers.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Everything that the observers know: their buffers by ``name|buffer``, and how many bins each has."""
        buffers = {
            f"{name}|{buffer}": tensor.detach().cpu().clone()
            for name, observer in self._observers.items()
            for buffer, tensor in observer.named_buffers()
        }
        return buffers, {name: it._num_bins for name, it in self._observers.items() if hasattr(it, "_num_bins")}

    def restore(self, buffers: Mapping[str, Tensor], bins: Mapping[str, int]) -> None:
        """Put back what `state` gave."""
        for name, observer in self._observers.items():
            for buffer, current in list(observer.named_buffers()):
                parent, _, last = buffer.rpartition(".")  # torch's observer is a child of Quark's
                setattr(observer.get_submodule(parent), last, buffers[f"{name}|{buffer}"].to(current.device))
                observer.device = current.device  # which a histogram learns from its first batch
            if name in bins:
                observer._num_bins = bins[name]


def observe(
    module: ObservedDraft, choice: ObserverChoice, feed: Feed, *, cache_scales: bool, progress: Progress = SILENT
) -> None:
    """Let Quark run the module over what ``feed`` yields.

    Args:
        module: whose children are exchanged for observed ones.
        choice: of the observer.
        feed: is called once, with the observers, when they are in place.
        cache_scales: observe keys and values as well.
        progress: told of Quark's import, which takes 20 seconds.

    Raises:
        QuantizationError: Quark cannot be imported, or this version lacks what is used.
    """
    with progress.task("import AMD Quark", 1, "step") as task:
        quark = _imported(choice)
        task.advance(1)
    caches = module.caches if cache_scales else ()
    for name in caches:
        parent, _, last = name.rpartition(".")
        made = quark.tensor_quantize.FakeQuantizeBase.get_fake_quantize(quark.spec, module.draft.device)
        module.get_submodule(parent).add_module(last, made)

    def items() -> Iterator[TracedPrompt]:
        quantizers: dict[str, Any] = {name: module.get_submodule(name)._input_quantizer for name in module.linears}
        quantizers |= {name: module.get_submodule(name) for name in caches}
        for quantizer in quantizers.values():
            quantizer.calculate_qparams = _not_yet
            if choice.observer is Observer.HISTOGRAM:
                quantizer.observer.register_forward_pre_hook(_widened)
            if choice.percentile is not None:
                quantizer.observer.percentile = choice.percentile
        observers = {name: quantizer.observer for name, quantizer in quantizers.items()}
        yield from feed(QuarkObservers(observers, quark.scale_of))

    with (
        redirect_stdout(sys.stderr),
        _exchanged(quark.api.tqdm, __init__=partialmethod(quark.api.tqdm.__init__, disable=True)),
        _exchanged(quark.api, QUARK_COUNT_OBSERVED_SAMPLES=False),
        _exchanged(quark.tensor_quantize, QUARK_COUNT_OBSERVED_SAMPLES=False),
    ):
        quark.api.ModelQuantizer(quark.config).quantize_model(module, items())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quark:
    """Quark, imported and set to one observer.

    Attributes:
        api: its module of that name.
        tensor_quantize: its module of that name.
        spec: of what is observed.
        config: of the run.
        scale_of: the FP8 scale [] float32 that an observer comes to.
    """

    api: Any
    tensor_quantize: Any
    spec: Any
    config: Any
    scale_of: Callable[[Any], Tensor]


def _imported(choice: ObserverChoice) -> _Quark:
    require_quark()
    try:
        with importing():
            from quark.torch.quantization import api, tensor_quantize
            from quark.torch.quantization.config.config import (
                FP8E4M3PerTensorSpec,
                Int8PerTensorSpec,
                QConfig,
                QLayerConfig,
            )
            from quark.torch.quantization.observer.observer import UniformScalingObserver
        of_ranges = choice.observer is Observer.HISTOGRAM
        spec = (Int8PerTensorSpec if of_ranges else FP8E4M3PerTensorSpec)(
            observer_method=choice.observer.quark_name, scale_type="float32", is_dynamic=False
        ).to_quantization_spec()
        fp8 = UniformScalingObserver(FP8E4M3PerTensorSpec(scale_type="float32").to_quantization_spec())
        return _Quark(
            api=api,
            tensor_quantize=tensor_quantize,
            spec=spec,
            config=QConfig(global_quant_config=QLayerConfig(input_tensors=spec)),
            scale_of=partial(_scale_of_range, fp8) if of_ranges else _scale,
        )
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise QuantizationError(
            f"AMD Quark {quark_version()}: could not be used to calibrate with {choice.observer.value} "
            f"({type(error).__name__}: {error}), but 0.13 is known to work. "
            "Install that version: pip install 'amd-quark==0.13'."
        ) from error


def _scale(observer: Any) -> Tensor:
    """By the observer itself."""
    scale: Tensor = observer._calculate_qparams()[0]
    return scale


def _scale_of_range(fp8: Any, observer: Any) -> Tensor:
    """Of the range that ``PerTensorHistogramObserverPro._calculate_qparams`` would make an integer scale of.

    Args:
        fp8: Quark's ``UniformScalingObserver``, whose dtype is FP8.
        observer: that has seen the values.
    """
    low, high = observer.histogram._non_linear_param_search()
    scale: Tensor = fp8.calculate_qparams(low, high)[0]
    return scale


def _widened(observer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What is observed, in float32, which has the same values: torch's histograms take no bfloat16 on a CPU."""
    return tuple(x.float() for x in inputs)


def _not_yet(x: Tensor) -> None:
    """In place of making a scale after each batch."""


@contextmanager
def _exchanged(owner: Any, **values: Any) -> Iterator[None]:
    """Names of a module or class that mean something else inside the block."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
