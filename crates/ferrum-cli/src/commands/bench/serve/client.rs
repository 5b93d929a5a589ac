//! One streamed request: when its tokens came.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::first_model;
use crate::args::BenchServeArgs;
use crate::config::Config;
use crate::exit::UsageError;

/// Longest line of a stream that is read; an event carries a token or a few.
const LINE_LIMIT: u64 = 1 << 20;

/// When the tokens of an answer came, or why they did not.
pub type Outcome = Result<Sample, String>;

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Sample {
    /// From sending to the first text.
    pub ttft: Duration,
    /// From sending to the end.
    pub total: Duration,
    /// Between one piece of text and the next.
    pub gaps: Vec<Duration>,
    /// Tokens that the server counted.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

/// A server and how it is asked.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
    /// What is the same in all requests.
    body: Value,
    chat: bool,
}

/// What is read of an event.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl Client {
    /// Asks the server for its first model where none is named.
    pub fn new(args: &BenchServeArgs, config: &Config) -> Result<Self> {
        let url = args.url.trim_end_matches('/').trim_end_matches("/v1").to_string();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(UsageError(format!("--url {url}: not an http or https address")).into());
        }
        let key = match &config.api_key {
            Some(key) => {
                Some(key.clone().into_string().map_err(|_| anyhow!("FERRUM_API_KEY is no text"))?)
            }
            None => None,
        };
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(args.timeout.into())))
            // Each request on a connection of its own, as from clients that know nothing of one
            // another.
            .max_idle_connections(0)
            .user_agent(concat!("ferrum/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let mut client = Client { agent, url, key, body: json!({}), chat: args.chat };
        let model = match &args.model {
            Some(model) => model.clone(),
            None => client.first_model()?,
        };
        client.body = json!({
            "model": model, "temperature": 0, "stream": true,
            "stream_options": {"include_usage": true},
        });
        if !args.may_stop {
            client.body["ignore_eos"] = true.into();
        }
        Ok(client)
    }

    fn first_model(&self) -> Result<String> {
        let mut request = self.agent.get(format!("{}/v1/models", self.url));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().with_context(|| format!("cannot reach {}", self.url))?;
        let text = read_text(&mut response)?;
        match response.status().as_u16() {
            200 => first_model(&text),
            status => bail!("{}/v1/models: {}", self.url, refusal(status, &text)),
        }
    }

    /// Sends a prompt and reads the answer to its end.
    pub fn ask(&self, prompt: &str, max_tokens: u32) -> Outcome {
        self.try_ask(prompt, max_tokens).map_err(|error| format!("{error:#}"))
    }

    fn try_ask(&self, prompt: &str, max_tokens: u32) -> Result<Sample> {
        let mut body = self.body.clone();
        body["max_tokens"] = max_tokens.into();
        let route = match self.chat {
            true => {
                body["messages"] = json!([{"role": "user", "content": prompt}]);
                "chat/completions"
            }
            false => {
                body["prompt"] = prompt.into();
                "completions"
            }
        };
        let mut request = self
            .agent
            .post(format!("{}/v1/{route}", self.url))
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let start = Instant::now();
        let mut response = request.send(body.to_string())?;
        let status = response.status().as_u16();
        if status != 200 {
            bail!(refusal(status, &read_text(&mut response)?));
        }
        read_stream(BufReader::new(response.into_body().into_reader()), start)
    }
}

/// Reads server-sent events up to `[DONE]`.
fn read_stream(mut lines: impl BufRead, start: Instant) -> Result<Sample> {
    let (mut first, mut last, mut gaps, mut usage) = (None, start, Vec::new(), None);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(LINE_LIMIT).read_until(b'\n', &mut line)?;
        if read == 0 {
            bail!("the stream ended before its end");
        }
        let Some(data) = line.strip_prefix(b"data:") else { continue };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            break;
        }
        let event: Event = serde_json::from_slice(data).context("an event that is not readable")?;
        if let Some(error) = event.error {
            bail!("an error within the stream: {error}");
        }
        if event.choices.iter().any(Choice::has_text) {
            let now = Instant::now();
            match first {
                None => first = Some(now - start),
                Some(_) => gaps.push(now - last),
            }
            last = now;
        }
        usage = event.usage.or(usage);
    }
    let usage = usage.context("the server counted no tokens")?;
    Ok(Sample {
        ttft: first.context("an answer without text")?,
        total: start.elapsed(),
        gaps,
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0),
        completion_tokens: usage.completion_tokens,
    })
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self.delta.as_ref();
        let texts = [
            self.text.as_ref(),
            delta.and_then(|d| d.content.as_ref()),
            delta.and_then(|d| d.reasoning_content.as_ref()),
        ];
        texts.iter().flatten().any(|text| !text.is_empty())
    }
}

fn read_text(response: &mut ureq::http::Response<ureq::Body>) -> Result<String> {
    Ok(response.body_mut().with_config().limit(LINE_LIMIT).read_to_string()?)
}

/// A status with the message of OpenAI's error object, or with the beginning of what else came.
fn refusal(status: u16, text: &str) -> String {
    let message = serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|value| Some(value["error"]["message"].as_str()?.to_string()))
        .unwrap_or_else(|| text.chars().take(200).collect());
    format!("status {status}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = r#"data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 5}}}"#;

    fn read(events: &[&str]) -> Result<Sample> {
        let text: String = events.iter().map(|e| e.replace('\n', " ") + "\n\n").collect();
        read_stream(text.as_bytes(), Instant::now())
    }

    #[test]
    fn a_stream_is_read_to_its_end() {
        let sample = read(&[
            ": keep-alive",
            r#"data: {"choices": [{"delta": {"role": "assistant"}}]}"#,
            r#"data: {"choices": [{"text": "a"}]}"#,
            r#"data: {"choices": [{"text": ""}]}"#,
            r#"data: {"choices": [{"delta": {"content": "b"}}]}"#,
            r#"data: {"choices": [{"delta": {"reasoning_content": "c"}}]}"#,
            USAGE,
            "data: [DONE]",
        ])
        .unwrap();
        assert_eq!(sample.gaps.len(), 2);
        let counts = [sample.prompt_tokens, sample.cached_tokens, sample.completion_tokens];
        assert_eq!(counts, [7, 5, 3]);
        assert!(sample.ttft <= sample.total);
    }

    #[test]
    fn a_stream_that_is_not_whole_is_an_error() {
        let text = r#"data: {"choices": [{"text": "a"}]}"#;
        for (events, why) in [
            (&[text, USAGE][..], "before its end"),
            (&[text, "data: [DONE]"], "no tokens"),
            (&[USAGE, "data: [DONE]"], "without text"),
            (&[text, r#"data: {"error": {"message": "late"}}"#, "data: [DONE]"], "late"),
            (&["data: {"], "not readable"),
        ] {
            assert!(format!("{:#}", read(events).unwrap_err()).contains(why), "{events:?}");
        }
    }

    #[test]
    fn refusals_are_short() {
        let error = r#"{"error": {"message": "too long"}}"#;
        assert_eq!(refusal(400, error), "status 400: too long");
        assert_eq!(refusal(500, &"x".repeat(999)).len(), "status 500: ".len() + 200);
    }
}
