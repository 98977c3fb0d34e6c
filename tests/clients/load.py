"""Many streaming clients at once. python3 load.py URL CLIENTS SECONDS; needs the standard library alone."""
import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

url, clients, seconds = urlsplit(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
question = "Ivy has 6 stamps. Day 1: finds 4. Day 2: finds 9. Day 3: sells 7. How many stamps does Ivy have now?"
first, between, counts = [], [], {"answers": 0, "busy": 0, "errors": 0}


async def ask(seed):
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = json.dumps({"messages": [{"role": "user", "content": question}], "stream": True, "seed": seed})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    began = last = time.perf_counter()
    tokens, done = 0, False
    writer.write((head + body).encode())
    status = int((await reader.readline()).split()[1])
    while line := await reader.readline():
        now = time.perf_counter()
        if b'"reasoning"' in line or (b'"content":"' in line and b'"role"' not in line):
            (between if tokens else first).append(now - (last if tokens else began))
            tokens, last = tokens + 1, now
        done |= line.startswith(b"data: [DONE]")
    writer.close()
    counts["answers" if done and tokens else "busy" if status == 503 else "errors"] += 1
    return status


async def client(number, end):
    seed = number * 1000
    while time.perf_counter() < end:
        try:
            if await ask(seed) == 503:
                await asyncio.sleep(1)  # as Retry-After says
        except OSError:
            counts["errors"] += 1
        seed += 1


async def main():
    end = time.perf_counter() + seconds
    await asyncio.gather(*(client(number, end) for number in range(clients)))


asyncio.run(main())
at = lambda values, share: round(1000 * sorted(values)[int(share * (len(values) - 1))], 1) if values else None
figures = {name: {"p50_ms": at(values, 0.5), "p95_ms": at(values, 0.95)} for name, values in (("first_token", first), ("between_tokens", between))}
print(json.dumps({"clients": clients, "seconds": seconds, **counts, **figures}))
