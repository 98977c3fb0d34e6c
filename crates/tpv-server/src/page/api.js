/* The server's API: requests with the key, and refusals as errors. */

let key = "";

/* The server is not there, or went away in the middle. */
export class Lost extends Error {
  constructor() { super("the connection to the server broke"); }
}

/* Whether the text can be a key: a header holds no other letters. */
export function useKey(text) {
  const usable = /^[ -~]*$/.test(text);
  if (usable) key = text;
  return usable;
}
export function hasKey() { return key !== ""; }

export function get(path) { return reach(path, { headers: headers() }); }

export function post(path, body, signal) {
  return reach(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
}

function reach(path, options) { return fetch(path, options).catch(() => { throw new Lost(); }); }

export async function failure(response) {
  const error = (await response.json().catch(() => null))?.error;
  return Object.assign(new Error(error?.message ?? `the server answered ${response.status}`), { code: error?.code });
}

/* The chunks of a streamed answer, which ends with [DONE]. */
export async function* chunks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", complete = false;
  for (;;) {
    const { value, done } = await reader.read().catch(() => { throw new Lost(); });
    if (done && complete) return;
    if (done) throw new Lost();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    complete ||= lines.includes("data: [DONE]");
    for (const line of lines) if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
  }
}

function headers() {
  const all = { "content-type": "application/json" };
  if (key) all.authorization = `Bearer ${key}`;
  return all;
}
