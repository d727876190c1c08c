#!/usr/bin/env bash
# Kimi-K2.5 (MXFP4) on 8 MI355X: its BF16 draft against FP8, both at k = 6, side by side on 4 GPUs each.
#
#   hf download amd/Kimi-K2.5-MXFP4 --local-dir /models/Kimi-K2.5-MXFP4
#   hf download lightseekorg/kimi-k2.5-eagle3 --local-dir /models/kimi-k2.5-eagle3
#   TRUST_REMOTE_CODE=1 bash examples/rocm/kimi_k25.sh
#
# To judge AMD's own FP8 draft instead of making one, add FP8=/models/Kimi-K2.5-Eagle3-FP8.
set -euo pipefail
models=${MODELS:-/models}
: "${TRUST_REMOTE_CODE:?is not set: the tokenizer of Kimi is Python of its own. Read it, then set this to 1}"
export TARGET=${TARGET:-$models/Kimi-K2.5-MXFP4} DRAFT=${DRAFT:-$models/kimi-k2.5-eagle3}
export K=${K:-6} TP=${TP:-4} DEVICES=${DEVICES-0,1,2,3/4,5,6,7} TRUST_REMOTE_CODE
exec bash "$(dirname "${BASH_SOURCE[0]}")/job.sh"
