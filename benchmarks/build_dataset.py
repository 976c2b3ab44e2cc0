"""Building and reading the dataset, ours against the plain way of `datasets`, alternately, each in
its own process.

Plain: `Dataset.from_dict` of paths, `cast_column(Audio(16000))`, `map` to arrays, `save_to_disk`;
it decodes with torchcodec, so it needs FFmpeg and `pip install torchcodec==0.11.1`. Ours:
`dataset.build`. Both get the corpora as they are downloaded - RAVDESS at 48 kHz, TESS at 24,414 Hz,
16-bit WAV - rewritten once from the folders given here.

    .venv/bin/python benchmarks/build_dataset.py --ravdess DIR --tess DIR --work SCRATCH
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from ser_hf import audio
from ser_hf.audio import resampling
from ser_hf.data.corpora import parse_name
from ser_hf.data.corpora.base import Recording
from ser_hf.data.corpora.scan import scan_corpus

RATES = {"ravdess": 48_000, "tess": 24_414}
BATCH = 16


def rewrite(folders: dict[str, str], wavs: Path) -> None:
    """The corpora as WAV at their official rates, once."""
    if wavs.exists():
        return
    partial = wavs.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)

    def rewrite_recording(recording: Recording) -> None:
        rate = RATES[recording.corpus]
        samples = resampling.resample(audio.load(recording.file.source()), audio.SAMPLING_RATE, rate)
        soundfile.write(partial / recording.corpus / f"{recording.key}.wav", samples, rate, subtype="PCM_16")

    for corpus, folder in folders.items():
        (partial / corpus).mkdir(parents=True)
        with ThreadPoolExecutor() as pool:
            list(pool.map(rewrite_recording, scan_corpus([folder], corpus).recordings))
    partial.rename(wavs)


def multiplied(wavs: Path, work: Path, times: int) -> Path:
    """A description of the corpora given several times over, as links under other names."""
    folder = work / f"times-{times}"
    shutil.rmtree(folder, ignore_errors=True)
    with_labels = [(path, parse_name(path)[1]) for path in sorted(wavs.rglob("*.wav"))]
    rows = []
    for copy in range(times):
        (folder / str(copy)).mkdir(parents=True)
        for path, fields in with_labels:
            os.link(path, folder / str(copy) / path.name)
            rows.append((f"{copy}/{path.name}", fields["emotion"], fields["speaker"]))
    with (folder / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "speaker"), *rows])
    (folder / "spec.yaml").write_text("corpus: copies\ncsv: list.csv\n")
    return folder / "spec.yaml"


def plain_rows(wavs: Path):  # noqa: ANN201 - a datasets.Dataset, imported where it is measured
    import datasets

    files = sorted(map(str, wavs.rglob("*.wav")))
    labels = [parse_name(Path(file))[1]["emotion"] for file in files]
    rows = datasets.Dataset.from_dict({"audio": files, "label": labels})
    return rows.cast_column("audio", datasets.Audio(sampling_rate=audio.SAMPLING_RATE))


def run_plain(wavs: Path, output: Path) -> None:
    def to_array(row: dict) -> dict:
        return {"samples": row["audio"]["array"]}

    plain_rows(wavs).map(to_array, remove_columns=["audio"], keep_in_memory=False).save_to_disk(output)


def run_ours(wavs: Path, output: Path) -> None:
    from ser_hf.data import dataset

    dataset.build(output, {"ravdess": [wavs / "ravdess"], "tess": [wavs / "tess"]})


def run_other(spec: Path, output: Path) -> None:
    from ser_hf.data import dataset

    dataset.build(output, descriptions=[spec])


def epoch_plain(wavs: Path, output: Path) -> None:
    rows = plain_rows(wavs)
    read_epoch(len(rows), lambda batch: [clip["array"] for clip in rows[batch]["audio"]])


def epoch_ours(wavs: Path, output: Path) -> None:
    from ser_hf.data import dataset

    rows = dataset.load(output)
    read_epoch(len(rows), lambda batch: [audio.load(clip) for clip in rows[batch]["audio"]])


def read_epoch(count: int, read) -> None:  # noqa: ANN001
    order = np.random.default_rng(0).permutation(count).tolist()
    read(order[:BATCH])
    started, seconds = time.perf_counter(), 0.0
    for begin in range(0, count, BATCH):
        seconds += sum(map(len, read(order[begin : begin + BATCH]))) / audio.SAMPLING_RATE
    print(json.dumps({"seconds": time.perf_counter() - started, "audio": seconds}))


TASKS = {function.__name__: function for function in (run_plain, run_ours, run_other, epoch_plain, epoch_ours)}


def measured(task: str, source: Path, output: Path, home: Path) -> dict:
    """Wall seconds, peak memory in MiB (mapped files included) and output of a task's process."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, __file__, "--task", task, str(source), str(output)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    output, errors = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{task} failed:\n{errors.decode()[-2000:]}")
    lines = output.decode().splitlines()
    return {"seconds": seconds, "peak": float(lines[-1]), "printed": json.loads(lines[-2]) if len(lines) > 1 else None}


