"""Observer: Quark's ways to tell from activations how large a static scale has to be, by Quark's own names.

Each is a class of ``quark/torch/quantization/observer/observer.py`` (0.13), chosen there by
``PER_TENSOR_OBSERVER_METHOD_MAP`` of ``config/config.py``. That map has two more, which give no FP8 scale:
``histogram`` only counts (it never sets the minimum and maximum that its parent's ``_calculate_qparams`` reads, so
every scale would be the same 1.2e-7), and ``histogrampro`` wraps torch's observer for integers and refuses FP8.
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

    @property
    def quark_name(self) -> str:
        """In Quark's own spelling."""
        return "MSE" if self is Observer.MSE else self.value

    @property
    def quark_class(self) -> str:
        """Of the class in Quark."""
        return _CLASSES[self]

    @classmethod
    def named(cls, name: str) -> Observer:
        """The observer of this name.

        Raises:
            UsageError: there is none; if Quark has one of that name, the message says why it is not used.

        >>> Observer.named("mse").quark_name
        'MSE'
        """
        try:
            return cls(name.lower())
        except ValueError:
            known = ", ".join(observer.value for observer in cls)
            why = _REFUSED.get(name.lower(), "is not known")
            raise UsageError(f"--observer {name}: {why}. Observers that give an FP8 scale: {known}.") from None


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
        return {"num_bins": 2048, "start_bin": 2045} if self.observer is Observer.MSE else {}


_CLASSES: Mapping[Observer, str] = MappingProxyType(
    {
        Observer.MIN_MAX: "PerTensorMinMaxObserver",
        Observer.PERCENTILE: "PerTensorPercentileObserver",
        Observer.MSE: "PerTensorMSEObserver",
    }
)
_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "histogram": "in Quark 0.13 it counts values and makes no scale of them; percentile and mse do that",
        "histogrampro": "in Quark 0.13 it is for integers and refuses FP8",
    }
)
