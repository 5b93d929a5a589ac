// A stand-in for the server: it serves the page as ferrum-server does and answers by the words of
// the last message.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const TYPES = { html: "text/html", css: "text/css", js: "text/javascript" };

export const MARKDOWN = [
  "# Title\n\nSome **bold** and *soft* words, `code <b>`, and ",
  "[a link](https://example.org/x) but [no link](javascript:alert(1)).\n\n",
  "<img src=x onerror=\"window.hacked = 1\"><script>window.hacked = 1</script>\n\n",
  "1. one\n2. two\n   - within\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n",
  "```rust\nfn main() {\n    println!(\"<i>&amp;\");\n}\n```\n\n> quoted\n\nThe end.",
];

function chunk(delta, rest = {}) {
  const choices = [{ index: 0, delta, finish_reason: rest.reason ?? null }];
  return `data: ${JSON.stringify({ object: "chat.completion.chunk", choices, usage: rest.usage })}\r\n\r\n`;
}

/** Starts a stub; `key`: it wants this API key. */
export async function stub(folder, key) {
  const seen = { requests: [], closed: 0 };
  const server = createServer((request, response) => handle(request, response, { folder, key, seen }));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  return { url, seen, close: () => (server.closeAllConnections(), server.close()) };
}

function handle(request, response, { folder, key, seen }) {
  const path = request.url === "/" ? "index.html" : request.url.match(/^\/web\/([\w.]+)$/)?.[1];
  if (path) {
    const type = TYPES[path.split(".").pop()];
    const policy = readFileSync(join(folder, "csp.txt"), "utf8").trim();
    response.writeHead(200, { "content-type": `${type}; charset=utf-8`, "content-security-policy": policy });
    return response.end(readFileSync(join(folder, path)));
  }
  if (key && request.headers.authorization !== `Bearer ${key}`) return fail(response, 401, "an API key is needed");
  if (request.url === "/v1/models") return json(response, { data: [{ id: "first" }, { id: "second" }] });
  if (request.url === "/metrics") return response.end("# HELP x\nferrum_requests_running{model=\"first\"} 2\nferrum_requests_running{model=\"second\"} 0\nferrum_requests_waiting{model=\"first\"} 1\nferrum_requests_waiting{model=\"second\"} 0\n");
  let body = "";
  request.on("data", (data) => (body += data));
  request.on("end", () => {
    const asked = JSON.parse(body);
    seen.requests.push(asked);
    response.on("close", () => response.writableFinished || (seen.closed += 1));
    answer(response, asked.messages.at(-1).content);
  });
}

const json = (response, value) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));

function fail(response, status, message, headers = {}) {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify({ error: { message, type: "x", code: null } }));
}

const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));

async function answer(response, words) {
  if (words.includes("refuse")) return fail(response, 429, "too many <requests>", { "retry-after": "3" });
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(chunk({ role: "assistant", content: "" }));
  if (words.includes("endless")) {
    for (let n = 0; !response.destroyed; n++) {
      response.write(chunk({ content: `word${n} ` }));
      await pause(20);
    }
    return;
  }
  if (words.includes("break")) {
    response.write(chunk({ content: "half" }));
    return response.end(`data: ${JSON.stringify({ error: { message: "the engine broke" } })}\n\n`);
  }
  if (words.includes("cut")) {
    response.write(chunk({ content: "cut" }));
    return response.end();
  }
  if (words.includes("think")) response.write(chunk({ reasoning_content: "Let me think." }));
  if (words.includes("tool")) {
    response.write(chunk({ tool_calls: [{ index: 0, function: { name: "add", arguments: "{\"a\":" } }] }));
    response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: "1}" } }] }));
  }
  for (const text of MARKDOWN) {
    response.write(": keep-alive\n\n");
    // Cut within an event and within characters, as networks do.
    const data = Buffer.from(chunk({ content: text }));
    response.write(data.subarray(0, 31));
    await pause(60);
    response.write(data.subarray(31));
  }
  response.write(chunk({}, { reason: "stop" }));
  response.write(chunk({}, { usage: { prompt_tokens: 3, completion_tokens: 77, total_tokens: 80 } }));
  response.end("data: [DONE]\n\n");
}
