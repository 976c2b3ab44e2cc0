"""The eight emotions: their order, their class indices, their colours."""

EMOTIONS: tuple[str, ...] = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The labels in the order of the class indices, which is the order of the RAVDESS codes 01-08."""

COLOURS: dict[str, str] = {
    "neutral": "#646464",
    "calm": "#56b4e9",
    "happy": "#e69f00",
    "sad": "#0072b2",
    "angry": "#d55e00",
    "fearful": "#aa55ee",
    "disgust": "#009e73",
    "surprised": "#cc79a7",
}
"""One colour an emotion, which colour-blind readers can tell apart.

Six are of Okabe and Ito (2008). The other two lie apart from those, and are seen on white and on
black.
"""

ID2LABEL: dict[int, str] = dict(enumerate(EMOTIONS))
LABEL2ID: dict[str, int] = {emotion: index for index, emotion in ID2LABEL.items()}
