"""What the figures of a model say, as rows of text."""

from ser_hf.evaluation.results import Results


def result_rows(results: Results) -> list[tuple[str, str]]:
    """How a model was tested, and how well it did: a name and a text a row."""
    interval = (results.ci95 or {}).get("uar")
    return [
        ("protocol", f"{results.under()}, split {results.protocol_hash}"),
        ("tested on", f"{results.n:,} clips of {results.speakers.get('test', 'unknown')} speakers"),
        ("UAR", f"{results.uar:.3f} (guessing: {results.chance:.3f})"),
        ("UAR, 95 % interval", "{:.3f} to {:.3f}".format(*interval) if interval else f"none: {results.ci95_says}"),
        ("accuracy", f"{results.accuracy:.3f}"),
    ]


def warnings(results: Results | None) -> list[str]:
    """What a visitor must know of the figures of a model before the figures."""
    if results is None:
        return ["This model comes without a results.json of ser_hf: nothing is known of its accuracy."]
    leak = (
        "Its test speakers are, or may be, among those it was trained on: these figures say nothing about new voices."
    )
    return ([leak] if results.leaks else []) + list(results.notes)
