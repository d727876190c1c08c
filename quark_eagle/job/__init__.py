"""A whole job as one file: `quark-eagle run recipe.toml`.

recipe.toml → Recipe → Steps → (skip | run as a child process → Ledger) … → exit code

A recipe says what is wanted and where it goes. What follows from it are steps, each a command line that a person
could type. The ledger beside the outputs remembers what each step read and wrote, by hash, so that a step is run again
exactly if something that it depends on is not as it was.
"""
