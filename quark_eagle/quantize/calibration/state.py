"""CalibrationState: how far a calibration has come, in one file that is replaced as a whole.

A run can be killed between any two bytes: the file is that of the last whole write, and what was run after it is run
again. It holds the observers' own buffers, so the run that continues ends with the bits of one that was never
interrupted. Tensors and JSON alone are read from it, never a pickle. Only a run of the same plan takes it up; two runs
at once do not disturb each other, since each reads it once and writes all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quark_eagle.documents.base import write_bytes
from quark_eagle.quantize.calibration.magnitudes import Magnitudes, Peak
from quark_eagle.quantize.calibration.observed_draft import ObservedDraft, Tally

if TYPE_CHECKING:
    from torch import Tensor

    from quark_eagle.quantize.calibration.quark_observers import QuarkObservers

_COUNTS, _BUFFERS = "counts/", "observers/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The scales after some of the tokens.

    Attributes:
        num_tokens: of step 1.
        scales: by name of what is observed.
    """

    num_tokens: int
    scales: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationState:
    """What is known after some prompts.

    Attributes:
        num_done: prompts that were run.
        convergence: scales at earlier points.
        tally: what was run.
        peaks: largest magnitudes by name.
        bins: of the observers that have some.
        tensors: counts of magnitudes and buffers of observers.
    """

    num_done: int = 0
    convergence: tuple[Seen, ...] = ()
    tally: Mapping[str, Any] = field(default_factory=dict)
    peaks: Mapping[str, Any] = field(default_factory=dict)
    bins: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, module: ObservedDraft, observers: QuarkObservers, num_done: int, convergence: tuple[Seen, ...]
    ) -> CalibrationState:
        """Of a run as it stands between two prompts."""
        buffers, bins = observers.state()
        counts = {f"{_COUNTS}{name}": it.counts for name, it in module.magnitudes.items()}
        return cls(
            num_done=num_done,
            convergence=convergence,
            tally=asdict(module.tally),
            peaks={name: [asdict(peak) for peak in it.peaks] for name, it in module.magnitudes.items()},
            bins=bins,
            tensors={**counts, **{f"{_BUFFERS}{name}": tensor for name, tensor in buffers.items()}},
        )

    def restore(self, module: ObservedDraft, observers: QuarkObservers) -> None:
        """Bring a run that has not begun to this state."""
        if not self.num_done:
            return
        module.tally = Tally(**self.tally)
        for name in module.magnitudes:
            peaks = [Peak(**peak) for peak in self.peaks[name]]
            module.magnitudes[name] = Magnitudes(self.tensors[f"{_COUNTS}{name}"], peaks)
        buffers = {
            name.removeprefix(_BUFFERS): tensor for name, tensor in self.tensors.items() if name.startswith(_BUFFERS)
        }
        observers.restore(buffers, self.bins)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """Where the state of one plan is kept.

    Attributes:
        path: of the file; it need not exist.
        plan: JSON values of everything that decides the bits of the scales.
    """

    path: Path
    plan: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Hash of the plan."""
        return hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()

    def read(self) -> CalibrationState:
        """The state that an earlier run of this plan left; that of the beginning if there is none."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                known = json.loads(file.metadata()["state"])
                if known["key"] != self.key:
                    return CalibrationState()
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return CalibrationState()  # nothing there, or nothing that this program wrote: begin anew
        return CalibrationState(
            num_done=known["num_done"],
            convergence=tuple(Seen(**seen) for seen in known["convergence"]),
            tally=known["tally"],
            peaks=known["peaks"],
            bins=known["bins"],
            tensors=tensors,
        )

    def write(self, state: CalibrationState) -> None:
        """Replace the file.

        Raises:
            StorageError: the disk is full, or may not be written to.
        """
        from safetensors.torch import save

        known = {
            "key": self.key,
            "num_done": state.num_done,
            "convergence": [asdict(seen) for seen in state.convergence],
            "tally": dict(state.tally),
            "peaks": dict(state.peaks),
            "bins": dict(state.bins),
        }
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        write_bytes(self.path, save(tensors, {"state": json.dumps(known)}))
