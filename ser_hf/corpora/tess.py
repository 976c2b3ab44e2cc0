"""TESS: two actresses say "Say the word …" with 200 words in seven emotions (Pichora-Fuller and Dupuis 2010).

`OAF_back_angry`: the older (OAF) or younger (YAF) actress, the word, the emotion.
"""

import re

from ser_hf.emotions import TESS_NAMES

# One official file, OA_bite_neutral, has lost the F of its speaker.
_NAME = re.compile(rf"(oaf|oa|yaf)_([a-z]+)_({'|'.join(TESS_NAMES)})", re.IGNORECASE)


def parse(stem: str) -> dict | None:
    """The fields of a `Recording` from a file name without its ending; None where it is no TESS name.

    >>> parse("YAF_neat_fear")["speaker"], parse("YAF_neat_fear")["emotion"]
    ('tess-yaf', 'fearful')
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    actress, word, emotion = (part.lower() for part in match.groups())
    actress = "oaf" if actress == "oa" else actress
    return {
        "key": f"{actress.upper()}_{word}_{emotion}",
        "channel": "speech",
        "emotion": TESS_NAMES[emotion],
        "speaker": f"tess-{actress}",
        "sex": "female",
        "intensity": None,
        "statement": word,
        "repetition": None,
    }
