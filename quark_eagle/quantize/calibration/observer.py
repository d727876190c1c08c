"""Observer: Quark's ways to tell from activations how large a static scale has to be, by Quark's own names.

Each is a class of ``quark/torch/quantization/observer/observer.py`` (0.13), chosen there by
``PER_TENSOR_OBSERVER_METHOD_MAP`` of ``config/config.py``. Two of that map are made for integers alone:

* ``histogram``, the parent of ``percentile`` and ``MSE``, only counts. It never sets the minimum and maximum that
  ``_calculate_qparams`` reads, so every FP8 scale would be the same 1.2e-7. It is not used.
* ``histogrampro`` finds a range by torch's own search over a histogram and refuses the dtype FP8. Here it observes with
  a spec of int8, which it takes, and Quark makes the FP8 scale of its range, as it does of a minimum and a maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from quark_eagle.errors import UsageError

QUARKS_PERCENTILE = 99.99999999


class Observer(str, Enum):
    """An observer; the value is what the command line and the documents call it."""

    MIN_MAX = "min_max"
    """The largest magnitude that was seen: nothing is clipped. Order and batches do not matter."""

    PERCENTILE = "percentile"
    """The magnitude below which a share of the nonzero values lies, to the width of a bin of their histogram.

    Shares are summed in float32: of more than 2**24 values, bins that hold a few of them count for nothing.
    """

    MSE = "mse"
    """Of the histogram's bins from the 2046th on, the one whose FP8 grid has the least squared error.

    The first batch sets the width of 2048 bins, so nothing below that batch's largest magnitude is tried.
    """

    HISTOGRAM = "histogram"
    """The range, of a histogram of 256 bins, whose 8-bit integers would have the least squared error.

    The search (``torch.ao.quantization.HistogramObserver``) is for equal steps. FP8's grow with the magnitude, so what
    it cuts off gains FP8 next to nothing: it is there to be compared, not to be preferred.
    """

    @property
    def quark_name(self) -> str:
        """In Quark's own spelling."""
        return _QUARK_NAMES.get(self, self.value)

    @property
    def quark_class(self) -> str:
        """Of the class in Quark."""
        return _CLASSES[self]

    @classmethod
    def named(cls, name: str) -> Observer:
        """The observer of this name.

        Raises:
            UsageError: there is none.

        >>> Observer.named("mse").quark_name
        'MSE'
        """
        try:
            return cls(name.lower())
        except ValueError:
            known = ", ".join(observer.value for observer in cls)
            raise UsageError(f"--observer {name}: is not known. Observers that give an FP8 scale: {known}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverChoice:
    """An observer and what is set of it.

    Attributes:
        percentile: of `Observer.PERCENTILE`; None is Quark's own, 99.99999999, which float32 cannot tell from 100: the
            bin of the largest magnitude, as long as the values are few.
    """

    observer: Observer = Observer.MIN_MAX
    percentile: float | None = None

    def __post_init__(self) -> None:
        """Refuse a percentile that means nothing."""
        if self.percentile is None:
            return
        if self.observer is not Observer.PERCENTILE:
            raise UsageError(
                f"--percentile {self.percentile:g}: means nothing to --observer {self.observer.value}. "
                "Add --observer percentile, or leave it out."
            )
        if not 50 <= self.percentile <= 100:
            raise UsageError(f"--percentile {self.percentile:g}: from 50 to 100 was needed, in percent of the values.")

    @property
    def parameters(self) -> Mapping[str, float]:
        """Everything that decides its scales beside what it sees, for the record."""
        if self.observer is Observer.PERCENTILE:
            return {"percentile": QUARKS_PERCENTILE if self.percentile is None else self.percentile, "num_bins": 4200}
        return _PARAMETERS.get(self.observer, {})


_PARAMETERS: Mapping[Observer, Mapping[str, float]] = MappingProxyType(
    {Observer.MSE: {"num_bins": 2048, "start_bin": 2045}, Observer.HISTOGRAM: {"num_bins": 256}}
)
_QUARK_NAMES: Mapping[Observer, str] = MappingProxyType({Observer.MSE: "MSE", Observer.HISTOGRAM: "histogrampro"})
_CLASSES: Mapping[Observer, str] = MappingProxyType(
    {
        Observer.MIN_MAX: "PerTensorMinMaxObserver",
        Observer.PERCENTILE: "PerTensorPercentileObserver",
        Observer.MSE: "PerTensorMSEObserver",
        Observer.HISTOGRAM: "PerTensorHistogramObserverPro",
    }
)
