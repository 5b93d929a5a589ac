//! Time of grammars on the vocabulary of a real model: `cargo bench -p ferrum-engine --bench mask
//! -- MODEL.gguf`. Tokens are drawn at random from each mask.

use std::time::{Duration, Instant};

use ferrum_engine::{
    ConstraintCompiler, Grammar,
    constraint::{CompileLimits, TokenTable},
};
use ferrum_models::{gguf::Gguf, tokenizer::Tokenizer};
use serde_json::json;

fn main() {
    let Some(path) = std::env::args().skip(1).find(|arg| !arg.starts_with("--")) else {
        println!("mask: no model was given");
        return;
    };
    let file = Gguf::open(path.as_ref()).expect("a model");
    let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
    let table = TokenTable::from(&tokenizer);
    let start = Instant::now();
    let limits = CompileLimits { kept: 0, ..Default::default() };
    let compiler = ConstraintCompiler::new(&table, limits).expect("a trie");
    println!("{} tokens, trie in {:?}", table.tokens.len(), start.elapsed());
    let person = json!({"type": "object", "properties": {"name": {"type": "string"},
        "age": {"type": "integer"}, "address": {"type": "object", "properties":
        {"street": {"type": "string", "maxLength": 40}, "zip": {"type": "string",
        "pattern": "^[0-9]{5}$"}}, "required": ["street", "zip"]}, "tags": {"type": "array",
        "items": {"enum": ["a", "b", "c"]}}}, "required": ["name", "age", "address", "tags"]});
    let grammars = [
        ("object", Grammar::JsonObject),
        ("schema", Grammar::JsonSchema(person)),
        ("hostile", Grammar::Regex("(.*a){20}(.*b){20}(.*c){20}".into())),
        ("regex", Grammar::Regex(r"[A-Z][a-z]+ ([0-9]{1,3}\.){3}[0-9]{1,3} .{0,80}".into())),
    ];
    for (name, grammar) in grammars {
        let start = Instant::now();
        let constraint = compiler.compile(&grammar).expect("a grammar");
        let compiled = start.elapsed();
        let mut times = Vec::new();
        let mut random = 1_u64;
        while times.len() < 3000 {
            let mut state = constraint.start(true);
            for _ in 0..200 {
                let start = Instant::now();
                let mask = state.mask();
                let Ok(mask) = mask else { break };
                times.push(start.elapsed());
                let allowed: Vec<u32> =
                    (0..table.tokens.len() as u32).filter(|&token| mask.allows(token)).collect();
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let token = allowed[(random >> 33) as usize % allowed.len()];
                if table.end_of_generation.contains(&token) {
                    break;
                }
                let start = Instant::now();
                state.commit(token).expect("an allowed token");
                *times.last_mut().expect("one") += start.elapsed();
                if state.is_complete() {
                    break;
                }
            }
        }
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        let (half, most, max) = (at(0.5), at(0.99), at(1.0));
        println!(
            "{name}: compiled in {compiled:?}; a token: mean {mean:?}, median {half:?}, 99 % {most:?}, max {max:?}"
        );
    }
}
