"""RAVDESS: 24 actors, speech and song. File names are seven numbers (Livingstone and Russo 2018, PLoS ONE 13(5)).

`03-01-06-01-02-01-12`: modality (03 audio only), channel (01 speech, 02 song), emotion, intensity, statement,
repetition, actor. Odd actors are men, even ones women.
"""

import re

from ser_hf.emotions import RAVDESS_CODES

_NAME = re.compile(r"03-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
SPEAKERS: tuple[str, ...] = tuple(f"ravdess-{actor:02d}" for actor in range(1, 25))


def parse(stem: str) -> dict | None:
    """The fields of a `Recording` from a file name without its ending; None where it is no RAVDESS name.

    >>> parse("03-01-06-01-02-01-12")["emotion"]
    'fearful'
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    channel, emotion, intensity, statement, repetition, actor = match.groups()
    return {
        "key": stem,
        "channel": {"01": "speech", "02": "song"}[channel],
        "emotion": RAVDESS_CODES[emotion],
        "speaker": f"ravdess-{actor}",
        "sex": "male" if int(actor) % 2 else "female",
        "intensity": {"01": "normal", "02": "strong"}[intensity],
        "statement": str(int(statement)),
        "repetition": int(repetition),
    }


def name(emotion: str, intensity: str, statement: int, repetition: int, actor: int, channel: str = "speech") -> str:
    """The official name (without ending) of a recording; the inverse of `parse`."""
    code = next(code for code, label in RAVDESS_CODES.items() if label == emotion)
    codes = {"speech": "01", "song": "02", "normal": "01", "strong": "02"}
    return f"03-{codes[channel]}-{code}-{codes[intensity]}-{statement:02d}-{repetition:02d}-{actor:02d}"
