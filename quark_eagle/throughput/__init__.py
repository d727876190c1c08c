"""Throughput: tokens per second with no draft, the BF16 and the FP8 one, by vLLM's own benchmark module."""
