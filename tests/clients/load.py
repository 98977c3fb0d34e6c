"""Many streaming clients at once against a running server on this machine.

    python3 load.py URL CLIENTS SECONDS [PID of the server]

Each client asks, reads its stream to the end and asks again until the time is over; after a 503 it waits a second, as
Retry-After says. Prints one JSON line: answers, 503s, errors; time to the first token and between tokens; and, given the
PID, the server's memory. Needs the standard library alone. The clients share the machine's cores with the server.
"""
import asyncio
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

QUESTION = "Ivy has 6 stamps. Day 1: finds 4. Day 2: finds 9. Day 3: sells 7. How many stamps does Ivy have now?"
PATIENCE_SECS = 120


class Load:
    def __init__(self, url):
        self.url = urlsplit(url)
        self.first, self.between, self.rss_mib = [], [], []
        self.counts = {"answers": 0, "busy": 0, "errors": 0}

    async def ask(self, seed):
        """One request; the status that came back."""
        reader, writer = await asyncio.open_connection(self.url.hostname, self.url.port)
        body = json.dumps({"messages": [{"role": "user", "content": QUESTION}], "stream": True, "seed": seed})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.url.netloc}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        began = last = time.perf_counter()
        tokens, done, retry_after = 0, False, False
        try:
            writer.write((head + body).encode())
            status = int((await reader.readline()).split()[1])
            while line := await reader.readline():
                now = time.perf_counter()
                if b'"reasoning"' in line or (b'"content":"' in line and b'"role"' not in line):
                    (self.between if tokens else self.first).append(now - last)
                    tokens, last = tokens + 1, now
                done |= line.startswith(b"data: [DONE]")
                retry_after |= line.lower().startswith(b"retry-after:")
        finally:
            writer.close()
        honest_refusal = status == 503 and retry_after
        self.counts["answers" if done and tokens else "busy" if honest_refusal else "errors"] += 1
        return status

    async def client(self, number, end):
        seed = number * 1000
        while time.perf_counter() < end:
            try:
                if await asyncio.wait_for(self.ask(seed), PATIENCE_SECS) == 503:
                    await asyncio.sleep(1)
            except (OSError, IndexError, asyncio.TimeoutError):
                self.counts["errors"] += 1
            seed += 1

    async def watch(self, pid):
        while True:
            self.rss_mib.append(memory_mib(pid, "VmRSS"))
            await asyncio.sleep(1)

    async def run(self, clients, seconds, pid):
        end = time.perf_counter() + seconds
        watcher = asyncio.create_task(self.watch(pid)) if pid else None
        await asyncio.gather(*(self.client(number, end) for number in range(clients)))
        if watcher:
            watcher.cancel()


def memory_mib(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith(name))


def quantiles(values):
    at = lambda share: round(1000 * sorted(values)[int(share * (len(values) - 1))], 1) if values else None
    return {"p50_ms": at(0.5), "p95_ms": at(0.95)}


def main():
    url, clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    pid = sys.argv[4] if len(sys.argv) > 4 else None
    load = Load(url)
    asyncio.run(load.run(clients, seconds, pid))
    figures = {"clients": clients, "seconds": seconds, **load.counts}
    figures |= {"first_token": quantiles(load.first), "between_tokens": quantiles(load.between)}
    if pid:
        rss = load.rss_mib
        memory = {"start": rss[0], "at_half": rss[len(rss) // 2], "end": rss[-1], "peak": memory_mib(pid, "VmHWM")}
        figures["memory_mib"] = memory
    print(json.dumps(figures))


main()
