"""release: an FP8 draft and the evidence about it → what is published, and what anyone can check offline.

A bundle is a Hugging Face repository on disk. Everything in it that is prose is rendered from the evidence that lies
in it, by a pure function ``(Evidence) -> str``: so every number in the card comes from a file beside it, and whoever
checks a bundle renders it again and compares byte for byte.
"""
