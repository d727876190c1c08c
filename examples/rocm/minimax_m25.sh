#!/usr/bin/env bash
# MiniMax-M2.5 on 8 MI355X: its BF16 draft against an FP8 one made here, both at k = 3, side by side on 4 GPUs each.
#
#   hf download MiniMaxAI/MiniMax-M2.5 --local-dir /models/MiniMax-M2.5
#   hf download thoughtworks/MiniMax-M2.5-Eagle3 --local-dir /models/MiniMax-M2.5-Eagle3
#   bash examples/rocm/minimax_m25.sh
set -euo pipefail
models=${MODELS:-/models}
export TARGET=${TARGET:-$models/MiniMax-M2.5} DRAFT=${DRAFT:-$models/MiniMax-M2.5-Eagle3}
export K=${K:-3} TP=${TP:-4} DEVICES=${DEVICES-0,1,2,3/4,5,6,7}
exec bash "$(dirname "${BASH_SOURCE[0]}")/job.sh"
