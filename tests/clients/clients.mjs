// The openai package for Node against a running server. npm install openai
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.TPV_URL}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "Bob has 2 pens. Day 1: finds 3. How many pens does Bob have now?" }];

const whole = await client.chat.completions.create({ model: "thinker", messages, seed: 3 });
const message = whole.choices[0].message;
assert.ok(message.content && message.reasoning === message.reasoning_content);
assert.ok(!(message.content + message.reasoning).includes("think>"));

let reasoning = "", content = "", seen = 0;
for await (const chunk of await client.chat.completions.create({ model: "thinker", messages, seed: 3, stream: true, tpv: { progress: true } })) {
  reasoning += chunk.choices[0].delta.reasoning ?? "";
  content += chunk.choices[0].delta.content ?? "";
  if (chunk.tpv?.progress != null) seen += 1;
}
assert.equal(reasoning, message.reasoning);
assert.equal(content, message.content);
assert.ok(seen > 10);

await assert.rejects(client.chat.completions.create({ model: "thinker", messages, top_p: 7 }), (error) => error.status === 400 && error.param === "top_p");
