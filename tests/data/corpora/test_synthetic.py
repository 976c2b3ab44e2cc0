"""Stand-ins for both corpora: what protocols ask of them."""

import pytest

from ser_hf import audio
from ser_hf.audio import fingerprint
from ser_hf.data.corpora import synthetic


@pytest.mark.parametrize("actor", [9, 18, 19])
def test_the_statements_of_an_actor_are_no_near_duplicates(actor, tmp_path):
    jobs = [job for job in synthetic._ravdess_jobs(tmp_path, seed=0, takes=2) if f"Actor_{actor:02d}" in str(job[0])]
    jobs = [job for job in jobs if job[2] == "surprised"]
    assert len(jobs) == 4  # two statements, twice each
    for job in jobs:
        synthetic._write_recording(*job, seed=0)
    prints = [fingerprint.fingerprint(audio.load(f"{job[0]}.wav")) for job in jobs]
    statements = [job[0].name.split("-")[4] for job in jobs]
    pairs = fingerprint.near_duplicates(prints)
    assert [pair for pair in pairs if statements[pair.first] != statements[pair.second]] == []
