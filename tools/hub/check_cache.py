"""Checks that Ferrum and huggingface_hub share one cache, against a hub on this machine.

    pip install huggingface_hub        (2.4.0 was used)
    cargo build --release
    python tools/hub/check_cache.py target/release/ferrum FOLDER

FOLDER is a model with config.json, tokenizer.json and model.safetensors. The hub serves it as org/model,
and as org/shards with its weights in two files. Each is downloaded by one program and read by the
other, broken off by kill -9 and resumed, and pulled by both at once.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"


class Hub:
    """What the server has, what it saw, and how slow it is."""

    def __init__(self, repos):
        self.repos, self.seen, self.pause = repos, [], 0.0
        self.by_hash = {d: b for files in repos.values() for b, d, _ in files.values()}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_HEAD = lambda self: hub.answer(self)
            log_message = lambda *_: None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, r):
        self.seen.append((r.command, r.path, r.headers.get("Range")))
        path, _, query = r.path.partition("?")
        parts = path.strip("/").split("/")
        if parts[0] == "storage":
            return self.send(r, 200, self.by_hash[parts[1]], {"ETag": '"storage"'}, self.pause)
        api = parts[:2] == ["api", "models"]
        repo, rest = ("/".join(parts[2:4]), parts[4:]) if api else ("/".join(parts[:2]), parts[2:])
        files = self.repos.get(repo)
        if files is None:
            return self.send(r, 404, b"", {"X-Error-Code": "RepoNotFound"})
        if api:
            return self.send(r, 200, json.dumps(self.listing(repo, files, rest)).encode(), {})
        found = files.get("/".join(rest[2:]))
        if found is None:
            return self.send(r, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        data, digest, lfs = found
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}
        if not lfs:
            return self.send(r, 200, data, headers)
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)),
                    "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/storage/{digest}"}
        return self.send(r, 302, b"", headers)

    @staticmethod
    def listing(repo, files, rest):
        pointer = lambda lfs, d, n: {"lfs": {"sha256": d, "oid": d, "size": n, "pointerSize": 134}} if lfs else {}
        oid = lambda lfs, d: "0" * 40 if lfs else d
        if rest[0] == "tree":
            return [{"type": "file", "path": p, "oid": oid(lfs, d), "size": len(b), **pointer(lfs, d, len(b))}
                    for p, (b, d, lfs) in files.items()]
        siblings = [{"rfilename": p, "size": len(b), "blobId": oid(lfs, d), **pointer(lfs, d, len(b))}
                    for p, (b, d, lfs) in files.items()]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

    @staticmethod
    def send(r, status, data, headers, pause=0.0):
        if (asked := r.headers.get("Range")) and status == 200:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            status, data = 206, data[start:]
        r.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            r.send_header(name, value)
        r.end_headers()
        try:
            for at in range(0, len(data) if r.command == "GET" else 0, 1 << 20):
                r.wfile.write(data[at:at + (1 << 20)])
                time.sleep(pause)
        except OSError:
            pass


def entry(data, lfs):
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return data, hashlib.sha256(data).hexdigest() if lfs else git, lfs


def split(data):
    """The weights as two files with an index."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    names = sorted(n for n in header if n != "__metadata__")
    out, where = {}, {}
    for part, chosen in enumerate([names[::2], names[1::2]], 1):
        file, table, body = f"model-{part:05}-of-00002.safetensors", {}, b""
        for name in chosen:
            start, end = header[name]["data_offsets"]
            table[name] = {**header[name], "data_offsets": [len(body), len(body) + end - start]}
            body += data[8 + size + start:8 + size + end]
            where[name] = file
        text = json.dumps(table).encode()
        text += b" " * (-len(text) % 8)
        out[file] = entry(len(text).to_bytes(8, "little") + text + body, True)
    index = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return {**out, "model.safetensors.index.json": entry(index, False)}


