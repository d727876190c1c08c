"""What importing AMD Quark does beside importing: it may compile its kernel for a minute, and it writes to the console.

Its import builds an extension by ``torch.utils.cpp_extension.load`` (``quark/torch/kernel/hw_emulation/extensions.py``,
0.13): once for each user, version of Python and place of Quark, without a word. Two builds keep apart by a file
``lock``, which torch waits for without end, even if the process that made it was killed (``torch.utils.file_baton``).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

STABLE_ABI_FROM = (2, 10)  # of torch; Quark builds another extension before
_BUILD_LOGGER = "quark.common.torch_cpp_ext_screen"


@contextmanager
def importing() -> Iterator[None]:
    """Around an import of Quark: stdout stays the answer's, and its notes do not tear a progress bar.

    Warnings and errors still come through, but for one: Quark logs whatever ends its build as an error with a
    traceback (``RocmUserArchitectureContext.__exit__``), the user's Ctrl-C as well.
    """
    os.environ.setdefault("QUARK_LOG_LEVEL", "warning")
    logger = logging.getLogger(_BUILD_LOGGER)
    logger.addFilter(_is_no_interrupt)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.removeFilter(_is_no_interrupt)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBuild:
    """The kernel that Quark's import builds.

    Attributes:
        directory: it is built in.
        is_done: nothing has to be compiled.
    """

    directory: Path
    is_done: bool

    @property
    def lock(self) -> Path:
        """There while a process builds it, and after one was killed that did."""
        return self.directory / "lock"


def kernel_build() -> KernelBuild | None:
    """What the next import of Quark will build; None where it came compiled, or is missing or imported already."""
    found = find_spec("quark")
    if found is None or found.origin is None or "quark.torch" in sys.modules:
        return None
    package = Path(found.origin).parent
    if any((package / "torch" / "kernel" / "hw_emulation").rglob("*.so")):
        return None
    directory = _build_directory()
    ninja = directory / "build.ninja"
    # Another environment builds in the same place, and what it left is compiled anew.
    is_ours = ninja.is_file() and f"{package}/" in ninja.read_text(encoding="utf-8")
    return KernelBuild(directory=directory, is_done=is_ours and (directory / f"{directory.name}.so").is_file())


def _build_directory() -> Path:
    """As ``torch.utils.cpp_extension._get_build_directory`` says, which makes it as well."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    name = "quark_hw_emulation_stable_abi" if version >= STABLE_ABI_FROM else "kernel_ext"
    if (root := os.environ.get("TORCH_EXTENSIONS_DIR")) is not None:
        return Path(root) / name
    hip, cuda = torch.version.hip, torch.version.cuda
    accelerator = f"rocm{hip.replace('.', '')}" if hip else f"cu{cuda.replace('.', '')}" if cuda else "cpu"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(get_default_build_root()) / f"{python}_{accelerator}" / name


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or not issubclass(raised, (KeyboardInterrupt, SystemExit))
