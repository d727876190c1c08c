"""Several schemes on one draft, each quantized in a scratch directory and held against BF16; nothing is published."""
