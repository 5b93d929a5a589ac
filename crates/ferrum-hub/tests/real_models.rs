//! The default model can be had from the network that this machine is on.

use ferrum_hub::hash::Sha256;
use ferrum_hub::{catalogue, testing};

#[test]
fn the_default_model_is_fetched_and_has_the_pinned_hash() {
    let entry = catalogue::find(catalogue::DEFAULT_ALIAS).expect("in the catalogue");
    let path = testing::fetch_alias(entry.name()).expect("fetched");
    let bytes = std::fs::read(path).expect("readable");
    assert_eq!(bytes.len() as u64, entry.size);
    assert_eq!(Sha256::of(&bytes), entry.sha256);
}
