"""Damaged and lying recordings, arrays and zips through `ser_hf.audio.load` and the uploads of the
app: each must give recordings or an error of one line.

Seeds are short tones in every container and sample format that libsndfile writes and, where PyAV is
installed, in those of phones and browsers. They are cut, bytes of their headers or bodies are
changed, rates, channels, sizes and numbers of packets in the headers lie, samples are NaN. Arrays
are of any type, shape, layout and rate. Zips hold damaged recordings, and are damaged themselves. A
process of its own reads them, so that a crash of a decoder is seen. The time of each case and the
peak of resident memory are measured; what was too slow is measured once more, alone.

    .venv/bin/python benchmarks/fuzz_audio.py [--files 2500] [--seed 0]
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from ser_hf import audio
from ser_hf.app import uploads
from ser_hf.errors import UserError

MAX_SECONDS, MAX_MIB = 2.0, 1024
FORMATS = (
    *(("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW")),
    *(("WAV", kind) for kind in ("IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16")),
    *(("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("AU", "FLOAT")),
    *(("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
)
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
MEDIA = (  # FFmpeg's muxer, encoder, rate, pictures, options
    *(("ipod", "aac", 48_000, False, {}), ("ipod", "alac", 48_000, False, {}), ("mp4", "aac", 48_000, True, {})),
    *(("mp4", "aac", 48_000, False, FRAGMENTED), ("mp4", "libmp3lame", 48_000, False, {})),
    *(("mov", "pcm_s16le", 48_000, False, {}), ("mov", "pcm_f32le", 48_000, True, {})),
    *(("3gp", "libopencore_amrnb", 8_000, False, {}), ("amr", "libopencore_amrnb", 8_000, False, {})),
    *(("webm", "libopus", 48_000, False, {}), ("webm", "libopus", 48_000, False, {"live": "1"})),
    *(("matroska", "flac", 48_000, True, {}), ("matroska", "pcm_s16le", 48_000, False, {})),
    *(("matroska", "ac3", 48_000, False, {}), ("adts", "aac", 48_000, False, {})),
)
NUMBERS = (0, 1, 2, 7, 33, 255, 1024, 65_535, 384_001, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
TYPES = (
    "f2",
    "f4",
    "f8",
    "g",
    ">f4",
    ">f8",
    "i1",
    "i2",
    "i4",
    "i8",
    ">i2",
    "u1",
    "u2",
    "u4",
    "?",
    "c8",
    "O",
    "U3",
    "M8[s]",
)
RATES = (16_000, 44_100, 8_000.0, 0, -1, 1, 10**9, float("nan"), float("inf"), None, "44100", "CD", True, [16_000])
LIMITS = uploads.Limits()


def seeds() -> dict[str, bytes]:
    """A file of each format, mono and, where it can be, stereo."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(6_400) / 16_000)
    files = {}
    for container, subtype in FORMATS:
        for channels in (1, 2):
            buffer = io.BytesIO()
            samples = tone if channels == 1 else np.stack([tone, -tone], axis=1)
            try:
                soundfile.write(buffer, samples, 16_000, format=container, subtype=subtype)
            except soundfile.LibsndfileError:  # GSM knows one channel
                continue
            files[f"{container} {subtype} {channels}"] = buffer.getvalue()
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(0), 48_000, format=container, subtype=subtype)
        if len(buffer.getvalue()) > 40:  # MP3 writes nothing
            files[f"{container} {subtype}, no samples"] = buffer.getvalue()
    return files


