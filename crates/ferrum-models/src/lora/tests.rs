//! Orders of rows, and what `adapter_config.json` means; the rest is held against PEFT in
//! `tests/lora.rs`.

use serde_json::{Value, json};

use super::peft::Config;
use super::place::Order;
use crate::pattern::Pattern;

#[test]
fn orders_of_rows_are_inverse() {
    let (there, back) = (Order::new(4, true), Order::new(4, false));
    for row in 0..24 {
        assert_eq!(back.source(there.source(row)), row);
        assert_eq!(there.source(back.source(row)), row);
    }
    // Pairs that are rotated together lie side by side.
    let rows: Vec<usize> = (8..16).map(|row| there.source(row)).collect();
    assert_eq!(rows, [8, 12, 9, 13, 10, 14, 11, 15]);
}

#[test]
fn patterns_are_those_of_python() {
    let whole = Pattern::whole(r"model\.layers\.\d+\.q|v").unwrap();
    assert!(whole.matches("model.layers.10.q") && whole.matches("v"));
    assert!(!whole.matches("model.layers.10.qq") && !whole.matches("xv"));
    let tail = Pattern::tail("layers.1.q|k").unwrap();
    assert!(tail.matches("model.layers.1.q") && tail.matches("k") && tail.matches("a.k"));
    assert!(!tail.matches("model.layers.1.q.x") && !tail.matches("ak"));
    let start = Pattern::start(".*down").unwrap();
    assert!(start.matches("a.down.b") && !start.matches("up"));
    assert!(Pattern::whole("(?<=x)y").is_err() && Pattern::whole("(").is_err());
    assert!(Pattern::whole(&"a".repeat(20_000)).is_err());
    assert!(Pattern::whole("((a{1000}){1000}){1000}").is_err());
}

fn factor(changes: Value, module: &str, rank: usize) -> Result<f32, String> {
    let mut config =
        json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q", "k"]});
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    Config::read(config.as_object().unwrap())?.factor(module, rank)
}

#[test]
fn factors_follow_rank_and_alpha() {
    let name = "model.layers.3.q";
    assert_eq!(factor(json!({}), name, 4), Ok(2.0));
    assert_eq!(factor(json!({"use_rslora": true}), name, 4), Ok(4.0));
    assert_eq!(factor(json!({"alpha_pattern": {"q": 2}}), name, 4), Ok(0.5));
    let ranks = json!({"rank_pattern": {"k": 5, "3.q": 16, "q": 1}, "use_rslora": true});
    assert_eq!(factor(ranks.clone(), name, 16), Ok(2.0), "the first that fits");
    assert!(factor(ranks, name, 4).unwrap_err().contains("16"));
    assert_eq!(factor(json!({"layers_to_transform": [3]}), name, 4), Ok(2.0));
    assert!(factor(json!({"layers_to_transform": 2}), name, 4).is_err());
    assert_eq!(factor(json!({"layers_to_transform": []}), name, 4), Ok(2.0));
    assert!(factor(json!({}), "model.layers.3.v", 4).is_err());
    assert_eq!(factor(json!({"target_modules": "all-linear"}), "a.v", 4), Ok(2.0));
    assert!(factor(json!({"target_modules": "all-linear"}), "lm_head", 4).is_err());
    assert!(factor(json!({"target_modules": []}), name, 4).unwrap_err().contains("target_modules"));
    // Settings of training are no business of ours, whatever they are.
    let beside = json!({"lora_dropout": 0.1, "peft_version": "1", "eva_config": {"rho": 2}});
    assert_eq!(factor(beside, name, 4), Ok(2.0));
}
