"""Every way to ask the app, and the command line, give equal bytes for a recording."""

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

from ser_hf import audio
from ser_hf.app.middleware import API
from ser_hf.cli.main import main

TOOLS = ["batch", "predict", "predict_json", "timeline"]


@pytest.fixture(scope="module")
def files(recordings, tmp_path_factory):
    """Six short recordings, one at another rate and of two channels, and a long one."""
    folder = tmp_path_factory.mktemp("files")
    paths = sorted(recordings[0].rglob("*.wav"))[::70]
    samples = [audio.load(path) for path in paths]
    soundfile.write(folder / "stereo.flac", np.stack([samples[0]] * 2, axis=1), 44_100)
    soundfile.write(folder / "long.wav", np.concatenate(samples * 2), audio.SAMPLING_RATE)
    return [*map(str, paths), str(folder / "stereo.flac"), str(folder / "long.wav")]


@pytest.fixture(scope="module")
def expected(tuned, files, tmp_path_factory):
    """The lines of the command line."""
    output = tmp_path_factory.mktemp("expected") / "expected.jsonl"
    assert main(["predict", "--model", str(tuned), *files, "--output", str(output)]) == 0
    return output.read_text().splitlines()


def api(url, files):
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    return [client.predict(handle_file(file), api_name="/predict") for file in files]


def test_the_routes(app_url, files, expected):
    for file, line in zip(files, expected, strict=True):
        with open(file, "rb") as content:
            assert httpx.post(f"{app_url}/predict", files={"file": content}).text == f"{line}\n"
        raw = httpx.post(f"{app_url}/predict", params={"name": Path(file).name}, content=Path(file).read_bytes())
        assert raw.text == f"{line}\n"
    parts = [("file", (Path(file).name, Path(file).read_bytes())) for file in files]
    assert httpx.post(f"{app_url}/batch", files=parts).text == f"[{', '.join(expected)}]\n"


def test_the_api(app_url, files, expected):
    assert [json.dumps(prediction) for prediction in api(app_url, files)] == expected


def test_the_api_in_one_request(app_url, files, expected):
    from gradio_client import Client, handle_file

    predictions = Client(app_url, verbose=False).predict([handle_file(file) for file in files], api_name="/batch")
    assert [json.dumps(prediction) for prediction in predictions] == expected


def test_the_page(app_url, files, expected):
    """What its button calls; `tests/app/test_page.py` presses it."""
    page = json.loads(urllib.request.urlopen(f"{app_url}/config").read())
    (function,) = [
        item
        for item in page["dependencies"]
        if item["api_visibility"] == "private" and ["go", "click"] in _names(page, item["targets"])
    ]
    for file, line in zip(files[-2:], expected[-2:], strict=True):
        assert json.dumps(_press(app_url, function["id"], file)) == line


def _names(page, targets):
    names = {component["id"]: component["props"].get("elem_id") for component in page["components"]}
    return [[names.get(component), event] for component, event in targets]


def _press(url, function, file):
    (path,) = httpx.post(f"{url}{API}/upload", files={"files": (Path(file).name, Path(file).read_bytes())}).json()
    data = {"path": path, "orig_name": Path(file).name, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [data, None], "fn_index": function, "session_hash": "pressed123"}
    assert httpx.post(f"{url}{API}/queue/join", json=body).status_code == 200
    with httpx.stream("GET", f"{url}{API}/queue/data", params={"session_hash": "pressed123"}) as events:
        (line,) = [line for line in events.iter_lines() if '"process_completed"' in line]
    return json.loads(line.removeprefix("data: "))["output"]["data"][1]


async def _mcp(url, files):
    from mcp import ClientSession, McpError
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{url}{API}/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = sorted(tool.name for tool in (await session.list_tools()).tools)
        results = []
        for file in files:
            encoded = base64.b64encode(Path(file).read_bytes()).decode()
            arguments = {"recording": f"data:audio/wav;base64,{encoded}", "name": Path(file).name}
            results.append(await session.call_tool("predict_json", arguments))
        bad = {"recording": f"data:audio/wav;base64,{base64.b64encode(b'no sound').decode()}", "name": "notes.wav"}
        refused = await session.call_tool("predict_json", bad)
        assert refused.isError
        assert "'notes.wav' is not audio that can be read (Format not recognised)" in refused.content[0].text
        with pytest.raises(McpError, match="Addresses are not fetched"):
            await session.call_tool("predict_json", {"recording": "http://127.0.0.1:9/clip.wav"})
    return tools, [result.content[0].text for result in results]


def test_mcp(app_url, files, expected):
    tools, texts = asyncio.run(_mcp(app_url, files))
    assert tools == TOOLS
    assert texts == expected


def test_under_load(app_url, files, expected):
    results = [None] * 8

    def ask(place):
        results[place] = [json.dumps(prediction) for prediction in api(app_url, files)]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8
