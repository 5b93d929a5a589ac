//! How much memory metadata takes, and the tokenizer that is made of it.

use super::{Array, Metadata, Value};

/// Memory of the metadata, of which the vocabulary is nearly all, and of a tokenizer: the bytes of
/// the tokens once more with their index, and the table of BPE merges.
pub(crate) fn vocabulary_bytes(metadata: &Metadata) -> usize {
    /// What a tokenizer keeps beside the bytes of a token: its place, its score, its index.
    const TOKEN: usize = 24;
    /// A pair of ids, a rank and an id, 17 bytes in a hash table that is seldom more than 7/10 full.
    const MERGE: usize = 24;
    let tokens = metadata.str_array("tokenizer.ggml.tokens").ok().flatten();
    let index: usize = tokens.map_or(0, |all| all.iter().map(|text| text.len() + TOKEN).sum());
    let merges = metadata.str_array("tokenizer.ggml.merges").ok().flatten();
    let merges = merges.map_or(0, |all| all.len() * MERGE);
    metadata.iter().map(|(_, value)| value_bytes(value)).sum::<usize>() + index + merges
}

/// Memory of a value on the heap.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::Array(Array::String(all)) => all.heap_bytes(),
        Value::Array(Array::U8(all)) => size_of_val(&all[..]),
        Value::Array(Array::I8(all)) => size_of_val(&all[..]),
        Value::Array(Array::U16(all)) => size_of_val(&all[..]),
        Value::Array(Array::I16(all)) => size_of_val(&all[..]),
        Value::Array(Array::U32(all)) => size_of_val(&all[..]),
        Value::Array(Array::I32(all)) => size_of_val(&all[..]),
        Value::Array(Array::U64(all)) => size_of_val(&all[..]),
        Value::Array(Array::I64(all)) => size_of_val(&all[..]),
        Value::Array(Array::F32(all)) => size_of_val(&all[..]),
        Value::Array(Array::F64(all)) => size_of_val(&all[..]),
        Value::Array(Array::Bool(all)) => size_of_val(&all[..]),
        _ => 0,
    }
}
