//! Log-probabilities in the two shapes of the OpenAI API.

use ferrum_engine::TokenLogprobs;
use serde_json::{Map, Value, json};

use crate::model::Model;

/// What stands for minus infinity, which JSON does not have; the OpenAI API's own choice.
const LEAST: f32 = -9999.0;

fn number(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LEAST }
}

/// An entry of a chat completion's `logprobs.content`.
pub fn chat_entry(model: &Model, logprobs: &TokenLogprobs) -> Value {
    let entry = |token: u32, logprob: f32| {
        let bytes = model.tokenizer.token_bytes(token).unwrap_or_default();
        json!({
            "token": model.tokenizer.token_text(token).unwrap_or_default(),
            "logprob": number(logprob),
            "bytes": &*bytes,
        })
    };
    let mut value = entry(logprobs.token, logprobs.logprob);
    value["top_logprobs"] = logprobs.top.iter().map(|&(token, p)| entry(token, p)).collect();
    value
}

/// The `logprobs` of a completion, token by token.
#[derive(Debug, Default)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Value>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token, whose text begins at `offset` of the choice's text. `logprobs` is `None` for
    /// the first token of a prompt.
    pub fn push(
        &mut self,
        model: &Model,
        token: u32,
        logprobs: Option<&TokenLogprobs>,
        offset: usize,
    ) {
        self.tokens.push(model.token_name(token));
        self.token_logprobs.push(logprobs.map(|l| number(l.logprob)));
        self.top_logprobs.push(logprobs.map(|l| {
            // The token itself is always there, also where it is not among the likeliest.
            let all = l.top.iter().copied().chain([(l.token, l.logprob)]);
            let map: Map<String, Value> =
                all.map(|(id, p)| (model.token_name(id), json!(number(p)))).collect();
            Value::Object(map)
        }));
        self.text_offset.push(offset);
    }

    /// The object.
    pub fn into_json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
