"""TESS: two actresses say 200 words in seven emotions (Pichora-Fuller and Dupuis 2010).

Each word stands in the carrier phrase "Say the word …".

`OAF_back_angry`: the older (OAF) or younger (YAF) actress, the word, the emotion.
"""

import re
from pathlib import PurePath

from ser_hf.data.corpora.base import Corpus, DataverseRecord
from ser_hf.data.corpora.ravdess import LABELS as RAVDESS_LABELS

LABELS: dict[str, str] = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fearful",
    "disgust": "disgust",
    "ps": "surprised",
}
"""Our emotion for the last part of a name; `ps` is "pleasant surprise". Calm is not acted."""

_ALIASES = {
    "fearful": "fear",
    "surprise": "ps",
    "surprised": "ps",
    "pleasant_surprise": "ps",
    "pleasant_surprised": "ps",
}
# One official file, OA_bite_neutral, has lost the F of its speaker.
_NAME = re.compile(rf"(oaf|oa|yaf)_([a-z]+)_({'|'.join([*LABELS, *_ALIASES])})", re.IGNORECASE)
# A much-used script copies TESS beside RAVDESS as Actor_25 (YAF) and Actor_26 (OAF), under seven
# random numbers, the third of which becomes the emotion; the word is lost.
# (marcogdepinto/emotion-classification-from-audio-files)
_RENAMED = re.compile(r"\d\d-\d\d-(0[13-8])-\d\d-\d\d-\d\d-\d\d")
_RENAMED_FOLDERS = {"actor_25": "yaf", "actor_26": "oaf"}
_NAME_OF_CODE = {
    code: name for code, label in RAVDESS_LABELS.items() for name, own_label in LABELS.items() if own_label == label
}

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


def parse(path: str | PurePath) -> dict | None:
    """Return the fields of a `Recording` from a file's path; None where it is no TESS name.

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
        emotion = _ALIASES.get(emotion, emotion)
        key = f"{actress.upper()}_{word}_{emotion}"
    elif renamed is not None and path.parent.name.lower() in _RENAMED_FOLDERS:
        actress, word = _RENAMED_FOLDERS[path.parent.name.lower()], None
        emotion = _NAME_OF_CODE[renamed[1]]
        key = f"{actress.upper()}_{path.stem}_{emotion}"
    else:
        return None
    return {
        "key": key,
        "channel": "speech",
        "emotion": LABELS[emotion],
        "speaker": f"tess-{actress}",
        "sex": "female",
        "intensity": None,
        "statement": word,
        "repetition": None,
    }


def inventory() -> dict[str, str]:
    """Return the channel of each of the 2,800 official names.

    OAF_bite_neutral is spelt as the other 2,799, which the official file is not.

    >>> len(inventory())
    2800
    """
    return {
        f"{actress}_{word}_{emotion}": "speech" for actress in ("OAF", "YAF") for word in WORDS for emotion in LABELS
    }


def folder_claim(folder: str) -> tuple[str, str | None] | None:
    """Return the speaker and the emotion of a folder such as `OAF_Fear`; None for another folder.

    >>> folder_claim("OAF_Pleasant_surprise"), folder_claim("Actor_25")
    (('tess-oaf', 'surprised'), ('tess-yaf', None))
    """
    folder = folder.lower()
    if folder in _RENAMED_FOLDERS:
        return f"tess-{_RENAMED_FOLDERS[folder]}", None
    actress, _, emotion = folder.partition("_")
    if actress not in ("oaf", "yaf") or "_" not in folder:
        return None
    return f"tess-{actress}", LABELS.get(_ALIASES.get(emotion, emotion))


def _official_folder(key: str) -> str:
    actress, _, emotion = key.split("_")
    return f"{actress}_{emotion}"


_DOI = "doi:10.5683/SP2/E8H2MF"

TESS = Corpus(
    name="tess",
    title="TESS",
    parse=parse,
    inventory=inventory,
    licence=(
        f"TESS, Pichora-Fuller and Dupuis (2010), {_DOI}: CC BY-NC-ND 4.0 (name the authors, no commercial use, "
        "pass on nothing derived), https://creativecommons.org/licenses/by-nc-nd/4.0/"
    ),
    licence_id="cc-by-nc-nd-4.0",
    forbids_commercial_use=True,
    forbids_changed_forms=True,
    citation="""@data{pichorafuller2010tess,
  title = {Toronto emotional speech set (TESS)}, author = {Pichora-Fuller, M. Kathleen and Dupuis, Kate},
  publisher = {Borealis}, year = {2020}, doi = {10.5683/SP2/E8H2MF}
}""",
    language="en",
    accent="North American English",
    statements='the word after "Say the word"',
    expected_format=(24_414, 1),
    record=DataverseRecord(_DOI, _official_folder, server="https://borealisdata.ca"),
    folder_claim=folder_claim,
)
