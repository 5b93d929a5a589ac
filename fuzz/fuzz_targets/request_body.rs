//! Bodies of requests to the server: whatever comes, they are read or refused.
#![no_main]

use ferrum_server::api::chat::ChatRequest;
use ferrum_server::api::completions::CompletionRequest;
use ferrum_server::api::messages::to_messages;
use ferrum_server::api::params::GenerationParams;
use ferrum_server::api::responses::ResponsesRequest;
use ferrum_server::body::JsonBody;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = JsonBody::from_bytes(data.to_vec());
    if let Ok((own, params)) = body.parse_both::<ChatRequest, GenerationParams>() {
        let _ = params.check();
        let _ = to_messages(own.messages);
    }
    let _ = body.parse_both::<CompletionRequest, GenerationParams>();
    let _ = body.parse::<ResponsesRequest>();
});
