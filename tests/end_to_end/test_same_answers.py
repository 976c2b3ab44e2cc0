"""The page, the API, plain HTTP, MCP and the command line say the same of a recording, to the last
byte."""

import asyncio
import base64
import json
import threading
import urllib.request
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from helpers.app import serving

from ser_hf import audio
from ser_hf.app.middleware import API
from ser_hf.cli.main import main

TOOLS = ["batch", "predict", "predict_json", "timeline"]


@pytest.fixture(scope="module")
def files(recordings, tmp_path_factory):
    """Six short recordings, one at another rate and of two channels, and a long one."""
    folder = tmp_path_factory.mktemp("doors")
    found = sorted(recordings[0].rglob("*.wav"))[::70]
    samples = [audio.load(file) for file in found]
    soundfile.write(folder / "stereo.flac", np.stack([samples[0]] * 2, axis=1), 44_100)
    soundfile.write(folder / "long.wav", np.concatenate(samples * 2), audio.SAMPLING_RATE)
    return [*map(str, found), str(folder / "stereo.flac"), str(folder / "long.wav")]


@pytest.fixture(scope="module")
def told(tuned, files, tmp_path_factory):
    """What the command line says."""
    written = tmp_path_factory.mktemp("told") / "told.jsonl"
    assert main(["predict", "--model", str(tuned), *files, "--output", str(written)]) == 0
    return written.read_text().splitlines()


@pytest.fixture(scope="module")
def url(tuned):
    with serving("--model", tuned, "--mcp") as address:
        yield address


def api(url, files):
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    return [client.predict(handle_file(file), api_name="/predict") for file in files]


def test_the_api(url, files, told):
    assert [json.dumps(answer) for answer in api(url, files)] == told


def test_the_api_in_one_request(url, files, told):
    from gradio_client import Client, handle_file

    answers = Client(url, verbose=False).predict([handle_file(file) for file in files], api_name="/batch")
    assert [json.dumps(answer) for answer in answers] == told


def test_the_page(url, tuned, files, told):
    """What its button calls; `tests/test_demo.py` presses it."""
    page = json.loads(urllib.request.urlopen(f"{url}/config").read())
    (function,) = [
        one
        for one in page["dependencies"]
        if one["api_visibility"] == "private" and ["go", "click"] in _names(page, one["targets"])
    ]
    for file, expected in zip(files[-2:], told[-2:], strict=True):
        assert json.dumps(_press(url, function["id"], file)) == expected


def _names(page, targets):
    names = {one["id"]: one["props"].get("elem_id") for one in page["components"]}
    return [[names.get(component), event] for component, event in targets]


def _press(url, function, file):
    (place,) = httpx.post(f"{url}{API}/upload", files={"files": (Path(file).name, Path(file).read_bytes())}).json()
    data = {"path": place, "orig_name": Path(file).name, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [data, None], "fn_index": function, "session_hash": "pressed123"}
    assert httpx.post(f"{url}{API}/queue/join", json=body).status_code == 200
    with httpx.stream("GET", f"{url}{API}/queue/data", params={"session_hash": "pressed123"}) as events:
        (line,) = [line for line in events.iter_lines() if '"process_completed"' in line]
    return json.loads(line.removeprefix("data: "))["output"]["data"][1]


async def _mcp(url, files):
    from mcp import ClientSession, McpError
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = sorted(tool.name for tool in (await session.list_tools()).tools)
        found = []
        for file in files:
            encoded = base64.b64encode(Path(file).read_bytes()).decode()
            takes = {"recording": f"data:audio/wav;base64,{encoded}", "name": Path(file).name}
            found.append(await session.call_tool("predict_json", takes))
        with pytest.raises(McpError, match="Addresses are not fetched"):
            await session.call_tool("predict_json", {"recording": "http://127.0.0.1:9/clip.wav"})
    return tools, [one.content[0].text for one in found]


def test_mcp(url, files, told):
    tools, texts = asyncio.run(_mcp(url, files))
    assert tools == TOOLS
    assert texts == told


def test_under_load(url, files, told):
    found = [None] * 8

    def ask(place):
        found[place] = [json.dumps(answer) for answer in api(url, files)]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [told] * 8
