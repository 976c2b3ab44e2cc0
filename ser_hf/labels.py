"""The eight emotions: their order, what each corpus calls them, how they are drawn."""

EMOTIONS: tuple[str, ...] = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The labels in the order of the class indices, which is the order of the RAVDESS codes 01-08."""

RAVDESS_CODES: dict[str, str] = {f"{code:02d}": emotion for code, emotion in enumerate(EMOTIONS, start=1)}
"""The third field of a RAVDESS file name (Livingstone and Russo 2018)."""

TESS_NAMES: dict[str, str] = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fearful",
    "disgust": "disgust",
    "ps": "surprised",
}
"""The last field of a TESS file name; `ps` is "pleasant surprise". No calm (Pichora-Fuller and
Dupuis 2010)."""

COLOURS: dict[str, str] = {
    "neutral": "#7f7f7f",
    "calm": "#56b4e9",
    "happy": "#e69f00",
    "sad": "#0072b2",
    "angry": "#d55e00",
    "fearful": "#7b5ea7",
    "disgust": "#009e73",
    "surprised": "#cc79a7",
}
"""One colour an emotion, from the palette of Okabe and Ito (2008), which colour-blind readers can
tell apart."""

ID2LABEL: dict[int, str] = dict(enumerate(EMOTIONS))
LABEL2ID: dict[str, int] = {emotion: index for index, emotion in ID2LABEL.items()}
