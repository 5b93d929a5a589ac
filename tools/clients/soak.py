#!/usr/bin/env python3
"""Treat a running server badly for some minutes and check that it minds nothing.

    soak.py --serve target/release/ferrum --minutes 30 --clients 48
    soak.py --url http://127.0.0.1:8080 [--pid PID]        # a server that runs already

Clients ask, stream, leave, dawdle, send nonsense and send too much, all at random and more of them
than there are places. At the end every answered request must have been whole, every refused one
must have had a status (and Retry-After where it is worth trying again), no request may be left, all
KV blocks must be free and the memory must not have grown since the first quarter (a small KV cache,
which is soon in use as a whole, makes that plain). With --serve, the server is then killed with
SIGKILL, must answer again at once when it is restarted, and must end in order on SIGTERM.
Only the standard library is needed. Point it at this machine only.
"""
import argparse
import asyncio
import collections
import json
import random
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

COUNTS = collections.Counter()
FAILURES = []


def note(what, detail=""):
    FAILURES.append(f"{what}: {str(detail)[:200]}")


def request(path, body, headers=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n")
    return head.encode() + data


def ask(r, **more):
    words = " ".join(r.choice("red green blue one two three sun moon".split())
                     for _ in range(r.choice([3, 10, 40, 150])))
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": r.choice([1, 8, 40]),
            "temperature": 1.0}
    return {**body, **more}


def unchunk(data):
    out = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        size = int(size or b"0", 16)
        if size == 0:
            break
        out, data = out + rest[:size], rest[size + 2:]
    return out


async def send(a, data, limit=None, pause=0.0):
    """Sends, and reads to the end, or `limit` bytes, then closes. Returns what came."""
    reader, writer = await asyncio.open_connection(a.host, a.port)
    out = b""
    try:
        writer.write(data)
        try:
            await writer.drain()
        except ConnectionError:
            pass  # refused before all was read
        while limit is None or len(out) < limit:
            try:
                piece = await asyncio.wait_for(reader.read(1024 if pause else 65536), 300)
            except ConnectionError:
                break
            if not piece:
                break
            out += piece
            if pause:
                await asyncio.sleep(pause)
    finally:
        writer.close()
    return out


def judge(kind, out, stream):
    """Whether a response that was read to its end is whole."""
    head, _, body = out.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else 0
    COUNTS[f"{kind} {status}"] += 1
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunk(body)
    if status == 0:
        return note(f"{kind}: no status", out)
    if status in (429, 503) and b"retry-after:" not in head.lower():
        note(f"{kind}: no Retry-After", head)
    if status == 200 and stream:
        if not body.endswith(b"data: [DONE]\n\n") or b'data: {"error"' in body:
            note(f"{kind}: a stream without its end", body[-100:])
        return
    try:
        value = json.loads(body)
    except ValueError:
        return note(f"{kind}: no JSON", body[:100])
    if status == 200 and not value["choices"][0]["finish_reason"]:
        note(f"{kind}: no end", value)
    if status != 200 and not value["error"]["message"]:
        note(f"{kind}: no message", value)


async def action(a, r):
    chat = "/v1/chat/completions"
    kind = r.choice(["ask", "ask", "stream", "stream", "stream", "leave", "leave early", "dawdle",
                     "nonsense", "huge", "partial", "several", "schema", "too long"])
    if kind == "ask":
        judge(kind, await send(a, request(chat, ask(r))), False)
    elif kind == "several":
        judge(kind, await send(a, request(chat, ask(r, n=3))), False)
    elif kind == "schema":
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                  "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        judge(kind, await send(a, request(chat, ask(r, response_format=form, max_tokens=60))), False)
    elif kind == "stream":
        judge(kind, await send(a, request(chat, ask(r, stream=True))), True)
    elif kind == "dawdle":
        judge(kind, await send(a, request(chat, ask(r, stream=True)), pause=0.05), True)
    elif kind == "leave":
        await send(a, request(chat, ask(r, stream=True, max_tokens=400)), limit=r.randint(1, 4000))
        COUNTS[kind] += 1
    elif kind == "leave early":
        await send(a, request(chat, ask(r, stream=r.random() < 0.5, max_tokens=400)), limit=0)
        COUNTS[kind] += 1
    elif kind == "nonsense":
        body = request(chat, bytes(r.randbytes(r.randint(0, 300))))
        judge(kind, await send(a, body), False)
    elif kind == "huge":
        judge(kind, await send(a, request(chat, b" " * (9 << 20))), False)
    elif kind == "partial":
        data = request(chat, ask(r))
        await send(a, data[:r.randint(1, len(data) - 1)], limit=0)
        COUNTS[kind] += 1
    elif kind == "too long":
        judge(kind, await send(a, request(chat, ask(r, max_tokens=10_000_000))), False)


