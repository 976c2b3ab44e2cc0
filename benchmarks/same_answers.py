"""The page, the API, MCP and the command line on the same recordings: whether they say the same,
byte for byte.

    python benchmarks/doors.py --model DIR --dataset DIR [--clips 50]

Exits with 1 where they do not.
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
from load import FILE, start
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from ser_hf.app.middleware import API
from ser_hf.data import dataset


def command_line(model: str, files: list[Path]) -> list[str]:
    """What `ser-hf predict` prints."""
    command = [sys.executable, "-m", "ser_hf.cli.main", "predict", "--model", model, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def api(url: str, files: list[Path]) -> list[str]:
    """What `/predict` gives to gradio_client."""
    client = Client(url, verbose=False)
    return [json.dumps(client.predict(handle_file(str(file)), api_name="/predict")) for file in files]


def page(url: str, files: list[Path]) -> list[str]:
    """What the button of the page shows as JSON."""
    config = httpx.get(f"{url}/config").json()
    names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
    (button,) = [
        one["id"]
        for one in config["dependencies"]
        if ["go", "click"] in [[names.get(component), event] for component, event in one["targets"]]
    ]
    found = []
    for number, file in enumerate(files):
        (path,) = httpx.post(f"{url}{API}/upload", files={"files": (file.name, file.read_bytes())}).json()
        session = f"doors{number:05d}"
        data = [{"path": path, "orig_name": file.name, "meta": FILE}, None]  # and no voice that it was adapted to
        httpx.post(f"{url}{API}/queue/join", json={"data": data, "fn_index": button, "session_hash": session})
        with httpx.stream("GET", f"{url}{API}/queue/data", params={"session_hash": session}) as events:
            (line,) = [line for line in events.iter_lines() if '"process_completed"' in line]
        found.append(json.dumps(json.loads(line.removeprefix("data: "))["output"]["data"][1]))
    return found


async def mcp(url: str, files: list[Path]) -> list[str]:
    """What the tool `predict_json` says."""
    found = []
    async with (
        streamablehttp_client(f"{url}{API}/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        for file in files:
            encoded = base64.b64encode(file.read_bytes()).decode()
            takes = {"recording": f"data:audio/flac;base64,{encoded}", "name": file.name}
            found.append((await session.call_tool("predict_json", takes)).content[0].text)
    return found


def main() -> int:
    """Ask all four and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--clips", type=int, default=50)
    args = parser.parse_args()
    rows = dataset.load(args.dataset).shuffle(seed=1).select(range(args.clips))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{Path(row['file']).stem}.flac" for row in rows]
        for file, row in zip(files, rows, strict=True):
            file.write_bytes(row["audio"]["bytes"])
        told = command_line(args.model, files)
        app, url = start(args.model, Path(folder), "--mcp")
        try:
            doors = {"API": api(url, files), "page": page(url, files), "MCP": asyncio.run(mcp(url, files))}
        finally:
            app.terminate()
            app.wait(timeout=20)
    equal = {name: sum(a == b for a, b in zip(told, found, strict=True)) for name, found in doors.items()}
    print(f"of {len(told)} recordings, byte for byte as the command line says: {equal}")
    return 0 if set(equal.values()) == {len(told)} else 1


if __name__ == "__main__":
    sys.exit(main())
