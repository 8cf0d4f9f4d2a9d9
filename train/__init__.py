"""Post-training of a small decoder-only transformer on verifiable arithmetic: the part that a campaign tries to improve.

`run` is the command, `recipe` the one file that an agent may edit; `model`, `tokenizer`, `tasks` and `make_base` are
protected. It imports torch and the standard library only, and knows nothing of the controller or of the scorer.
"""
