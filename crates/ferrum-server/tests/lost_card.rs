//! A card that does nothing any more, and the server on it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use ferrum_models::Device;
use serde_json::json;
use support::{Setup, completion, start_with, wait_for};

const TEXT: &str = "/v1/completions";

/// A supervisor hears of it, and so does whoever asks for an answer.
#[test]
fn a_lost_card_is_told_by_every_route_that_matters() {
    ferrum_cuda_emulator::load().expect("an emulated driver");
    let server = start_with(Setup { device: Device::Cuda(0), ..Setup::default() });
    let request = completion(json!({"max_tokens": 2}));
    server.ok(TEXT, &request);
    assert_eq!(server.get("/health").status, 200);

    ferrum_cuda_emulator::break_device(0);
    let failed = server.post(TEXT, &request);
    assert!(failed.status >= 500 && failed.body.contains("ILLEGAL_ADDRESS"), "{}", failed.body);
    wait_for(|| server.get("/health").status == 503, "the engine has stopped");
    for answer in [server.get("/health"), server.get("/ready"), server.post(TEXT, &request)] {
        assert_eq!(answer.status, 503, "{}", answer.body);
        for words in ["has to be started again", "ILLEGAL_ADDRESS"] {
            assert!(answer.body.contains(words), "{}", answer.body);
        }
    }
}
