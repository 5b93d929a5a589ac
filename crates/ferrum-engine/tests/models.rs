//! The engine on real arithmetic: synthetic models of each architecture on the CPU backend. Greedy
//! tokens are the same alone, among others, in small chunks and after preemptions.

use std::{collections::BTreeMap, fs, io::BufWriter, path::PathBuf, sync::Arc};

use ferrum_engine::{
    AdmissionError, ConstraintCompiler, Engine, EngineConfig, EngineStats, Event, FinishReason,
    Grammar, Request, SamplingParams, StopConditions,
    constraint::{CompileLimits, Spelling, TokenTable},
};
use ferrum_models::{
    LoadOptions, Runner,
    gguf::Gguf,
    load,
    synth::{PRESETS, SynthSpec},
    tokenizer::Tokenizer,
};
use serde_json::{Value, json};

/// A model of a test's own: a file that is written anew while another test has it mapped is gone.
fn model(preset: &str, test: &str) -> Gguf {
    let name = format!("engine-{test}-{preset}.gguf");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let spec = SynthSpec::preset(preset).expect("a preset");
    let file = BufWriter::new(fs::File::create(&path).expect("a file"));
    spec.write(file).expect("a model").into_inner().expect("written");
    Gguf::open(&path).expect("a readable model")
}

/// Prompts around the block size, the sliding window and the step size.
fn requests() -> Vec<Request> {
    let lengths = [1, 2, 31, 32, 33, 63, 64, 65, 100, 150];
    let prompt = |len: usize| (0..len).map(|i| ((i * i * 31 + len * 7) % 1024) as u32).collect();
    let stop = StopConditions { ignore_eos: true, ..Default::default() };
    let request = |len| Request {
        prompt: prompt(len),
        sampling: SamplingParams::greedy(),
        stop: stop.clone(),
        max_tokens: Some(40),
        ..Default::default()
    };
    lengths.map(request).to_vec()
}

/// The tokens of each request, all added at once.
fn run(runner: Box<dyn Runner>, file: &Gguf, requests: &[Request]) -> Vec<Vec<u32>> {
    run_with(EngineConfig::default(), runner, file, requests).0
}

/// The same with a configuration, and the counters.
fn run_with(
    config: EngineConfig,
    runner: Box<dyn Runner>,
    file: &Gguf,
    requests: &[Request],
) -> (Vec<Vec<u32>>, EngineStats) {
    let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
    let mut engine = Engine::new(runner, Arc::new(tokenizer), config).expect("an engine");
    let mut answers = BTreeMap::new();
    for request in requests {
        answers.insert(engine.add(request.clone()).expect("it fits"), Vec::new());
    }
    while !engine.is_idle() {
        for event in engine.step().expect("a step") {
            if let Event::Text { id, token, .. } = event {
                answers.get_mut(&id).expect("a request").extend(token);
            }
        }
    }
    (answers.into_values().collect(), engine.stats())
}

/// Tiny models with random weights repeat themselves, so that many proposals are right, until they
/// are not.
#[test]
fn greedy_tokens_do_not_depend_on_speculation() {
    let requests = alike();
    let mut accepted = 0;
    for preset in PRESETS {
        let file = model(preset, "speculation");
        let run = |max_draft| {
            let (context, threads, max_samples) = (Some(256), Some(1), Some(30));
            let options =
                LoadOptions { context, threads, max_seqs: 3, max_samples, ..Default::default() };
            let runner = load(&file, &options).expect("a runner");
            run_with(EngineConfig { max_draft, ..Default::default() }, runner, &file, &requests)
        };
        let (plain, with) = (run(0), run(8));
        assert_eq!(plain.0, with.0, "{preset}");
        assert_eq!(plain.1.drafted_tokens, 0);
        accepted += with.1.accepted_tokens;
    }
    assert!(accepted > 0, "no proposal was right");
}

/// Requests that share prefixes of many lengths with each other.
fn alike() -> Vec<Request> {
    let stem: Vec<u32> = (0..150).map(|i| (i * i * 17 + 5) % 1024).collect();
    let mut requests = requests();
    for (n, request) in requests.iter_mut().enumerate() {
        let own = request.prompt.clone();
        request.prompt = stem[..[150, 150, 64, 65, 96, 31, 32, 128, 100, 140][n]].to_vec();
        request.prompt.extend(own.iter().take([1, 1, 40, 3, 0, 9, 1, 20, 33, 2][n]));
    }
    requests
}

/// With prefixes from the cache, computed in other chunks and other batches, tokens are those of
/// an empty cache: at once, and again when all prompts and answers are cached.
#[test]
fn greedy_tokens_do_not_depend_on_the_cache() {
    let requests = alike();
    for preset in PRESETS {
        let file = model(preset, "cache");
        let options = LoadOptions { context: Some(256), threads: Some(1), ..Default::default() };
        let load = |max_seqs, step_tokens, kv_blocks| {
            let options = LoadOptions { max_seqs, step_tokens, kv_blocks, ..options.clone() };
            load(&file, &options).expect("a runner")
        };
        let alone: Vec<_> = requests
            .iter()
            .flat_map(|request| run(load(1, 256, None), &file, std::slice::from_ref(request)))
            .collect();
        let twice = [&requests[..], &requests].concat();
        for (max_seqs, step_tokens, kv_blocks) in [(10, 512, None), (4, 23, Some(14))] {
            let together = run(load(max_seqs, step_tokens, kv_blocks), &file, &twice);
            assert_eq!(together, [&alone[..], &alone].concat(), "{preset}: {max_seqs}");
        }
    }
}

