//! The form that the text of an answer must have, in the words of OpenAI, llama-server and vLLM.

use ferrum_engine::Grammar;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};

/// Texts of `structured_outputs.choice`, at most.
const MAX_CHOICES: usize = 1000;

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With `json_schema`.
    #[serde(default)]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// A schema with its name.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct JsonSchemaFormat {
    /// For bookkeeping.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The schema.
    pub schema: Option<Value>,
    /// Schemas are always enforced.
    pub strict: Option<bool>,
}

/// vLLM's way to say it: one of these.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct StructuredOutputs {
    /// A JSON schema.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// A regular expression that the whole answer matches.
    pub regex: Option<String>,
    /// The answer is one of these texts.
    pub choice: Option<Vec<String>>,
    /// A grammar in GBNF if it has a rule `root ::=`, and in Lark otherwise.
    pub grammar: Option<String>,
}

/// What an answer must be, and the field that says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The grammar.
    pub grammar: Grammar,
    /// The name of the field.
    pub param: &'static str,
}

/// All fields of a request that may say it.
#[derive(Debug, Clone, Default)]
pub struct FormRequest {
    /// OpenAI's.
    pub response_format: Option<ResponseFormat>,
    /// llama-server's: GBNF.
    pub grammar: Option<String>,
    /// llama-server's: a JSON schema.
    pub json_schema: Option<Value>,
    /// vLLM's.
    pub structured_outputs: Option<StructuredOutputs>,
}

impl Form {
    /// The form of an answer, if any; a request says it once.
    pub fn new(request: FormRequest) -> ApiResult<Option<Form>> {
        let said = [
            ("response_format", request.response_format.map(json_grammar).transpose()?.flatten()),
            ("grammar", request.grammar.filter(|g| !g.is_empty()).map(Grammar::Gbnf)),
            ("json_schema", request.json_schema.map(Grammar::JsonSchema)),
            ("structured_outputs", request.structured_outputs.map(structured).transpose()?),
        ];
        let mut forms = said
            .into_iter()
            .filter_map(|(param, grammar)| grammar.map(|grammar| Form { grammar, param }));
        let (first, second) = (forms.next(), forms.next());
        match (first, second) {
            (Some(first), Some(second)) => {
                let message = format!("{} and {} both give a form", first.param, second.param);
                Err(ApiError::field(second.param, message))
            }
            (first, _) => Ok(first),
        }
    }
}

/// The grammar of a format; none for text.
fn json_grammar(format: ResponseFormat) -> ApiResult<Option<Grammar>> {
    match (format.kind.as_str(), format.json_schema) {
        ("text", None) => Ok(None),
        ("json_object", None) => Ok(Some(Grammar::JsonObject)),
        ("json_schema", Some(JsonSchemaFormat { schema: Some(schema), .. })) => {
            Ok(Some(Grammar::JsonSchema(schema)))
        }
        ("json_schema", _) => {
            let message = "response_format.json_schema.schema is missing";
            Err(ApiError::field("response_format.json_schema", message))
        }
        ("text" | "json_object", Some(_)) => {
            let message = "json_schema belongs to the type json_schema";
            Err(ApiError::field("response_format.json_schema", message))
        }
        (other, _) => Err(ApiError::unsupported("response_format.type", other)),
    }
}

fn structured(outputs: StructuredOutputs) -> ApiResult<Grammar> {
    let refuse = |message: &str| Err(ApiError::field("structured_outputs", message));
    let StructuredOutputs { json, json_object, regex, choice, grammar } = outputs;
    match (json, json_object.filter(|&wanted| wanted), regex, choice, grammar) {
        (Some(schema), None, None, None, None) => Ok(Grammar::JsonSchema(schema)),
        (None, Some(_), None, None, None) => Ok(Grammar::JsonObject),
        (None, None, Some(regex), None, None) => Ok(Grammar::Regex(regex)),
        (None, None, None, Some(texts), None) if (1..=MAX_CHOICES).contains(&texts.len()) => {
            Ok(Grammar::OneOf(texts))
        }
        (None, None, None, Some(_), None) => {
            refuse(&format!("choice takes 1 to {MAX_CHOICES} texts"))
        }
        (None, None, None, None, Some(grammar)) => Ok(match is_gbnf(&grammar) {
            true => Grammar::Gbnf(grammar),
            false => Grammar::Lark(grammar),
        }),
        _ => refuse("give one of json, json_object, regex, choice and grammar"),
    }
}

/// Lark has no `::=`.
fn is_gbnf(grammar: &str) -> bool {
    grammar.lines().any(|line| {
        let rule = line.trim_start().strip_prefix("root");
        rule.is_some_and(|rest| rest.trim_start().starts_with("::="))
    })
}
