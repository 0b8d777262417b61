"""Drives the server with the official MCP SDK, in both eras of the protocol."""

import os
import sys
import pathlib

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

PROMPT = "Create a hello.py file that prints 'Hello, World!'"


async def drive(binary: str, config: str, workspace: pathlib.Path, mode: str) -> None:
    hello = workspace / "hello.py"
    hello.unlink(missing_ok=True)
    seen = []

    async def on_progress(progress, total, message):
        seen.append((progress, message))

    server = StdioServerParameters(
        command=binary, args=["--config", config, "serve"], env=dict(os.environ)
    )
    async with Client(stdio_client(server), mode=mode) as client:
        tools = await client.list_tools()
        names = [tool.name for tool in tools.tools]
        assert names == sorted(names) or "codex_run" in names, names
        result = await client.call_tool("codex_run", {"prompt": PROMPT}, progress_callback=on_progress)
        assert not result.is_error, result
        structured = result.structured_content
        assert structured["success"] is True, structured
        assert structured["files_changed"] == ["hello.py"], structured
        assert hello.read_text().startswith("print("), hello.read_text()
        assert seen and all(a[0] < b[0] for a, b in zip(seen, seen[1:])), seen

        wrong = await client.call_tool("codex_run", {"prompt": " "})
        assert wrong.is_error, wrong
        with anyio.move_on_after(1):
            await client.call_tool("codex_run", {"prompt": "hang around"})
        status = await client.call_tool("codex_pool_status", {})
        assert status.structured_content["max_size"] >= 1, status
    print(f"{mode}: ok, {len(seen)} progress notifications")


def main() -> None:
    binary, config, workspace = sys.argv[1:]
    for mode in ("legacy", "auto"):
        anyio.run(drive, binary, config, pathlib.Path(workspace), mode)


main()
