//! The fields that say how an answer is generated, shared by the routes that generate.

use std::collections::BTreeMap;

use ferrum_engine::{Request, SamplingParams, StopConditions};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::form::{Form, FormRequest, ResponseFormat, StructuredOutputs};
use crate::auth::Tenant;
use crate::error::{ApiError, ApiResult};

/// Stop strings of a request, at most.
const MAX_STOPS: usize = 32;

/// Bytes of a stop string, at most: text that may belong to one is looked through again with each
/// token.
const MAX_STOP_BYTES: usize = 1024;

/// Entries of `logit_bias`, at most (as in the OpenAI API).
const MAX_BIASES: usize = 1024;

/// How an answer is generated, in the names of the OpenAI API and, beyond it, of vLLM and
/// llama-server.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct GenerationParams {
    /// The model.
    pub model: Option<String>,
    /// Answers to each prompt.
    pub n: Option<usize>,
    /// Whether the answer comes piece by piece.
    pub stream: Option<bool>,
    /// Choices about the stream.
    pub stream_options: Option<StreamOptions>,
    /// Texts that end the answer.
    pub stop: Option<OneOrMany<String>>,
    /// Tokens that end the answer.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Makes the draws repeatable; -1 does not.
    pub seed: Option<i64>,
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingParams::top_k`]; 0 and -1: off.
    pub top_k: Option<i64>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingParams::typical_p`].
    pub typical_p: Option<f32>,
    /// See [`SamplingParams::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// See [`SamplingParams::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// See [`SamplingParams::repetition_penalty`].
    #[serde(alias = "repeat_penalty")]
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingParams::penalty_last_n`]; -1: all.
    pub repeat_last_n: Option<i64>,
    /// Added to the logits of tokens; the keys are their ids.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// Keeps only this many of the last tokens of a prompt; -1: as many as fit (vLLM).
    pub truncate_prompt_tokens: Option<i64>,
    /// Goes on after the model's own end.
    pub ignore_eos: Option<bool>,
    /// Divides the prefix cache further than keys do.
    pub cache_salt: Option<String>,
    /// Text of this grammar, in GBNF.
    pub grammar: Option<String>,
    /// JSON of this schema.
    #[schema(value_type = Option<Object>)]
    pub json_schema: Option<Value>,
    /// The same and more in other words.
    pub structured_outputs: Option<StructuredOutputs>,
}

/// Choices about a stream.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct StreamOptions {
    /// A last event with the counts.
    pub include_usage: Option<bool>,
    /// Padding against traffic analysis; only off is supported.
    pub include_obfuscation: Option<bool>,
}

/// One value, or a list.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// As a list.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

impl GenerationParams {
    /// Whether the answer is streamed.
    pub fn is_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether a stream ends with the counts.
    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }

    /// Answers to each prompt, of which there are `prompts`; `limit` holds for all together.
    pub fn choices(&self, prompts: usize, limit: usize) -> ApiResult<usize> {
        let n = self.n.unwrap_or(1);
        if n == 0 {
            return Err(ApiError::field("n", "n must be at least 1"));
        }
        match n.checked_mul(prompts) {
            Some(all) if all <= limit => Ok(n),
            _ => {
                let message = format!("{prompts} prompts with n = {n}: at most {limit} answers");
                Err(ApiError::field("n", message))
            }
        }
    }

    /// The form of the answers, which routes with a `response_format` may also say there.
    pub fn form(&mut self, response_format: Option<ResponseFormat>) -> ApiResult<Option<Form>> {
        Form::new(FormRequest {
            response_format,
            grammar: self.grammar.take(),
            json_schema: self.json_schema.take(),
            structured_outputs: self.structured_outputs.take(),
        })
    }

    /// The engine's request for `prompt`; `choice` counts the answers to it.
    pub fn request(&self, prompt: Vec<u32>, choice: usize, tenant: &Tenant) -> ApiResult<Request> {
        Ok(Request {
            prompt,
            sampling: self.sampling(choice)?,
            stop: self.stop_conditions()?,
            max_tokens: self.max_tokens,
            cache_salt: tenant.cache_salt(self.cache_salt.as_deref()),
            ..Request::default()
        })
    }

    /// Tokens that a prompt may have so that its answer fits the context.
    pub fn room(&self, context: usize) -> usize {
        context.saturating_sub(self.max_tokens.unwrap_or(1).max(1))
    }

    /// What is kept of a prompt: all, unless the request says otherwise.
    pub fn truncated(&self, mut prompt: Vec<u32>, context: usize) -> ApiResult<Vec<u32>> {
        let keep = match self.truncate_prompt_tokens {
            None => return Ok(prompt),
            Some(-1) => self.room(context).max(1),
            Some(count) => {
                usize::try_from(count).ok().filter(|&count| count > 0).ok_or_else(|| {
                    let field = "truncate_prompt_tokens";
                    ApiError::field(field, format!("{field} must be -1 or at least 1"))
                })?
            }
        };
        prompt.drain(..prompt.len().saturating_sub(keep));
        Ok(prompt)
    }

    /// Checks what no other check sees.
    pub fn check(&self) -> ApiResult<()> {
        if self.stream_options.is_some() && !self.is_stream() {
            let message = "stream_options is for streams only";
            return Err(ApiError::field("stream_options", message));
        }
        let padded = self.stream_options.as_ref().and_then(|o| o.include_obfuscation);
        if padded == Some(true) {
            return Err(ApiError::unsupported("stream_options.include_obfuscation", "true"));
        }
        Ok(())
    }

    fn sampling(&self, choice: usize) -> ApiResult<SamplingParams> {
        let default = SamplingParams::default();
        let count = |field: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => usize::try_from(value)
                .map(Some)
                .map_err(|_| ApiError::field(field, format!("{field} must be at least -1"))),
        };
        Ok(SamplingParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: count("top_k", self.top_k)?.unwrap_or(0),
            typical_p: self.typical_p.unwrap_or(default.typical_p),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            // The OpenAI API has no window: "in the text so far".
            penalty_last_n: count("repeat_last_n", self.repeat_last_n)?,
            logit_bias: self.biases()?,
            seed: match self.seed {
                None | Some(-1) => None,
                // The answers to one prompt are to differ.
                Some(seed) => Some((seed as u64).wrapping_add(choice as u64)),
            },
        })
    }

    fn biases(&self) -> ApiResult<Vec<(u32, f32)>> {
        let Some(biases) = &self.logit_bias else { return Ok(Vec::new()) };
        if biases.len() > MAX_BIASES {
            let message = format!("logit_bias has {} entries; at most {MAX_BIASES}", biases.len());
            return Err(ApiError::field("logit_bias", message));
        }
        let entry = |(key, &bias): (&String, &f32)| match key.parse() {
            Ok(token) => Ok((token, bias)),
            Err(_) => {
                let message = format!("logit_bias: {key:?} is not a token id");
                Err(ApiError::field("logit_bias", message))
            }
        };
        biases.iter().map(entry).collect()
    }

    fn stop_conditions(&self) -> ApiResult<StopConditions> {
        let strings = self.stop.clone().map(OneOrMany::into_vec).unwrap_or_default();
        let tokens = self.stop_token_ids.clone().unwrap_or_default();
        if strings.len() > MAX_STOPS || tokens.len() > MAX_STOPS {
            return Err(ApiError::field("stop", format!("at most {MAX_STOPS} stops")));
        }
        if strings.iter().any(|string| string.len() > MAX_STOP_BYTES) {
            let message = format!("a stop string may have {MAX_STOP_BYTES} bytes");
            return Err(ApiError::field("stop", message));
        }
        Ok(StopConditions { strings, tokens, ignore_eos: self.ignore_eos == Some(true) })
    }
}
