#!/usr/bin/env bash
# The whole job on a node with AMD GPUs: doctor, recipe, trace, quantize, verify, served parity, gate.
# Run by kimi_k25.sh and minimax_m25.sh, or with settings of your own:
#
#   TARGET=/models/target DRAFT=/models/draft TP=8 K=3 bash examples/rocm/job.sh
#
# Its exit code is that of the first command that fails; the last one is the gate (0 pass, 3 fail, 4 inconclusive).
set -euo pipefail

: "${TARGET:?directory of the target}" "${DRAFT:?directory of the BF16 draft}"
WORK=${WORK:-work}            # everything is written here
FP8=${FP8:-}                  # an FP8 draft that is there already; else one is made
GPU=${GPU:-mi355x}            # whose recipe
ARCH=${ARCH:-gfx950}          # where all evidence has to come from
TP=${TP:-4}                   # GPUs of the target
K=${K:-3}                     # tokens proposed per draft, for every arm
PROMPTS=${PROMPTS:-320}       # conversations of the parity split
TOKENS=${TOKENS:-1024}        # of an answer, at most
MARGIN=${MARGIN:-0.01}        # the loss of τ that is still parity
DEVICES=${DEVICES:-}          # "0,1,2,3/4,5,6,7": both arms at once, each on its own GPUs; else one after the other

remote=(${TRUST_REMOTE_CODE:+--trust-remote-code})
engine=(${VLLM_PYTHON:+--vllm-python "$VLLM_PYTHON"}) # where quark-eagle is in an environment of its own
side_by_side=(${DEVICES:+--devices "$DEVICES"})
step() {
    printf '\n$ %s\n' "$*" >&2
    "$@"
}
mkdir -p "$WORK"

# 1. Can this machine do it? Stops here if not, and says what to do.
step quark-eagle doctor --gpu "$GPU" --target "$TARGET" --draft "$DRAFT" --tensor-parallel-size "$TP" \
    --prompts "$PROMPTS" --osl "$TOKENS" --output "$WORK" "${engine[@]}"

# 2. How it is served, with every reason: trace and parity take the same by themselves. Its variables hold from here on,
#    so that step 5 loads the draft as a server would.
step quark-eagle recipe "$TARGET" "$DRAFT" --gpu "$GPU" --tensor-parallel-size "$TP" -k "$K" --compare "${remote[@]}" \
    >"$WORK/serve.sh"
grep '^export ' "$WORK/serve.sh" >"$WORK/environment.sh" || true
# shellcheck source=/dev/null
source "$WORK/environment.sh"

# 3. The target runs once, through vLLM; its path and hidden states are kept. Resumes where it was interrupted.
#    The BF16 draft is served along, and what it got accepted is what replay of it has to find.
step quark-eagle trace "$TARGET" --draft "$DRAFT" --engine vllm --gpu "$GPU" --tensor-parallel-size "$TP" -k "$K" \
    --project --limit "$PROMPTS" --max-tokens "$TOKENS" --output "$WORK/trace" "${remote[@]}" "${engine[@]}"

# 4. Quantize with AMD Quark; published only if replay finds acceptance at par. Replay takes the GPU if our torch has it.
if [ -z "$FP8" ]; then
    FP8=$WORK/fp8
    step quark-eagle quantize "$DRAFT" --trace "$WORK/trace" -k "$K" --device auto --margin "$MARGIN" --output "$FP8"
fi

# 5. What does the engine make of every parameter?
step quark-eagle verify "$FP8" --source "$DRAFT" --engine vllm --target "$TARGET" "${engine[@]}"

# 6. Both drafts served by the same engine, over the same prompts, block by block.
step quark-eagle parity "$DRAFT" "$FP8" --engine vllm --target "$TARGET" --gpu "$GPU" --tensor-parallel-size "$TP" \
    -k "$K" --limit "$PROMPTS" --max-tokens "$TOKENS" --output "$WORK/parity.json" \
    "${side_by_side[@]}" "${remote[@]}" "${engine[@]}"

# 7. May it ship on this GPU? Evidence from any other arch is refused.
step quark-eagle gate "$WORK/parity.json" --margin "$MARGIN" --require-arch "$ARCH" \
    --output "$WORK/verdict.json" --junit "$WORK/gate.xml" --markdown "$WORK/verdict.md"
