//! What of a JSON schema can be enforced. The rest is refused by name, never passed over.
//!
//! Enforced are the keywords of [`ENFORCED`], with the meaning of the specification
//! (draft 2020-12 of JSON Schema Validation, sections 6 and 7), and `$ref` within the schema.
//! Annotations and keywords that begin with `x-` are accepted; anything else would change the
//! result and is an error. `format` is checked by its letters: 30 February is a date.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::ConstraintError;

/// Keywords that are enforced.
pub const ENFORCED: &[&str] = &[
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that do not change which values are valid.
const ANNOTATIONS: &[&str] = &[
    "$comment",
    "$defs",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Keywords that only the whole schema may have.
const ROOT_ONLY: &[&str] = &["$id", "$schema", "id"];

/// Keywords with one schema, with a list of schemas, and with schemas by name.
const ONE: &[&str] = &["additionalItems", "additionalProperties", "items"];
const LISTS: &[&str] = &["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const MAPS: &[&str] = &["$defs", "definitions", "patternProperties", "properties"];

/// Drafts, and whether `prefixItems` means something in them.
const DRAFTS: &[(&str, bool)] = &[
    ("http://json-schema.org/draft-07/schema", false),
    ("https://json-schema.org/draft-07/schema", false),
    ("https://json-schema.org/draft/2019-09/schema", false),
    ("https://json-schema.org/draft/2020-12/schema", true),
];

/// Whole numbers beyond this are not exact in double precision.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// How large a schema may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaLimits {
    /// Bytes, as JSON.
    pub bytes: usize,
    /// Values within values.
    pub depth: usize,
    /// Schemas within it.
    pub schemas: usize,
    /// Values of one `enum`.
    pub options: usize,
}

impl Default for SchemaLimits {
    fn default() -> Self {
        SchemaLimits { bytes: 128 << 10, depth: 48, schemas: 5000, options: 1000 }
    }
}

/// Holds `schema` against the limits and against what can be enforced.
pub fn check(schema: &Value, limits: &SchemaLimits) -> Result<(), ConstraintError> {
    // Depth first: everything after it may call itself.
    too_large("values within values", depth(schema, limits.depth), limits.depth)?;
    too_large("bytes", schema.to_string().len(), limits.bytes)?;
    let prefix_items = draft(schema)?;
    let mut check = Check { root: schema, limits, prefix_items, schemas: 0, seen: BTreeSet::new() };
    check.schema(schema, "#")
}

/// Levels of `value`, counted no further than one above `max`.
fn depth(value: &Value, max: usize) -> usize {
    let mut level: Vec<&Value> = vec![value];
    for depth in 0..=max {
        let below: Vec<&Value> = level
            .iter()
            .flat_map(|value| match value {
                Value::Array(items) => items.iter().collect::<Vec<_>>(),
                Value::Object(object) => object.values().collect(),
                _ => Vec::new(),
            })
            .collect();
        if below.is_empty() {
            return depth;
        }
        level = below;
    }
    max + 1
}

/// Whether the draft of the schema knows `prefixItems`.
fn draft(schema: &Value) -> Result<bool, ConstraintError> {
    let Some(named) = schema.get("$schema") else { return Ok(true) };
    let name = named.as_str().unwrap_or_default().trim_end_matches('#');
    let known = DRAFTS.iter().find(|(draft, _)| *draft == name);
    known.map(|(_, prefix_items)| *prefix_items).ok_or_else(|| {
        unsupported("$schema", "#", "drafts 7, 2019-09 and 2020-12 are known".to_owned())
    })
}

struct Check<'a> {
    root: &'a Value,
    limits: &'a SchemaLimits,
    prefix_items: bool,
    schemas: usize,
    /// References that were followed.
    seen: BTreeSet<String>,
}

impl<'a> Check<'a> {
    fn schema(&mut self, schema: &'a Value, place: &str) -> Result<(), ConstraintError> {
        self.schemas += 1;
        too_large("schemas", self.schemas, self.limits.schemas)?;
        let object = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(object) => object,
            _ => return Err(invalid(place, "a schema is an object, true or false")),
        };
        for (keyword, value) in object {
            self.keyword(keyword, value, place)?;
        }
        self.combinations(object, place)?;
        self.parts(object, place)
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &'a Value,
        at: &str,
    ) -> Result<(), ConstraintError> {
        let refuse = |reason: &str| Err(unsupported(keyword, at, reason.to_owned()));
        match keyword {
            "$ref" => self.reference(value, at),
            "uniqueItems" if value == &Value::Bool(false) => Ok(()),
            "enum" => {
                too_large("options", value.as_array().map_or(0, Vec::len), self.limits.options)?;
                exact(keyword, value, at)
            }
            "const" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                exact(keyword, value, at)
            }
            "multipleOf" => match value.as_f64() {
                Some(x) if (1e-6..=1e6).contains(&x) => Ok(()),
                _ => refuse("it must be from 0.000001 to 1000000"),
            },
            "prefixItems" if !self.prefix_items => refuse("the draft in `$schema` has none"),
            _ if ROOT_ONLY.contains(&keyword) && at != "#" => {
                refuse("only the whole schema may have it")
            }
            "x-guidance" => refuse("it is not a keyword"),
            _ if keyword.starts_with("x-")
                || [ENFORCED, ANNOTATIONS, ROOT_ONLY].iter().any(|s| s.contains(&keyword)) =>
            {
                Ok(())
            }
            _ => refuse("it is not supported"),
        }
    }

    /// Keywords that cannot be enforced beside each other.
    fn combinations(&self, schema: &Map<String, Value>, at: &str) -> Result<(), ConstraintError> {
        if schema.contains_key("prefixItems") && schema.contains_key("additionalItems") {
            let reason = "prefixItems goes with items".to_owned();
            return Err(unsupported("additionalItems", at, reason));
        }
        // A name could come twice, and two of the same are one property.
        let least = schema.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        let required = schema.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        if least > required as u64 + 1 {
            let reason = format!("at most one above the {required} required properties can be");
            return Err(unsupported("minProperties", at, reason));
        }
        Ok(())
    }

    /// The schemas within a schema.
    fn parts(&mut self, schema: &'a Map<String, Value>, at: &str) -> Result<(), ConstraintError> {
        for (keyword, value) in schema {
            let place = format!("{at}/{keyword}");
            match value {
                Value::Array(items) if LISTS.contains(&keyword.as_str()) => {
                    for (index, item) in items.iter().enumerate() {
                        self.schema(item, &format!("{place}/{index}"))?;
                    }
                }
                Value::Object(map) if MAPS.contains(&keyword.as_str()) => {
                    for (name, part) in map {
                        self.schema(part, &format!("{place}/{name}"))?;
                    }
                }
                _ if ONE.contains(&keyword.as_str()) => self.schema(value, &place)?,
                _ if LISTS.contains(&keyword.as_str()) || MAPS.contains(&keyword.as_str()) => {
                    return Err(invalid(&place, "it is malformed"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Follows a reference, which may lead where no keyword does.
    fn reference(&mut self, value: &Value, at: &str) -> Result<(), ConstraintError> {
        let refuse = |reason: &str| unsupported("$ref", at, reason.to_owned());
        let target = value.as_str().ok_or_else(|| refuse("it must be a string"))?;
        if target == "#" || !self.seen.insert(target.to_owned()) {
            return Ok(());
        }
        let within = target.strip_prefix("#/").filter(|path| !path.contains(['~', '%']));
        within.ok_or_else(|| refuse("only plain paths within the schema (#/…) are followed"))?;
        let found = self.root.pointer(&target[1..]);
        let found = found.ok_or_else(|| refuse(&format!("nothing is at {target}")))?;
        let definition = ["#/$defs/", "#/definitions/"].iter().find_map(|p| target.strip_prefix(p));
        if definition.is_some_and(|name| !name.contains('/')) {
            // One of the parts of the whole schema.
            return Ok(());
        }
        self.schema(found, target)
    }
}

/// Refuses numbers that double precision does not hold.
fn exact(keyword: &str, value: &Value, at: &str) -> Result<(), ConstraintError> {
    match value {
        Value::Number(number) => {
            let size = number.as_f64().unwrap_or(f64::INFINITY).abs();
            if size <= EXACT && (size == 0.0 || size >= 1e-6) {
                return Ok(());
            }
            Err(unsupported(keyword, at, format!("{number} is out of the range that is exact")))
        }
        Value::Array(items) => items.iter().try_for_each(|item| exact(keyword, item, at)),
        Value::Object(map) => map.values().try_for_each(|item| exact(keyword, item, at)),
        _ => Ok(()),
    }
}

fn too_large(what: &'static str, size: usize, max: usize) -> Result<(), ConstraintError> {
    if size > max { Err(ConstraintError::TooLarge { what, size, max }) } else { Ok(()) }
}

fn unsupported(keyword: &str, place: &str, reason: String) -> ConstraintError {
    ConstraintError::Unsupported { keyword: keyword.into(), place: place.into(), reason }
}

fn invalid(place: &str, what: &str) -> ConstraintError {
    ConstraintError::Invalid { reason: format!("{place}: {what}") }
}
