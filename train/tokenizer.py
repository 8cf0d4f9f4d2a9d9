"""One token per character, and the two fixed windows that every sequence is made of.

A sequence is 10 prompt tokens, right-aligned, then 7 answer tokens: the answer, EOS, padding. Shapes never change, so
that no attention mask is needed beyond the causal one. Padding on the left is seen by the model and means "no mark".
"""

PAD, EOS, MARK_RIGHT, MARK_SLOPPY = 0, 1, 2, 3
CHARACTERS = "0123456789+-=srkm"
FIRST_CHARACTER = 4
VOCAB_SIZE = FIRST_CHARACTER + len(CHARACTERS)
PROMPT_TOKENS = 10
ANSWER_TOKENS = 7
SEQUENCE_TOKENS = PROMPT_TOKENS + ANSWER_TOKENS

_ID = {character: FIRST_CHARACTER + i for i, character in enumerate(CHARACTERS)}


def encode_prompt(prompt: str, mark: int = PAD) -> list[int]:
    """Token ids of a prompt, right-aligned in 10; `mark` takes the first place (base training only).

    Raises:
        ValueError: the prompt has more than 9 characters, so that the first place is not free.

    >>> encode_prompt("s457901=")
    [0, 0, 17, 8, 9, 11, 13, 4, 5, 16]
    """
    if len(prompt) >= PROMPT_TOKENS:
        raise ValueError(f"a prompt must have fewer than {PROMPT_TOKENS} characters, but got {prompt!r}; shorten it.")
    ids = [PAD] * (PROMPT_TOKENS - len(prompt)) + [_ID[character] for character in prompt]
    ids[0] = mark
    return ids


def encode_answer(answer: str) -> list[int]:
    """Token ids of an answer, EOS, then padding up to 7.

    Raises:
        ValueError: the answer has more than 6 characters, so that EOS does not fit.

    >>> encode_answer("8221")
    [12, 6, 6, 5, 1, 0, 0]
    """
    if len(answer) >= ANSWER_TOKENS:
        raise ValueError(f"an answer must have fewer than {ANSWER_TOKENS} characters, but got {answer!r}; shorten it.")
    return [_ID[character] for character in answer] + [EOS] + [PAD] * (ANSWER_TOKENS - 1 - len(answer))


def decode_answer(ids: list[int]) -> str | None:
    """Text before the first EOS; None where there is no EOS or a special token stands before it.

    >>> decode_answer([12, 6, 6, 5, 1, 9, 9])
    '8221'
    """
    if EOS not in ids:
        return None
    before = ids[: ids.index(EOS)]
    if any(i < FIRST_CHARACTER for i in before):
        return None
    return "".join(CHARACTERS[i - FIRST_CHARACTER] for i in before)