async def client(a, number, end):
    r = random.Random(a.seed * 1000 + number)
    while time.time() < end:
        try:
            await action(a, r)
        except Exception as e:
            note("client", repr(e))
        # Sooner than Retry-After says, but not in a loop that only measures the client.
        await asyncio.sleep(r.random() * a.pause)


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024


async def watch(a, end, sizes):
    begin = time.time()
    while time.time() < end:
        await asyncio.sleep((end - begin) / 16)
        if a.pid:
            sizes.append(resident(a.pid))
        health = await send(a, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        if not health.startswith(b"HTTP/1.1 200"):
            note("health", health)


def metric(a, name):
    """Of all models together."""
    text = urllib.request.urlopen(a.url + "/metrics").read().decode()
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
    assert values, name
    return sum(map(float, values))


def serve(a):
    """Starts a server with fewer places than there are clients; where it listens is in `a`."""
    command = [a.serve, "serve", a.model, "--port", "0", "--max-seqs", "4", "--queue", "8",
               "--kv-memory", "100MB"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if line.startswith("listening on "):
            a.url, a.pid = line.removeprefix("listening on ").strip(), server.pid
            parts = urllib.parse.urlsplit(a.url)
            a.host, a.port = parts.hostname, parts.port
            return server
    sys.exit(f"no server: {' '.join(command)}")


def restart(a, server):
    """After SIGKILL a new server answers; on SIGTERM it ends in order."""
    server.kill()
    server.wait()
    begin = time.time()
    server = serve(a)
    out = asyncio.run(send(a, request("/v1/chat/completions", ask(random.Random(1)))))
    judge("after SIGKILL", out, False)
    print(f"killed and restarted: an answer after {time.time() - begin:.1f} s")
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        return note("SIGTERM", "it goes on")
    if code != 0:
        note("SIGTERM", f"it ended with {code}")


async def treat_badly(a):
    end = time.time() + a.minutes * 60
    sizes = []
    await asyncio.gather(watch(a, end, sizes), *(client(a, i, end) for i in range(a.clients)))
    for _ in range(100):
        left = [metric(a, f"ferrum_requests_{x}") for x in ("running", "waiting")]
        free = metric(a, "ferrum_kv_blocks") - metric(a, "ferrum_kv_blocks_free")
        if not any(left) and not free:
            break
        await asyncio.sleep(0.2)
    else:
        note("left", f"requests {left}, blocks {free}")
    if sizes:
        early, late = sizes[len(sizes) // 4], sizes[-1]
        print(f"memory: {early:.0f} MiB after a quarter, {late:.0f} MiB at the end")
        # A quarter of a short run is not enough to warm up.
        if late > early * (1.1 if a.minutes >= 5 else 1.5) + 8:
            note("memory grew", sizes)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", default="http://127.0.0.1:8080")
    p.add_argument("--pid", type=int)
    p.add_argument("--serve", metavar="FERRUM", help="start this binary's server")
    p.add_argument("--model", default="smollm2", help="what it serves")
    p.add_argument("--minutes", type=float, default=1)
    p.add_argument("--clients", type=int, default=48)
    p.add_argument("--pause", type=float, default=0.4, help="seconds between actions, at most")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    parts = urllib.parse.urlsplit(a.url)
    a.host, a.port = parts.hostname, parts.port
    server = serve(a) if a.serve else None
    try:
        asyncio.run(treat_badly(a))
        if server:
            restart(a, server)
    finally:
        if server:
            server.kill()
    for key, count in sorted(COUNTS.items()):
        print(f"{count:7}  {key}")
    print(f"{len(FAILURES)} failures")
    for failure in FAILURES[:20]:
        print("  " + failure)
    sys.exit(1 if FAILURES else 0)


main()