def media_seeds() -> dict[str, bytes]:
    """A file of each kind that PyAV writes; none where it is not installed."""
    try:
        import av
    except ImportError:
        return {}
    files = {}
    for number, (muxer, encoder, rate, pictures, options) in enumerate(MEDIA):
        samples = (0.3 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype(np.float32)
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=muxer, options=options) as output:
            film = output.add_stream("mpeg4", rate=25) if pictures else None
            if film is not None:
                film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
            stream = output.add_stream(encoder, rate=rate, layout="mono")
            for place in range(12 if pictures else 0):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * place, dtype=np.uint8))
                picture.pts, picture.time_base = place, Fraction(1, 25)
                output.mux(film.encode(picture))
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            waiting = av.AudioFifo()
            wanted = stream.codec_context.codec.audio_formats[0].name
            for part in av.AudioResampler(format=wanted, layout="mono", rate=rate).resample(frame):
                waiting.write(part)
            while (part := waiting.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
        files[f"{muxer} {encoder} {number}"] = buffer.getvalue()
    return files


def mutated(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One damaged copy, and what was done to it."""
    changed = bytearray(content)
    kind = rng.choice(["header bytes", "body bytes", "cut", "number in header", "not a number", "grown", "swapped"])
    # an MP4 has its header where the box moov is
    start = max(changed.find(b"moov"), 0)
    end = min(len(changed), start + (700 if start else 120))
    if kind in ("header bytes", "body bytes"):
        area = (start, end) if kind == "header bytes" else (0, len(changed))
        for place in rng.integers(*area, rng.integers(1, 9)):
            changed[place] = rng.integers(0, 256)
    elif kind == "cut":
        del changed[rng.integers(0, len(changed)) :]
    elif kind == "number in header":  # rates, channels, sizes: whatever stands there
        place = int(rng.integers(start + 4, max(end - 8, start + 5)))
        form = rng.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
        limit = 2 ** (8 * struct.calcsize(form)) - 1
        struct.pack_into(form, changed, place, min(NUMBERS[rng.integers(len(NUMBERS))], limit))
    elif kind == "not a number":
        place = int(rng.integers(20, max(len(changed) - 8, 21)))
        form, value = rng.choice(["<f", ">f", "<d", ">d"]), rng.choice([np.nan, np.inf, -np.inf, 1e38])
        written = struct.pack(form, value)
        changed[place : place + len(written)] = written
    elif kind == "grown":
        place = int(rng.integers(0, len(changed)))
        changed[place:place] = rng.bytes(int(rng.integers(1, 5_000)))
    else:
        start, end = sorted(rng.integers(0, len(changed), 2).tolist())
        changed = changed[start:end] + changed[:start] + changed[end:]
    return str(kind), bytes(changed)


def zipped(sources: dict[str, bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """A zip of one to four recordings, whole or damaged, which may be damaged itself."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(rng.integers(1, 5)):
            content = sources[list(sources)[rng.integers(len(sources))]]
            content = mutated(content, rng)[1] if rng.random() < 0.5 else content
            ending = rng.choice([".wav", ".m4a", ".WEBM", ".txt", ".zip", ""])
            archive.writestr(f"{rng.choice(['', 'in/', '../', '__MACOSX/', '.'])}{number}{ending}", content)
    if rng.random() < 0.3:
        return "whole", buffer.getvalue()
    return mutated(buffer.getvalue(), rng)


def made_array(seed: int) -> object:
    """What somebody may hand over as an array, without a file: any type, shape, layout, rate."""
    rng = np.random.default_rng(seed)
    shapes = [(n,) for n in (0, 1, 1_600, 16_000)] + [
        (8_000, 2),
        (2, 8_000),
        (16_000, 1),
        (0, 2),
        (9_600, 40),
        (3, 3, 900),
        (),
    ]
    shape = shapes[rng.integers(len(shapes))]
    with np.errstate(all="ignore"):
        samples = np.asarray(rng.normal(size=shape) * rng.choice([0, 1e-9, 0.3, 100.0, 1e30])).astype("f8")
        kind = TYPES[rng.integers(len(TYPES))]
        samples = samples.astype("i8").astype(kind) if kind == "M8[s]" else samples.astype(kind)
    if samples.size and np.issubdtype(samples.dtype, np.inexact) and rng.random() < 0.2:
        samples.flat[rng.integers(samples.size)] = rng.choice([np.nan, np.inf])
    if rng.random() < 0.3 and samples.ndim:
        samples = samples[::-1]
    if rng.random() < 0.3:
        samples.flags.writeable = False
    if rng.random() < 0.2:
        samples = samples.tolist()
    rate = RATES[0] if rng.random() < 0.5 else RATES[rng.integers(len(RATES))]
    forms = [
        samples,
        (rate, samples),
        {"array": samples, "sampling_rate": rate},
        {"raw": samples, "sampling_rate": rate},
        {"array": samples},
        {"array": None, "sampling_rate": rate, "path": None},
    ]
    return forms[rng.integers(len(forms))]


def loaded(source: object, name: str) -> str:
    """What became of one recording."""
    try:
        samples = audio.load(source, name=name)
    except audio.AudioError as error:
        message = str(error)
        named = name in message or "is not a recording: give" in message  # which names the type
        return "AudioError" if named and "\n" not in message else f"UNCLEAR: {message}"
    shaped = samples.dtype == np.float32 and samples.ndim == 1 and len(samples) >= 1_600
    return "loaded" if shaped and np.isfinite(samples).all() else f"WRONG: {samples.dtype} {samples.shape}"


def source_of(path: Path) -> object:
    """What is handed over: the path, or the array whose seed a `.json` holds."""
    return made_array(json.loads(path.read_text())) if path.suffix == ".json" else path


def outcome_of(source: object, path: Path) -> str:
    """What became of one case: a recording, an array or a zip."""
    if path.suffix != ".zip":
        return loaded(source, path.name)
    outcomes = []
    try:
        for recording in uploads.Recordings([uploads.UploadedFile.at(path)], LIMITS):
            if recording.source is None:
                outcomes.append("AudioError" if "\n" not in recording.error else f"UNCLEAR: {recording.error}")
            else:
                outcomes.append(loaded(recording.source, recording.name))
    except UserError as error:
        return "UserError" if "\n" not in str(error) else f"UNCLEAR: {error}"
    wrong = [outcome for outcome in outcomes if outcome not in ("loaded", "AudioError")]
    return wrong[0] if wrong else "loaded" if "loaded" in outcomes else "AudioError"


def read_all(folder: Path, first: int) -> None:
    """In the child: read the cases from `first` on, and print a line before and after each."""
    for path in sorted(folder.iterdir())[first:]:
        print(json.dumps({"file": path.name}), flush=True)
        source = source_of(path)
        started = time.perf_counter()
        outcome = outcome_of(source, path)
        seconds = time.perf_counter() - started
        if seconds > MAX_SECONDS:  # another process may have had the processor
            started = time.perf_counter()
            outcome_of(source, path)
            seconds = min(seconds, time.perf_counter() - started)
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        print(json.dumps({"outcome": outcome, "seconds": seconds, "peak": peak}), flush=True)


def outcomes(folder: Path, count: int) -> list[dict]:
    """Outcome of every case, read in child processes.

    Where a child dies, its case counts as a crash, and a new child goes on.
    """
    results: list[dict] = []
    while len(results) < count:
        command = [sys.executable, __file__, "--read", str(folder), str(len(results))]
        child = subprocess.run(command, capture_output=True, text=True, timeout=3_600)
        # libsndfile prints a line of its own for some damaged ALAC
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        results += [{**name, **result} for name, result in zip(lines[::2], lines[1::2], strict=False)]
        if len(lines) % 2:  # began, and did not end
            last = child.stderr.strip().splitlines()[-1:] or [f"exit {child.returncode}"]
            results.append({**lines[-1], "outcome": f"CRASH: {last[0]}", "seconds": 0.0, "peak": 0.0})
        elif child.returncode:
            sys.exit(child.stderr)
    return results


def cases(sources: dict[str, bytes], count: int, rng: np.random.Generator) -> Iterator[tuple[str, str, bytes]]:
    """What is done to what, the ending and the content: of ten eight files, an array, a zip."""
    for number in range(count):
        if number % 10 == 8:
            yield "array", ".json", str(int(rng.integers(2**32))).encode()
        elif number % 10 == 9:
            kind, content = zipped(sources, rng)
            yield f"zip, {kind}", ".zip", content
        else:
            name = list(sources)[rng.integers(len(sources))]
            kind, content = mutated(sources[name], rng)
            yield f"{name}, {kind}", ".wav", content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500, help="cases; of ten eight files, an array, a zip")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, sources = np.random.default_rng(args.seed), seeds() | media_seeds()
    kinds = []
    with TemporaryDirectory() as folder:
        for number, (kind, ending, content) in enumerate(cases(sources, args.files, rng)):
            kinds.append(kind)
            Path(folder, f"{number:06d}{ending}").write_bytes(content)
        results = outcomes(Path(folder), args.files)
    counts = Counter((Path(result["file"]).suffix, result["outcome"].split(":")[0]) for result in results)
    slow, peak = max(result["seconds"] for result in results), max(result["peak"] for result in results)
    print(f"{args.files:,} cases of {len(sources)} seeds")
    for ending, name in ((".wav", "files"), (".json", "arrays"), (".zip", "zips")):
        print(f"  {name}: {dict(sorted((outcome, n) for (of, outcome), n in counts.items() if of == ending))}")
    print(f"slowest {slow:.2f} s (at most {MAX_SECONDS}), peak memory {peak:.0f} MiB (at most {MAX_MIB})")
    good = ("loaded", "AudioError", "UserError")
    bad = [r for r in results if r["outcome"] not in good or r["seconds"] > MAX_SECONDS]
    for result in bad:
        print(f"  {result['file']} ({kinds[int(result['file'][:6])]}): {result['outcome']}, {result['seconds']:.2f} s")
    return 1 if bad or peak > MAX_MIB else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read_all(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
