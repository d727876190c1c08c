"""Schedule: which servers are started when, and in what order every arm passes over the prompts.

A target takes minutes to load, so loads are few and known beforehand; and a machine drifts (it warms up, others use
it), so within pairs of blocks the order turns: A B, B A, A B … Where both arms can be alive at once, each is loaded
once. Where they cannot, passes of one arm that follow each other share a load. On disjoint devices both run at the
same time, and trade places once, so that neither set of devices favours an arm. The run without speculation comes
first: it answers what the answers should be, and is gone before the others come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from quark_eagle.documents.served import Layout, ServedArmName
from quark_eagle.errors import UsageError

MIN_BLOCKS = 3
SPARE_SHARE = 0.15  # of the memory at hand, that two servers side by side leave free


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One pass of one arm over all prompts; blocks count from 0."""

    arm: ServedArmName
    block: int

    def __str__(self) -> str:
        return f"{self.arm} {self.block}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Servers that are alive together, and what they are asked.

    Attributes:
        arms: each with the devices it has to itself; None is all of them.
        steps: in order; the turns of one step run at the same time.
    """

    arms: dict[ServedArmName, str | None] = field(hash=False)
    steps: tuple[tuple[Turn, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All stages of a measurement."""

    layout: Layout
    num_blocks: int
    stages: tuple[Stage, ...]

    @property
    def num_loads(self) -> int:
        """Servers that are started, the one without speculation among them."""
        return sum(len(stage.arms) for stage in self.stages)

    @property
    def order(self) -> list[str]:
        """The steps in time, as a report tells them."""
        return [" | ".join(map(str, step)) for stage in self.stages for step in stage.steps]


def schedule(
    layout: Layout, num_blocks: int, *, devices: Sequence[str] = (), without_speculation: bool = True
) -> Schedule:
    """The schedule of a layout.

    Args:
        layout: which servers can be alive at once.
        num_blocks: passes of each arm with a draft.
        devices: of "disjoint devices": two sets that share none, as ``HIP_VISIBLE_DEVICES`` takes them.
        without_speculation: whether the target is also asked alone.

    Raises:
        UsageError: too few blocks, or on disjoint devices an odd number of them, or sets that are not disjoint.

    >>> schedule("one at a time", 3).order
    ['none 0', 'baseline 0', 'candidate 0', 'candidate 1', 'baseline 1', 'baseline 2', 'candidate 2']
    >>> schedule("one at a time", 3).num_loads, schedule("side by side", 3).num_loads
    (5, 3)
    """
    if num_blocks < MIN_BLOCKS:
        raise UsageError(
            f"--blocks {num_blocks}: at least {MIN_BLOCKS} were needed: how much serving differs from itself is told "
            "from one block to the next."
        )
    if layout == "disjoint devices":
        stages = _traded(num_blocks, devices)
    else:
        turns = counter_balanced(num_blocks)
        stages = _shared_loads(turns) if layout == "one at a time" else [_stage(turns)]
    own = stages[0].arms["baseline"]  # a set of devices, on disjoint ones
    alone = Stage(arms={"none": own}, steps=((Turn(arm="none", block=0),),))
    return Schedule(
        layout=layout, num_blocks=num_blocks, stages=tuple([alone, *stages] if without_speculation else stages)
    )


def counter_balanced(num_blocks: int) -> list[Turn]:
    """Both arms once a block, the order turned from block to block.

    >>> [turn.arm[0] for turn in counter_balanced(4)]
    ['b', 'c', 'c', 'b', 'b', 'c', 'c', 'b']
    """
    forward: tuple[ServedArmName, ServedArmName] = ("baseline", "candidate")
    return [
        Turn(arm=arm, block=block) for block in range(num_blocks) for arm in (forward[::-1] if block % 2 else forward)
    ]


def _stage(turns: Sequence[Turn]) -> Stage:
    """One after the other, on servers that stay."""
    return Stage(arms=dict.fromkeys([turn.arm for turn in turns]), steps=tuple((turn,) for turn in turns))


def _shared_loads(turns: Sequence[Turn]) -> list[Stage]:
    """A server for each run of passes of one arm."""
    return [_stage(list(run)) for _, run in groupby(turns, key=lambda turn: turn.arm)]


def _traded(num_blocks: int, devices: Sequence[str]) -> list[Stage]:
    """Both arms at the same time, for half of the blocks on the one set of devices and for half on the other."""
    problems = []
    sets = [_numbers(it) for it in devices]
    named = [number for numbers in sets for number in numbers]
    if num_blocks % 2:
        problems.append(
            f"--blocks {num_blocks}: an even number was needed with --devices, so that each arm runs as often on "
            "either set of devices."
        )
    if len(sets) != 2 or not all(sets) or len(set(named)) < len(named):
        problems.append(
            f"--devices {'/'.join(devices)}: two sets of numbers that share no device were needed, such as "
            "0,1,2,3/4,5,6,7."
        )
    elif len(sets[0]) != len(sets[1]):
        problems.append(f"--devices {'/'.join(devices)}: two sets of as many devices were needed.")
    if problems:
        raise UsageError("\n".join(problems))
    first_set, second_set = (",".join(map(str, numbers)) for numbers in sets)
    half = num_blocks // 2
    return [
        Stage(arms={"baseline": first, "candidate": second}, steps=tuple(_both(block) for block in blocks))
        for (first, second), blocks in (
            ((first_set, second_set), range(half)),
            ((second_set, first_set), range(half, num_blocks)),
        )
    ]


def _numbers(devices: str) -> list[int]:
    """Of a set of devices; none if it is no list of numbers."""
    words = [word.strip() for word in devices.split(",")]
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else []


def _both(block: int) -> tuple[Turn, ...]:
    return Turn(arm="baseline", block=block), Turn(arm="candidate", block=block)


def fits_side_by_side(needed_bytes: int, available_bytes: int | None) -> bool:
    """Whether two servers that need so much each can be alive together; not if it is not known.

    >>> fits_side_by_side(4 << 30, 10 << 30), fits_side_by_side(5 << 30, 10 << 30)
    (True, False)
    """
    return available_bytes is not None and 2 * needed_bytes <= (1 - SPARE_SHARE) * available_bytes
