"""TESS: two actresses say "Say the word …" with 200 words in seven emotions (Pichora-Fuller and
Dupuis 2010).

`OAF_back_angry`: the older (OAF) or younger (YAF) actress, the word, the emotion.
"""

import re
from pathlib import PurePath

from ser_hf.labels import RAVDESS_CODES, TESS_NAMES

ALIASES = {
    "fearful": "fear",
    "surprise": "ps",
    "surprised": "ps",
    "pleasant_surprise": "ps",
    "pleasant_surprised": "ps",
}
# One official file, OA_bite_neutral, has lost the F of its speaker.
_NAME = re.compile(rf"(oaf|oa|yaf)_([a-z]+)_({'|'.join([*TESS_NAMES, *ALIASES])})", re.IGNORECASE)
# A much-used script copies TESS beside RAVDESS as Actor_25 (YAF) and Actor_26 (OAF), under seven
# random numbers, the third of which becomes the emotion; the word is lost.
# (marcogdepinto/emotion-classification-from-audio-files)
_RENAMED = re.compile(r"\d\d-\d\d-(0[13-8])-\d\d-\d\d-\d\d-\d\d")
RENAMED_FOLDERS = {"actor_25": "yaf", "actor_26": "oaf"}
_CODES = {code: tess for code, label in RAVDESS_CODES.items() for tess, own in TESS_NAMES.items() if own == label}

_WORDS = """
back bar base bath bean beg bite boat bone book bought burn cab calm came cause chain chair chalk chat check cheek
chief choice cool dab date dead death deep dime dip ditch dodge dog doll door fail fall far fat fit five food gap
gas gaze germ get gin goal good goose gun half hall hash hate have haze hire hit hole home hurl hush jail jar join
judge jug juice keen keep keg kick kill king kite knock late laud lean learn lease lid life limb live loaf long lore
lose lot love luck make match merge mess met mill mob mode mood moon mop mouse nag name near neat nice note numb pad
page pain pass pearl peg perch phone pick pike pole pool puff rag raid rain raise rat reach read red ring ripe road
room rose rot rough rush said sail search seize sell shack shall shawl sheep shirt should shout size soap soup sour
south sub such sure take talk tape team tell thin third thought thumb time tip tire ton tool tough turn vine voice
void vote wag walk wash week wheat when which whip white wife wire witch yearn yes young youth
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""The 200 words, those of Northwestern University Auditory Test No. 6."""

DOI = "doi:10.5683/SP2/E8H2MF"
LICENCE = (
    f"TESS, Pichora-Fuller and Dupuis (2010), {DOI}: CC BY-NC-ND 4.0 (name the authors, no commercial use, "
    "pass on nothing derived), https://creativecommons.org/licenses/by-nc-nd/4.0/"
)
EXPECTED_FORMAT = (24_414, 1)
"""Sampling rate in Hz and channels of the official recordings."""


def parse(path: str | PurePath) -> dict | None:
    """The fields of a `Recording` from a file's path; None where it is no TESS name.

    Only the stem counts, except for copies under RAVDESS-like names in `Actor_25` and `Actor_26`:
    there the folder is the speaker, and the word is unknown.

    >>> recording = parse(PurePath("YAF_neat_fear.wav"))
    >>> recording["speaker"], recording["emotion"]
    ('tess-yaf', 'fearful')
    >>> parse(PurePath("Actor_26/17-42-08-31-90-11-65.wav"))["speaker"]
    'tess-oaf'
    """
    path = PurePath(path)
    match, renamed = _NAME.fullmatch(path.stem), _RENAMED.fullmatch(path.stem)
    if match is not None:
        actress, word, emotion = (part.lower() for part in match.groups())
        actress = "oaf" if actress == "oa" else actress
        emotion = ALIASES.get(emotion, emotion)
        key = f"{actress.upper()}_{word}_{emotion}"
    elif renamed is not None and path.parent.name.lower() in RENAMED_FOLDERS:
        actress, word = RENAMED_FOLDERS[path.parent.name.lower()], None
        emotion = _CODES[renamed[1]]
        key = f"{actress.upper()}_{path.stem}_{emotion}"
    else:
        return None
    return {
        "key": key,
        "channel": "speech",
        "emotion": TESS_NAMES[emotion],
        "speaker": f"tess-{actress}",
        "sex": "female",
        "intensity": None,
        "statement": word,
        "repetition": None,
    }


def inventory() -> dict[str, str]:
    """The channel of each of the 2,800 official names (with OAF_bite_neutral spelt as the other
    2,799).

    >>> len(inventory())
    2800
    """
    return {f"{who}_{word}_{code}": "speech" for who in ("OAF", "YAF") for word in WORDS for code in TESS_NAMES}
