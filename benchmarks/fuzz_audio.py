"""Damaged and lying audio files through `ser_hf.audio.load`: each must give a recording or an
AudioError of one line.

Seeds are short tones in every container and sample format that libsndfile writes. They are cut,
bytes of their headers or bodies are changed, rates, channels and sizes in the headers lie, samples
are NaN. A process of its own reads them, so that a crash of the decoder is seen; the time of each
file and the peak of resident memory are measured.

    .venv/bin/python benchmarks/fuzz_audio.py [--files 2500] [--seed 0]
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from ser_hf import audio

MAX_SECONDS, MAX_MIB = 2.0, 1024
FORMATS = (
    *(("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW")),
    *(("WAV", kind) for kind in ("IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16")),
    *(("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("AU", "FLOAT")),
    *(("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
)
NUMBERS = (0, 1, 2, 7, 33, 255, 1024, 65_535, 384_001, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


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


def mutated(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One damaged copy, and what was done to it."""
    changed = bytearray(content)
    kind = rng.choice(["header bytes", "body bytes", "cut", "number in header", "not a number", "grown", "swapped"])
    if kind in ("header bytes", "body bytes"):
        area = min(len(changed), 100) if kind == "header bytes" else len(changed)
        for place in rng.integers(0, area, rng.integers(1, 9)):
            changed[place] = rng.integers(0, 256)
    elif kind == "cut":
        del changed[rng.integers(0, len(changed)) :]
    elif kind == "number in header":  # rates, channels, sizes: whatever stands there
        place = int(rng.integers(4, max(min(len(changed), 120) - 8, 5)))
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


def read_all(folder: Path, first: int) -> None:
    """In the child: read the files from `first` on, and print a line before and after each."""
    for path in sorted(folder.iterdir())[first:]:
        print(json.dumps({"file": path.name}), flush=True)
        started = time.perf_counter()
        try:
            samples = audio.load(path)
            shaped = samples.dtype == np.float32 and samples.ndim == 1 and len(samples) >= 1_600
            good = shaped and np.isfinite(samples).all()
            outcome = "loaded" if good else f"WRONG: {samples.dtype} {samples.shape}"
        except audio.AudioError as error:
            message = str(error)
            outcome = "AudioError" if path.name in message and "\n" not in message else f"UNCLEAR: {message}"
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        print(json.dumps({"outcome": outcome, "seconds": time.perf_counter() - started, "peak": peak}), flush=True)


def outcomes(folder: Path, count: int) -> list[dict]:
    """Outcome of every file, read in child processes.

    Where a child dies, its file counts as a crash, and a new child goes on.
    """
    results: list[dict] = []
    while len(results) < count:
        command = [sys.executable, __file__, "--read", str(folder), str(len(results))]
        child = subprocess.run(command, capture_output=True, text=True, timeout=600)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        results += [{**name, **result} for name, result in zip(lines[::2], lines[1::2], strict=False)]
        if len(lines) % 2:  # began, and did not end
            last = child.stderr.strip().splitlines()[-1:] or [f"exit {child.returncode}"]
            results.append({**lines[-1], "outcome": f"CRASH: {last[0]}", "seconds": 0.0, "peak": 0.0})
        elif child.returncode:
            sys.exit(child.stderr)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, sources = np.random.default_rng(args.seed), seeds()
    kinds = []
    with TemporaryDirectory() as folder:
        for number in range(args.files):
            name = list(sources)[number % len(sources)]
            kind, content = mutated(sources[name], rng)
            kinds.append(f"{name}, {kind}")
            Path(folder, f"{number:06d}.wav").write_bytes(content)
        results = outcomes(Path(folder), args.files)
    counts = Counter(result["outcome"].split(":")[0] for result in results)
    slow, peak = max(result["seconds"] for result in results), max(result["peak"] for result in results)
    print(f"{args.files:,} files of {len(sources)} seeds: {dict(counts)}")
    print(f"slowest {slow:.2f} s (at most {MAX_SECONDS}), peak memory {peak:.0f} MiB (at most {MAX_MIB})")
    bad = [r for r in results if r["outcome"] not in ("loaded", "AudioError") or r["seconds"] > MAX_SECONDS]
    for result in bad:
        print(f"  {result['file']} ({kinds[int(result['file'][:6])]}): {result['outcome']}, {result['seconds']:.2f} s")
    return 1 if bad or peak > MAX_MIB else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read_all(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
