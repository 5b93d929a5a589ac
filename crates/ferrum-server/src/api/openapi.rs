//! `GET /openapi.json`: the routes and the fields of their requests, for programs.

use axum::Json;
use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};

use super::anthropic::MessagesRequest;
use super::chat::ChatRequest;
use super::completions::CompletionRequest;
use super::embeddings::EmbeddingsRequest;
use super::params::GenerationParams;
use super::rerank::RerankRequest;
use super::responses::ResponsesRequest;
use super::tokens::{DetokenizeRequest, TemplateRequest, TokenizeRequest};

/// The body of a chat completion: two types read it.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct ChatCompletionBody {
    #[serde(flatten)]
    own: ChatRequest,
    #[serde(flatten)]
    params: GenerationParams,
}

/// The body of a completion.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct CompletionBody {
    #[serde(flatten)]
    own: CompletionRequest,
    #[serde(flatten)]
    params: GenerationParams,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Ferrum", description = "The OpenAI API and its neighbours"),
    components(schemas(
        ChatCompletionBody,
        CompletionBody,
        EmbeddingsRequest,
        MessagesRequest,
        RerankRequest,
        ResponsesRequest,
        TokenizeRequest,
        DetokenizeRequest,
        TemplateRequest,
    ))
)]
struct Schemas;

/// Method, path, what it does, and the schema of its body.
pub const ROUTES: [(&str, &str, &str, Option<&str>); 20] = [
    (
        "post",
        "/v1/chat/completions",
        "The next message of a conversation",
        Some("ChatCompletionBody"),
    ),
    ("post", "/v1/completions", "Texts that are continued", Some("CompletionBody")),
    ("post", "/v1/responses", "OpenAI's Responses API, stateless", Some("ResponsesRequest")),
    ("post", "/v1/messages", "Anthropic's Messages API", Some("MessagesRequest")),
    ("post", "/v1/messages/count_tokens", "Tokens of a conversation", Some("MessagesRequest")),
    ("post", "/v1/embeddings", "Texts to vectors", Some("EmbeddingsRequest")),
    ("post", "/v1/rerank", "Documents by what they say of a query", Some("RerankRequest")),
    ("post", "/rerank", "The same, as llama.cpp's server calls it", Some("RerankRequest")),
    ("get", "/v1/models", "All models", None),
    ("get", "/v1/models/{id}", "One model", None),
    ("post", "/tokenize", "A text or a conversation to tokens", Some("TokenizeRequest")),
    ("post", "/detokenize", "Tokens to text", Some("DetokenizeRequest")),
    ("post", "/apply-template", "A conversation to the model's prompt", Some("TemplateRequest")),
    ("get", "/tokenizer_info", "Special tokens and chat template of the first model", None),
    ("get", "/health", "Whether the engine makes progress", None),
    ("get", "/ready", "Whether new requests are welcome", None),
    ("get", "/metrics", "Counters in Prometheus' text format", None),
    ("get", "/openapi.json", "This document", None),
    ("get", "/", "The page: a chat in the browser", None),
    ("get", "/web/app.js", "A part of the page", None),
];

/// The document.
pub fn document() -> Value {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    let mut paths = Map::new();
    for (method, path, summary, schema) in ROUTES {
        let mut operation = json!({
            "summary": summary,
            "responses": {
                "200": {"description": "Done"},
                "default": {"description": "An error object: message, type, param, code"},
            },
        });
        if let Some(schema) = schema {
            let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": reference}}});
        }
        if path.contains("{id}") {
            operation["parameters"] = json!([
                {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}
            ]);
        }
        paths.insert(path.to_string(), json!({method: operation}));
    }
    document["paths"] = paths.into();
    document
}

/// The document as a route.
pub async fn handle() -> Json<Value> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use super::document;

    /// The fields that clients use most are where they must be.
    #[test]
    fn bodies_are_described() {
        let document = document();
        let text = document.to_string();
        for field in ["messages", "temperature", "max_tokens", "top_logprobs", "input_schema"] {
            assert!(text.contains(&format!("\"{field}\":")), "{field}");
        }
        for reference in text.split("\"$ref\":\"").skip(1) {
            let path = reference.split('"').next().and_then(|r| r.strip_prefix('#')).unwrap();
            assert!(document.pointer(path).is_some(), "{path}");
        }
    }
}