#[test]
fn greedy_tokens_do_not_depend_on_the_batch() {
    let requests = requests();
    for preset in PRESETS {
        let file = model(preset, "batch");
        let options = LoadOptions { context: Some(256), threads: Some(1), ..Default::default() };
        let load = |max_seqs, step_tokens, kv_blocks| {
            let options = LoadOptions { max_seqs, step_tokens, kv_blocks, ..options.clone() };
            load(&file, &options).expect("a runner")
        };
        let alone: Vec<_> = requests
            .iter()
            .flat_map(|request| run(load(1, 256, None), &file, std::slice::from_ref(request)))
            .collect();
        assert!(alone.iter().all(|tokens| tokens.len() == 40));
        for (max_seqs, step_tokens, kv_blocks) in
            [(10, 512, None), (3, 512, None), (10, 17, None), (10, 64, Some(12)), (4, 5, Some(8))]
        {
            let together = run(load(max_seqs, step_tokens, kv_blocks), &file, &requests);
            assert_eq!(together, alone, "{preset}: {max_seqs}, {step_tokens}, {kv_blocks:?}");
        }
    }
}

/// Every architecture's answers to a schema parse, sampled and greedy, alone and in a batch; with
/// random weights the model wants anything but JSON.
#[test]
fn constrained_answers_are_what_they_must_be() {
    let schema = json!({"type": "object", "additionalProperties": false,
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer",
            "minimum": 0, "maximum": 150}, "tags": {"type": "array", "maxItems": 3,
            "items": {"enum": ["a", "b"]}}}, "required": ["name", "age", "tags"]});
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let files = PRESETS.iter().map(|preset| (*preset, model(preset, "constrained"), vec![1, 2, 3]));
    let path = ferrum_hub::testing::fetch_alias("smollm2").expect("the model");
    let real = Gguf::open(&path).expect("a model");
    let question = "A person as JSON: John Smith is 42 years old and has the tags a and b.\n";
    let tokenizer = Tokenizer::from_metadata(real.metadata()).expect("a tokenizer");
    let prompt = tokenizer.encode_text(question);
    for (name, file, prompt) in files.chain([("smollm2", real, prompt)]) {
        for text in constrained(&file, &prompt, &schema) {
            let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(validator.is_valid(&value), "{name}: {text}");
        }
    }
}

/// Some answers of a model to `prompt` within `schema`.
fn constrained(file: &Gguf, prompt: &[u32], schema: &Value) -> Vec<String> {
    let tokenizer = Arc::new(Tokenizer::from_metadata(file.metadata()).expect("a tokenizer"));
    let table = TokenTable::from(tokenizer.as_ref());
    let compiler = ConstraintCompiler::new(&table, CompileLimits::default()).expect("a trie");
    let constraint = compiler.compile(&Grammar::JsonSchema(schema.clone())).expect("a grammar");
    let options = LoadOptions { context: Some(2048), threads: Some(1), ..Default::default() };
    let runner = load(file, &options).expect("a runner");
    let mut engine = Engine::new(runner, tokenizer, EngineConfig::default()).expect("an engine");
    let mut texts = BTreeMap::new();
    for seed in 0..6 {
        let temperature = if seed % 2 == 0 { 0.0 } else { 1.0 };
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: SamplingParams { temperature, seed: Some(seed), ..Default::default() },
            // Weak models love white space.
            max_tokens: Some(1500),
            constraint: Some(constraint.clone()),
            ..Default::default()
        };
        texts.insert(engine.add(request).expect("it fits"), String::new());
    }
    while !engine.is_idle() {
        for event in engine.step().expect("a step") {
            match event {
                Event::Text { id, text, .. } => texts.get_mut(&id).expect("its").push_str(&text),
                Event::Finished { reason, .. } => {
                    assert_eq!(reason, FinishReason::GrammarComplete);
                }
                _ => {}
            }
        }
    }
    texts.into_values().collect()
}

/// A constraint of a larger vocabulary is refused at the door.
#[test]
fn a_constraint_belongs_to_its_model() {
    let file = model(PRESETS[0], "refused");
    let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
    let mut table = TokenTable::from(&tokenizer);
    table.tokens.push(Spelling::None);
    let compiler = ConstraintCompiler::new(&table, CompileLimits::default()).expect("a trie");
    let constraint = Some(compiler.compile(&Grammar::JsonObject).expect("a grammar"));
    let runner = load(&file, &LoadOptions::default()).expect("a runner");
    let mut engine =
        Engine::new(runner, Arc::new(tokenizer), EngineConfig::default()).expect("an engine");
    let request = Request { prompt: vec![1], constraint, ..Default::default() };
    let result = engine.add(request);
    assert!(matches!(result, Err(AdmissionError::Constraint { .. })), "{result:?}");
}