def main():
    ferrum, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    names = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors",
             "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"]
    files = {n: entry((folder / n).read_bytes(), n.endswith("safetensors") or n == "tokenizer.json")
             for n in names if (folder / n).exists()}
    weights = files["model.safetensors"][0]
    extra = {"README.md": entry(b"# a model", False), "pytorch_model.bin": entry(b"pickle", True)}
    shards = {n: f for n, f in files.items() if n != "model.safetensors"} | split(weights)
    hub = Hub({"org/model": files | extra, "org/shards": shards | extra})
    home = Path(tempfile.mkdtemp())
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost"}
    cache = home / "hf/hub"

    def run(*words, **more):
        return subprocess.run([ferrum, *words], env=env | more, capture_output=True, text=True, timeout=300)

    def python(code, **more):
        out = subprocess.run([sys.executable, "-c", code], env=env | more, capture_output=True, text=True, timeout=300)
        assert out.returncode == 0, out.stderr
        return out.stdout.strip()

    def whole(repo, path, files):
        for name, (data, digest, _) in files.items():
            assert (Path(path) / name).read_bytes() == data, f"{repo}: {name}"
            assert (Path(path) / name).resolve() == (cache / f"models--{repo.replace('/', '--')}/blobs" / digest).resolve()

    # Ours, read by huggingface_hub.
    for repo, wanted in [("org/model", files), ("org/shards", shards)]:
        out = run("pull", repo)
        assert out.returncode == 0, out.stderr
        whole(repo, out.stdout.strip(), wanted)
        local = f"from huggingface_hub import *; print(snapshot_download('{repo}', local_files_only=True))"
        assert python(local, HF_HUB_OFFLINE="1") == out.stdout.strip()
        code = f"from huggingface_hub import *; print(try_to_load_from_cache('{repo}', 'config.json'))"
        assert python(code, HF_HUB_OFFLINE="1") == out.stdout.strip() + "/config.json"
        before = len(hub.seen)
        patterns = sorted(wanted)
        python(f"from huggingface_hub import *; snapshot_download('{repo}', allow_patterns={patterns})")
        fetched = [s for s in hub.seen[before:] if s[0] == "GET" and ("/resolve/" in s[1] or "/storage/" in s[1])]
        assert not fetched, f"huggingface_hub downloaded again: {fetched}"
    scan = json.loads(python(
        "from huggingface_hub import *; import json; i = scan_cache_dir(); "
        "print(json.dumps([[str(w) for w in i.warnings], {r.repo_id: [r.nb_files, r.size_on_disk, "
        "[[v.commit_hash, sorted(v.refs)] for v in r.revisions]] for r in i.repos}]))"))
    assert scan[0] == [], scan[0]
    for repo, wanted in [("org/model", files), ("org/shards", shards)]:
        assert scan[1][repo] == [len(wanted), sum(len(f[0]) for f in wanted.values()), [[COMMIT, ["main"]]]], scan[1]
    print("a cache of Ferrum's is read by huggingface_hub")

    # Theirs, read by us, whole and with one file gone.
    shutil.rmtree(home / "hf")
    python("from huggingface_hub import *; snapshot_download('org/shards')")
    before = len(hub.seen)
    out = run("pull", "org/shards", HF_HUB_OFFLINE="1")
    assert out.returncode == 0 and len(hub.seen) == before, out.stderr
    whole("org/shards", out.stdout.strip(), shards)
    listed = json.loads(run("list", "--json").stdout)
    assert [(m["name"], m["state"]) for m in listed] == [("org/shards", "ready")], listed
    gone = Path(out.stdout.strip()) / "model-00002-of-00002.safetensors"
    gone.resolve().unlink()
    gone.unlink()
    out = run("run", "org/shards", "-p", "x", HF_HUB_OFFLINE="1")
    assert out.returncode == 1 and gone.name in out.stderr, out.stderr
    out = run("pull", "org/shards")
    assert out.returncode == 0, out.stderr
    out = run("rm", "org/shards")
    assert out.returncode == 0 and not any(cache.glob("models--*")), out.stderr
    print("a cache of huggingface_hub's is read by Ferrum")

    # kill -9 in the middle, then the rest only.
    hub.pause = 0.05
    child = subprocess.Popen([ferrum, "pull", "org/shards"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = shards["model-00002-of-00002.safetensors"]
    part = cache / "models--org--shards/blobs" / f"{second[1]}.incomplete"
    while not (part.exists() and part.stat().st_size > 1 << 20):
        assert child.poll() is None, "done before it could be killed: use a larger model"
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have, before, hub.pause = part.stat().st_size, len(hub.seen), 0.0
    out = run("pull", "org/shards")
    whole("org/shards", out.stdout.strip(), shards)
    storage = [s for s in hub.seen[before:] if "/storage/" in s[1]]
    assert storage == [("GET", f"/storage/{second[1]}", f"bytes={have}-")], storage
    print(f"kill -9 at {have} of {len(second[0])} bytes of the second shard, then only the rest came")

    # Both at once.
    shutil.rmtree(home / "hf")
    hub.pause, before = 0.005, len(hub.seen)
    code = "from huggingface_hub import *; snapshot_download('org/shards')"
    both = [subprocess.Popen([ferrum, "pull", "org/shards"], env=env, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            for _ in range(3)] + [subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)]
    paths = [child.communicate(timeout=300)[0].strip() for child in both]
    assert all(child.returncode == 0 for child in both)
    whole("org/shards", paths[0], shards)
    times = [sum(s[0] == "GET" and s[1] == f"/storage/{f[1]}" for s in hub.seen[before:]) for f in shards.values() if f[2]]
    assert max(times) == 1, times
    print("four programs at once: each file was downloaded once")
    shutil.rmtree(home)


main()
