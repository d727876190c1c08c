"""QuarkObservers: Quark's ``ModelQuantizer`` on an `ObservedDraft`, and the observers that it puts in place.

Quark's own run is used as it is: it exchanges the linears (``process_model_transformation``), switches observers on and
quantization off, and calls the module with each item of a data loader (``ModelQuantizer._do_calibration``). Arranged
around it are four things (quark 0.13, ``torch/quantization/api.py`` and ``tensor_quantize.py``):

* the loader is a generator, which knows between two items what the observers have seen. So it can keep their state,
  note how scales converge, and, before the first item, put back the state of an earlier run;
* a quantizer makes a scale anew after every batch (``StaticScaledFakeQuantize.observe``), which for ``MSE`` searches
  all bins each time. Here a scale is made when it is asked for: it depends on what was seen, not on when it is made;
* keys and values are nobody's input. They pass quantizers of their own, of the class that Quark makes for a cache;
* its bars, and its count of tokens, which would read the loader a second time, are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from quark_eagle.errors import QuantizationError
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft
from quark_eagle.quantize.calibration.observer import ObserverChoice
from quark_eagle.quantize.quark_backend import quark_version, require_quark

if TYPE_CHECKING:
    from torch import Tensor

    from quark_eagle.trace.target_trace import TracedPrompt

Feed = Callable[["QuarkObservers"], Iterator["TracedPrompt"]]


class QuarkObservers:
    """The observers of a module by the name of what they observe: its linears, and keys and values."""

    def __init__(self, quantizers: Mapping[str, Any]) -> None:
        """``quantizers``: Quark's ``StaticScaledFakeQuantize``, each with its observer."""
        self._observers = {name: quantizer.observer for name, quantizer in quantizers.items()}

    def scales(self) -> dict[str, float]:
        """The scale that each would give for what it has seen so far, in float32."""
        return {name: float(observer._calculate_qparams()[0]) for name, observer in self._observers.items()}

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
                setattr(observer, buffer, buffers[f"{name}|{buffer}"].to(current.device))
                observer.device = current.device  # which a histogram learns from its first batch
            if name in bins:
                observer._num_bins = bins[name]


def observe(module: ObservedDraft, choice: ObserverChoice, feed: Feed, *, cache_scales: bool) -> None:
    """Let Quark run the module over what ``feed`` yields.

    Args:
        module: whose children are exchanged for observed ones.
        choice: of the observer.
        feed: is called once, with the observers, when they are in place.
        cache_scales: observe keys and values as well.

    Raises:
        QuantizationError: Quark cannot be imported, or this version lacks what is used.
    """
    with redirect_stdout(sys.stderr):
        api, tensor_quantize, config, spec = _imported(choice)
    caches = module.caches if cache_scales else ()
    for name in caches:
        parent, _, last = name.rpartition(".")
        made = tensor_quantize.FakeQuantizeBase.get_fake_quantize(spec, module.draft.device)
        module.get_submodule(parent).add_module(last, made)

    def items() -> Iterator[TracedPrompt]:
        quantizers: dict[str, Any] = {name: module.get_submodule(name)._input_quantizer for name in module.linears}
        quantizers |= {name: module.get_submodule(name) for name in caches}
        for quantizer in quantizers.values():
            quantizer.calculate_qparams = _not_yet
            if choice.percentile is not None:
                quantizer.observer.percentile = choice.percentile
        yield from feed(QuarkObservers(quantizers))

    with (
        redirect_stdout(sys.stderr),
        _exchanged(api.tqdm, __init__=partialmethod(api.tqdm.__init__, disable=True)),
        _exchanged(api, QUARK_COUNT_OBSERVED_SAMPLES=False),
        _exchanged(tensor_quantize, QUARK_COUNT_OBSERVED_SAMPLES=False),
    ):
        api.ModelQuantizer(config).quantize_model(module, items())


def _imported(choice: ObserverChoice) -> tuple[Any, Any, Any, Any]:
    """Quark's modules ``api`` and ``tensor_quantize``, the config of the run, and the spec of what is observed."""
    require_quark()
    os.environ.setdefault("QUARK_LOG_LEVEL", "warning")  # as in quark_backend
    try:
        from quark.torch.quantization import api, tensor_quantize
        from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec, QConfig, QLayerConfig

        spec = FP8E4M3PerTensorSpec(
            observer_method=choice.observer.quark_name, scale_type="float32", is_dynamic=False
        ).to_quantization_spec()
        return api, tensor_quantize, QConfig(global_quant_config=QLayerConfig(input_tensors=spec)), spec
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise QuantizationError(
            f"AMD Quark {quark_version()}: could not be used to calibrate with {choice.observer.value} "
            f"({type(error).__name__}: {error}), but 0.13 is known to work. "
            "Install that version: pip install 'amd-quark==0.13'."
        ) from error


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
