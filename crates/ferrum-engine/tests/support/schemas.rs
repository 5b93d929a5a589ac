//! Schemas for tests: random ones that can be enforced, and ones that cannot.

use serde_json::{Map, Value, json};

use super::rng::Rng;

/// A random schema, some levels deep.
pub fn random(rng: &mut Rng) -> Value {
    let mut schema = of_depth(rng, 3);
    if rng.one_in(4) {
        let item = json!({"type": "object", "properties": {"value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["value", "next"], "additionalProperties": false});
        schema = json!({"type": "object", "properties": {"list": {"$ref": "#/$defs/node"},
            "rest": schema}, "required": ["list", "rest"], "additionalProperties": false,
            "$defs": {"node": item}});
    }
    schema
}

fn of_depth(rng: &mut Rng, depth: usize) -> Value {
    let kinds = if depth == 0 { 6 } else { 10 };
    match rng.below(kinds) {
        0 => string(rng),
        1 => integer(rng),
        2 => number(rng),
        3 => rng.pick(&[
            json!({"type": "boolean"}),
            json!({"type": "null"}),
            json!({"const": "x\"y"}),
        ]),
        4 => json!({"enum": rng.pick(&[
            vec![json!("red"), json!("green"), json!("blü\n")],
            vec![json!(1), json!(null), json!("a"), json!(true)],
            vec![json!([1, "b"]), json!({"k": "v"}), json!(-2.5)],
        ])}),
        5 => json!({"type": rng.pick(&[
            vec!["string", "null"], vec!["integer", "boolean"], vec!["number", "string", "null"],
        ])}),
        6 => array(rng, depth),
        7 => {
            let options: Vec<_> = (0..=rng.below(3)).map(|_| of_depth(rng, depth - 1)).collect();
            json!({"anyOf": options})
        }
        8 => one_of(rng, depth),
        _ => object(rng, depth),
    }
}

fn string(rng: &mut Rng) -> Value {
    let min = rng.below(6);
    rng.pick(&[
        json!({"type": "string"}),
        json!({"type": "string", "minLength": min, "maxLength": min + 5}),
        json!({"type": "string", "maxLength": 12, "pattern": "^[a-c]+-[0-9]{2}$"}),
        json!({"type": "string", "pattern": "q\\d", "maxLength": 20}),
        json!({"type": "string", "pattern": "^(ab|cd)*$", "minLength": 2}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "ipv4"}),
    ])
}

fn integer(rng: &mut Rng) -> Value {
    let low = rng.below(2000) as i64 - 1000;
    rng.pick(&[
        json!({"type": "integer"}),
        json!({"type": "integer", "minimum": low, "maximum": low + 37}),
        json!({"type": "integer", "exclusiveMinimum": low}),
        json!({"type": "integer", "maximum": low}),
        json!({"type": "integer", "minimum": 0, "maximum": 500, "multipleOf": 7}),
    ])
}

fn number(rng: &mut Rng) -> Value {
    let low = rng.below(100) as f64 / 4.0 - 12.0;
    rng.pick(&[
        json!({"type": "number"}),
        json!({"type": "number", "minimum": low, "maximum": low + 3.5}),
        json!({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 1.0}),
        json!({"type": "number", "minimum": low}),
    ])
}

fn array(rng: &mut Rng, depth: usize) -> Value {
    let min = rng.below(3);
    let items = of_depth(rng, depth - 1);
    let first = of_depth(rng, 0);
    rng.pick(&[
        json!({"type": "array", "items": items}),
        json!({"type": "array", "items": items, "minItems": min, "maxItems": min + 2}),
        json!({"type": "array", "prefixItems": [first, {"type": "boolean"}], "items": items,
            "minItems": min}),
        json!({"type": "array", "prefixItems": [first], "items": false, "minItems": 1}),
    ])
}

/// Options of different types, or objects told apart by a required property.
fn one_of(rng: &mut Rng, depth: usize) -> Value {
    if rng.one_in(2) {
        return json!({"oneOf": [string(rng), integer(rng), {"type": "null"}]});
    }
    let mut option = |name: &str| {
        json!({"type": "object", "properties": {"kind": {"const": name}, "v": of_depth(rng, depth - 1)},
            "required": ["kind", "v"], "additionalProperties": false})
    };
    json!({"oneOf": [option("a"), option("b")]})
}

fn object(rng: &mut Rng, depth: usize) -> Value {
    let names = ["name", "größe", "a b", "q\"", "items", "x1"];
    let mut properties = Map::new();
    let mut required = Vec::new();
    for _ in 0..=rng.below(4) {
        let name = rng.pick(&names);
        properties.insert(name.to_owned(), of_depth(rng, depth - 1));
        if rng.one_in(2) && !required.contains(&name) {
            required.push(name);
        }
    }
    let mut schema = json!({"type": "object", "properties": properties, "required": required});
    let more = rng.pick(&[
        ("additionalProperties", json!(false)),
        ("additionalProperties", json!(false)),
        ("additionalProperties", json!({"type": "integer"})),
        ("patternProperties", json!({"^z_": {"type": "boolean"}})),
        ("title", json!("only words")),
    ]);
    schema[more.0] = more.1;
    schema
}

/// A keyword and a schema that is refused for it.
pub fn refused() -> Vec<(&'static str, Value)> {
    let deep = |schema: Value| json!({"type": "object", "properties": {"a": {"items": schema}}});
    let of = |keyword: &'static str, value: Value| (keyword, deep(json!({keyword: value})));
    vec![
        of("uniqueItems", json!(true)),
        of("contains", json!({})),
        of("minContains", json!(1)),
        of("not", json!({})),
        of("if", json!({})),
        of("dependentRequired", json!({})),
        of("dependentSchemas", json!({})),
        of("dependencies", json!({})),
        of("propertyNames", json!({})),
        of("unevaluatedProperties", json!(false)),
        of("unevaluatedItems", json!(false)),
        of("$dynamicRef", json!("#")),
        of("$recursiveRef", json!("#")),
        of("$anchor", json!("a")),
        of("$id", json!("urn:a")),
        of("$schema", json!("http://json-schema.org/draft-07/schema")),
        of("nullable", json!(true)),
        of("discriminator", json!({})),
        of("x-guidance", json!({"lenient": true})),
        of("no such keyword", json!(1)),
        of("$ref", json!("other.json")),
        of("$ref", json!("#/$defs/none")),
        of("$ref", json!("#/a~1b")),
        of("format", json!("regex")),
        of("multipleOf", json!(1e-300)),
        of("minimum", json!(1e300)),
        of("const", json!(u64::MAX)),
        of("minProperties", json!(2)),
        of("oneOf", json!([{"type": "integer"}, {"type": "number"}])),
        ("$schema", json!({"$schema": "urn:other"})),
        (
            "prefixItems",
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": []}),
        ),
        ("additionalItems", json!({"prefixItems": [], "additionalItems": false})),
        // What a reference leads to is looked at, wherever it lies.
        ("not", json!({"$ref": "#/default/a", "default": {"a": {"not": {}}}})),
    ]
}
