"""The openai and langchain-openai packages against a running server. pip install openai langchain-openai"""
import os

import openai
from langchain_openai import ChatOpenAI

URL = os.environ["TPV_URL"] + "/v1"
QUESTION = "Bob has 2 pens. Day 1: finds 3. How many pens does Bob have now?"
MESSAGES = [{"role": "user", "content": QUESTION}]
client = openai.OpenAI(base_url=URL, api_key="none")

assert [model.id for model in client.models.list()] == ["thinker"]

whole = client.chat.completions.create(model="thinker", messages=MESSAGES, seed=3)
message = whole.choices[0].message
assert message.content and message.reasoning and message.reasoning == message.reasoning_content
assert "think>" not in message.content + message.reasoning
assert 0 < whole.usage.completion_tokens_details.reasoning_tokens < whole.usage.completion_tokens

reasoning = content = ""
for chunk in client.chat.completions.create(
    model="thinker", messages=MESSAGES, seed=3, stream=True, stream_options={"include_usage": True}
):
    assert getattr(chunk, "tpv", None) is None
    if not chunk.choices:
        assert chunk.usage.total_tokens == whole.usage.total_tokens
        continue
    reasoning += getattr(chunk.choices[0].delta, "reasoning", None) or ""
    content += chunk.choices[0].delta.content or ""
assert (reasoning, content) == (message.reasoning, message.content)

tpv = {"tpv": {"progress": True, "policy": "budget:12"}}
seen = [chunk.tpv for chunk in client.chat.completions.create(model="thinker", messages=MESSAGES, stream=True, extra_body=tpv) if getattr(chunk, "tpv", None)]
assert any(it.get("progress") for it in seen) and seen[-1]["summary"]["thinking_tokens"] <= 16, seen[-1]

text = client.completions.create(model="thinker", prompt="Bob has 2 pens.\n<think>\n", max_tokens=5)
assert text.usage.completion_tokens == 5 and text.choices[0].finish_reason == "length"

for error, extra in [
    (openai.BadRequestError, {"temperature": -1}),
    (openai.NotFoundError, {"model": "gpt-5"}),
]:
    try:
        client.chat.completions.create(**({"model": "thinker", "messages": MESSAGES} | extra))
    except error as refused:
        assert refused.param in extra, refused
    else:
        raise AssertionError(extra)

chat = ChatOpenAI(base_url=URL, api_key="none", model="thinker", seed=3)
assert chat.invoke(QUESTION).content == message.content
assert "".join(part.content for part in chat.stream(QUESTION)) == message.content