def peak_memory() -> float:
    """MiB; not ru_maxrss, in which a child begins with what its parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def mebibytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def check_rows(wavs: Path, plain: Path, ours: Path) -> None:
    """Both datasets hold the same recordings.

    Ours holds them exactly as `audio.load` reads them, plain within its resampler.
    """
    import datasets

    from ser_hf.data import dataset

    files = sorted(wavs.rglob("*.wav"))
    expected, rows = datasets.load_from_disk(str(plain)), dataset.load(ours)
    assert len(expected) == len(rows) == len(files)
    position = {name: number for number, name in enumerate(rows["file"])}
    for number in np.random.default_rng(0).choice(len(files), 200, replace=False).tolist():
        row = rows[position[files[number].name]]
        samples = audio.load(row["audio"])
        np.testing.assert_array_equal(samples, audio.to_pcm(audio.load(files[number])) / np.float32(32768))
        decoded = np.array(expected[number]["samples"])
        assert expected[number]["label"] == rows.features["label"].int2str(row["label"])
        assert abs(len(samples) - len(decoded)) <= 2, (files[number], len(samples), len(decoded))
        length = min(len(samples), len(decoded))
        assert np.corrcoef(samples[:length], decoded[:length])[0, 1] > 0.99, files[number]
    print("checked: 200 recordings equal what audio.load gives; the plain way agrees (correlation > 0.99)")


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):8.1f} {unit} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ravdess", required=True)
    parser.add_argument("--tess", required=True)
    parser.add_argument("--work", required=True, type=Path, help="scratch folder; needs about 20 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=10, help="the corpora given so often, for the memory of ours")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    wavs, home = args.work / "wavs", args.work / "home"
    rewrite({"ravdess": args.ravdess, "tess": args.tess}, wavs)
    count, seconds = len(list(wavs.rglob("*.wav"))), sum(soundfile.info(path).duration for path in wavs.rglob("*.wav"))
    print(f"{count:,} recordings, {seconds / 3600:.2f} h, {mebibytes(wavs):,.0f} MiB of WAV; {os.cpu_count()} cores")

    places = {"run_plain": args.work / "plain", "run_ours": args.work / "ours"}
    runs: dict[str, list[dict]] = {name: [] for name in (*places, "epoch_plain", "epoch_ours")}
    for _ in range(args.rounds):
        for task, place in places.items():
            shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
            runs[task].append(measured(task, wavs, place, home))
    check_rows(wavs, *places.values())
    print("\nbuild            wall time                      peak memory     on disk")
    for task, place in places.items():
        memory = statistics.median(run["peak"] for run in runs[task])
        seconds = spread([run["seconds"] for run in runs[task]], "s")
        print(f"{task[4:]:8} {seconds:32} {memory:8.0f} MiB {mebibytes(place):8.0f} MiB")
    ratios = [plain["seconds"] / ours["seconds"] for plain, ours in zip(*(runs[t] for t in places), strict=True)]
    print(
        f"plain / ours: {spread(ratios, 'times')}\n"
        f"(on disk ours is Parquet and the same rows as Arrow, {mebibytes(places['run_ours'] / 'data'):.0f} MiB each)"
    )

    for _ in range(args.rounds):
        for task in ("epoch_plain", "epoch_ours"):
            runs[task].append(measured(task, wavs, places["run_ours"], home))
    print(f"\none shuffled epoch in batches of {BATCH}, decoded to 16 kHz")
    for task in ("epoch_plain", "epoch_ours"):
        print(f"{task[6:]:8} {spread([run['printed']['seconds'] for run in runs[task]], 's')}")
    ratios = [
        plain["printed"]["seconds"] / ours["printed"]["seconds"]
        for plain, ours in zip(runs["epoch_plain"], runs["epoch_ours"], strict=True)
    ]
    print(f"plain / ours: {spread(ratios, 'times')}")

    print("\npeak memory of ours, the recordings given once and several times over")
    for times in (1, args.times):
        place = args.work / "several"
        shutil.rmtree(place, ignore_errors=True)
        result = measured("run_other", multiplied(wavs, args.work, times), place, home)
        print(
            f"{times:3} x {count:,}: {result['peak']:6.0f} MiB of memory, {result['seconds']:6.1f} s, "
            f"{mebibytes(place):6.0f} MiB on disk"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--task"]:
        TASKS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        print(peak_memory())
    else:
        main()
