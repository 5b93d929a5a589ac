// The server's API: models, answers as they stream, figures.

/** An answer of the server that is no success. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(key) {
  const all = { "content-type": "application/json" };
  if (key) all.authorization = `Bearer ${key}`;
  return all;
}

async function check(response) {
  if (response.ok) return response;
  const text = await response.text();
  let message = text || response.statusText;
  try {
    message = JSON.parse(text).error.message ?? message;
  } catch {
    // Not the API's own error, such as one of a proxy.
  }
  const wait = response.headers.get("retry-after");
  if (wait) message += ` (try again in ${wait} s)`;
  throw new ApiError(response.status, message.slice(0, 2000));
}

/** The names of the models. */
export async function models(key) {
  const response = await check(await fetch("/v1/models", { headers: headers(key) }));
  return (await response.json()).data.map((model) => model.id);
}

/** Requests that run and that wait, or null where the server does not say. */
export async function queue(key) {
  const response = await fetch("/metrics", { headers: headers(key) });
  if (!response.ok) return null;
  const text = await response.text();
  // A line for each model.
  const value = (name) => {
    const lines = [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)`, "gm"))];
    return lines.length ? lines.reduce((sum, line) => sum + Number(line[1]), 0) : NaN;
  };
  const [running, waiting] = [value("ferrum_requests_running"), value("ferrum_requests_waiting")];
  return Number.isNaN(running) || Number.isNaN(waiting) ? null : { running, waiting };
}

/** The events of a stream (server-sent events), each its data. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += value ?? "";
    // A line may end in \n, \r\n or \r, and \r at the end may be half of one.
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    text = done ? "" : lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
    if (done) return;
  }
}

/** Asks for an answer and gives its chunks until it ends. */
export async function* chat(request, key, signal) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const options = { method: "POST", headers: headers(key), body, signal };
  const response = await check(await fetch("/v1/chat/completions", options));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(500, chunk.error.message ?? "the answer broke off");
    yield chunk;
  }
  throw new ApiError(500, "the answer broke off: the connection ended early");
}
