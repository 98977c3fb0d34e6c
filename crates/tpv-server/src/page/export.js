/* A thought as a file: its trace as JSON or SVG, its request as a curl command. */

import { hasKey } from "./api.js";
import { make } from "./dom.js";
import { picture } from "./trace.js";

export function exportLane(lane, button) {
  const kind = button.dataset.export;
  if (kind === "json") return download("trace.json", "application/json", JSON.stringify(record(lane), null, 1));
  if (kind === "svg") return download("trace.svg", "image/svg+xml", picture(lane.find(".trace")));
  const command = curl(lane.body);
  const save = () => download("request.sh", "text/plain", `${command}\n`);
  if (!navigator.clipboard) return save();
  navigator.clipboard.writeText(command).then(() => {
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "curl"; }, 1500);
  }, save);
}

function record({ body, steps, summary, pieces, answer }) {
  return { version: 1, request: body, steps, summary, thought: pieces.map(([text]) => text).join(""), answer };
}

function curl(body) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = hasKey() ? " -H \"Authorization: Bearer $TPV_API_KEY\"" : "";
  return `curl -N ${location.origin}/v1/chat/completions -H 'Content-Type: application/json'${key} -d '${quoted}'`;
}

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
