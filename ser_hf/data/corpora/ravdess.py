"""RAVDESS: 24 actors, speech and song (Livingstone and Russo 2018, PLoS ONE 13(5)).

File names are seven numbers.

`03-01-06-01-02-01-12`: modality (03 audio only), channel (01 speech, 02 song), emotion, intensity,
statement, repetition, actor. Odd actors are men, even ones women.
"""

import re
from pathlib import PurePath

from ser_hf.data.corpora.base import Corpus, ZenodoRecord
from ser_hf.labels import EMOTIONS

LABELS: dict[str, str] = {f"{code:02d}": emotion for code, emotion in enumerate(EMOTIONS, start=1)}
"""The emotion of each code, which is the third number of a name."""

# Some tools append the label: 03-01-02-01-01-01-01_calm
_CODES = r"03-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])"
_NAME = re.compile(rf"({_CODES})(?:[ _-]([a-z]+))?", re.IGNORECASE)
_ALIASES = {"fear": "fearful", "surprise": "surprised", "happiness": "happy", "sadness": "sad", "anger": "angry"}
SPEAKERS: tuple[str, ...] = tuple(f"ravdess-{actor:02d}" for actor in range(1, 25))


def parse(path: str | PurePath) -> dict | None:
    """Return the fields of a `Recording` from a path; None where its stem is no RAVDESS name.

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
    if label in (*EMOTIONS, *_ALIASES) and _ALIASES.get(label, label) != LABELS[emotion]:
        return None
    return {
        "key": key,
        "channel": {"01": "speech", "02": "song"}[channel],
        "emotion": LABELS[emotion],
        "speaker": f"ravdess-{actor}",
        "sex": "male" if int(actor) % 2 else "female",
        "intensity": {"01": "normal", "02": "strong"}[intensity],
        "statement": str(int(statement)),
        "repetition": int(repetition),
    }


def name(emotion: str, intensity: str, statement: int, repetition: int, actor: int, channel: str = "speech") -> str:
    """Return the official name of a recording, without ending: the inverse of `parse`."""
    code = next(code for code, label in LABELS.items() if label == emotion)
    codes = {"speech": "01", "song": "02", "normal": "01", "strong": "02"}
    return f"03-{codes[channel]}-{code}-{codes[intensity]}-{statement:02d}-{repetition:02d}-{actor:02d}"


def inventory() -> dict[str, str]:
    """Return the channel of each of the 2,452 official names.

    An actor has 60 names of speech and 44 of song; actor 18 did not sing.

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


def folder_claim(folder: str) -> tuple[str, None] | None:
    """Return the speaker of a folder `Actor_NN`, in any casing; None for another folder.

    >>> folder_claim("Actor_07")
    ('ravdess-07', None)
    """
    actor = re.fullmatch(r"actor_(\d+)", folder.lower())
    return (f"ravdess-{actor[1].zfill(2)}", None) if actor else None


RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS",
    parse=parse,
    inventory=inventory,
    licence=(
        "RAVDESS, Livingstone and Russo (2018), doi:10.5281/zenodo.1188976: CC BY-NC-SA 4.0 "
        "(name the authors, no commercial use, share alike), https://creativecommons.org/licenses/by-nc-sa/4.0/"
    ),
    licence_id="cc-by-nc-sa-4.0",
    forbids_commercial_use=True,
    forbids_changed_forms=False,
    citation="""@article{livingstone2018ravdess,
  title = {The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)},
  author = {Livingstone, Steven R. and Russo, Frank A.}, journal = {PLoS ONE}, volume = {13}, number = {5},
  year = {2018}, doi = {10.1371/journal.pone.0196391}
}""",
    language="en",
    accent="North American English",
    statements='1 "Kids are talking by the door", 2 "Dogs are sitting by the door"',
    expected_format=(48_000, 1),
    # sizes and checksums as https://zenodo.org/records/1188976 gives them
    record=ZenodoRecord(
        1188976,
        {
            "Audio_Speech_Actors_01-24.zip": (208_468_073, "bc696df654c87fed845eb13823edef8a"),
            "Audio_Song_Actors_01-24.zip": (225_505_317, "5411230427d67a21e18aa4d466e6d1b9"),
        },
    ),
    # published folds count both
    same_samples=frozenset({frozenset({"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"})}),
    folder_claim=folder_claim,
)
