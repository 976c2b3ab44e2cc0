"""The page, the API, MCP and the command line on the same recordings: are the answers equal, byte
for byte?

    python benchmarks/same_answers.py --model DIR --dataset DIR [--clips 50]

Exits with 1 where they are not.
"""

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from gradio_client import Client, handle_file
from load import start
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from ser_hf.app.middleware import API
from ser_hf.data import dataset


def command_line(model: str, files: list[Path]) -> list[str]:
    """What `ser-hf predict` prints."""
    command = [sys.executable, "-m", "ser_hf.cli.main", "predict", "--model", model, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def route(url: str, files: list[Path]) -> list[str]:
    """What `POST /predict` gives."""
    return [
        httpx.post(f"{url}/predict", files={"file": (file.name, file.read_bytes())}, timeout=60).text.removesuffix("\n")
        for file in files
    ]


def api(url: str, files: list[Path]) -> list[str]:
    """What `/predict` gives to gradio_client."""
    client = Client(url, verbose=False)
    return [json.dumps(client.predict(handle_file(str(file)), api_name="/predict")) for file in files]


def page(url: str, files: list[Path]) -> list[str]:
    """What the button of the page shows as JSON."""
    button = button_of(httpx.get(f"{url}/config").json(), "go")
    return [json.dumps(press(url, button, file, f"visitor{number:05d}")[1]) for number, file in enumerate(files)]


def button_of(config: dict, elem_id: str) -> int:
    """The function that a button of the page calls.

    Args:
        config: of the page, as `/config` gives it.
        elem_id: of the button.
    """
    ids = {component["props"].get("elem_id"): component["id"] for component in config["components"]}
    (function,) = [item["id"] for item in config["dependencies"] if [ids[elem_id], "click"] in item["targets"]]
    return function


def press(url: str, function: int, file: Path, session: str) -> list:
    """Upload a recording and press a button that takes it and a voice; what the button gives."""
    (path,) = httpx.post(f"{url}{API}/upload", files={"files": (file.name, file.read_bytes())}).json()
    data = [{"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}, None]
    body = {"data": data, "fn_index": function, "session_hash": session}
    httpx.post(f"{url}{API}/queue/join", json=body).raise_for_status()
    with httpx.stream("GET", f"{url}{API}/queue/data", params={"session_hash": session}, timeout=60) as events:
        (line,) = [line for line in events.iter_lines() if '"process_completed"' in line]
    return json.loads(line.removeprefix("data: "))["output"]["data"]


async def mcp(url: str, files: list[Path]) -> list[str]:
    """What the tool `predict_json` gives."""
    texts = []
    async with (
        streamablehttp_client(f"{url}{API}/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        for file in files:
            encoded = base64.b64encode(file.read_bytes()).decode()
            arguments = {"recording": f"data:audio/flac;base64,{encoded}", "name": file.name}
            texts.append((await session.call_tool("predict_json", arguments)).content[0].text)
    return texts


def main() -> int:
    """Ask in every way and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--clips", type=int, default=50)
    args = parser.parse_args()
    rows = dataset.load(args.dataset).shuffle(seed=1).select(range(args.clips))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{Path(row['file']).stem}.flac" for row in rows]
        for file, row in zip(files, rows, strict=True):
            file.write_bytes(row["audio"]["bytes"])
        expected = command_line(args.model, files)
        app, url = start(args.model, Path(folder), "--mcp")
        try:
            answers = {
                "POST /predict": route(url, files),
                "gradio_client": api(url, files),
                "page": page(url, files),
                "MCP": asyncio.run(mcp(url, files)),
            }
        finally:
            app.terminate()
            app.wait(timeout=20)
    equal = {name: sum(a == b for a, b in zip(expected, lines, strict=True)) for name, lines in answers.items()}
    print(f"of {len(expected)} recordings, byte for byte as the command line prints: {equal}")
    return 0 if set(equal.values()) == {len(expected)} else 1


if __name__ == "__main__":
    sys.exit(main())
