"""RAVDESS: 24 actors, speech and song. File names are seven numbers (Livingstone and Russo 2018,
PLoS ONE 13(5)).

`03-01-06-01-02-01-12`: modality (03 audio only), channel (01 speech, 02 song), emotion, intensity,
statement, repetition, actor. Odd actors are men, even ones women.
"""

import re
from pathlib import PurePath

from ser_hf.labels import EMOTIONS, RAVDESS_CODES

# Some tools append the label: 03-01-02-01-01-01-01_calm
_CODES = r"03-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])"
_NAME = re.compile(rf"({_CODES})(?:[ _-]([a-z]+))?", re.IGNORECASE)
_ALIASES = {"fear": "fearful", "surprise": "surprised", "happiness": "happy", "sadness": "sad", "anger": "angry"}
SPEAKERS: tuple[str, ...] = tuple(f"ravdess-{actor:02d}" for actor in range(1, 25))

ZENODO_RECORD = 1188976
ARCHIVES: dict[str, tuple[int, str]] = {
    "Audio_Speech_Actors_01-24.zip": (208_468_073, "bc696df654c87fed845eb13823edef8a"),
    "Audio_Song_Actors_01-24.zip": (225_505_317, "5411230427d67a21e18aa4d466e6d1b9"),
}
"""The two official archives: bytes and MD5, as https://zenodo.org/records/1188976 gives them."""

LICENCE = (
    "RAVDESS, Livingstone and Russo (2018), doi:10.5281/zenodo.1188976: CC BY-NC-SA 4.0 "
    "(name the authors, no commercial use, share alike), https://creativecommons.org/licenses/by-nc-sa/4.0/"
)
EXPECTED_FORMAT = (48_000, 1)
"""Sampling rate in Hz and channels of the official recordings."""


def parse(path: str | PurePath) -> dict | None:
    """The fields of a `Recording` from a file's path, of which only the stem counts; None where it
    is no RAVDESS name.

    A label that a tool appended must be the one of the code, or the name is refused.

    >>> parse(PurePath("Actor_12/03-01-06-01-02-01-12.wav"))["emotion"]
    'fearful'
    >>> parse(PurePath("03-01-02-01-01-01-01_calm.wav"))["key"]
    '03-01-02-01-01-01-01'
    >>> parse(PurePath("03-01-02-01-01-01-01_sad.wav"))
    """
    path = PurePath(path)
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return None
    key, channel, emotion, intensity, statement, repetition, actor, label = match.groups()
    label = label and label.lower()
    if label in (*EMOTIONS, *_ALIASES) and _ALIASES.get(label, label) != RAVDESS_CODES[emotion]:
        return None
    return {
        "key": key,
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


def inventory() -> dict[str, str]:
    """The channel of each of the 2,452 official names: 60 of speech an actor, 44 of song, which
    actor 18 did not sing.

    >>> [list(inventory().values()).count(channel) for channel in ("speech", "song")]
    [1440, 1012]
    """
    names = {}
    for channel, emotions in (("speech", EMOTIONS), ("song", EMOTIONS[:6])):
        for actor in range(1, 25):
            if channel == "song" and actor == 18:
                continue
            for emotion in emotions:
                for intensity in ("normal",) if emotion == "neutral" else ("normal", "strong"):
                    for statement, repetition in ((1, 1), (1, 2), (2, 1), (2, 2)):
                        names[name(emotion, intensity, statement, repetition, actor, channel)] = channel
    return names
