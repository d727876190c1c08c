"""Run by the Python that has vLLM, which need not be ours: nothing of quark_eagle and nothing but vLLM is imported."""
