//! Fuzzes chat templates: any template over any conversation.
//!
//! The input is text divided by NUL characters: the template, then one message each. A message
//! that is a JSON list is given as parts. That the guard against look-alikes of control tokens
//! changes nothing but the division of the prompt is checked with each input.
#![no_main]

use ferrum_models::chat::{ChatTemplate, Content, Message, RenderOptions};
use libfuzzer_sys::fuzz_target;

/// Texts of control tokens, one a part of another.
const CONTROL: [&str; 4] = ["<s>", "</s>", "<|im_start|>", "<|im_start|>user"];

fuzz_target!(|input: &str| {
    let mut parts = input.split('\0');
    let Some(source) = parts.next() else { return };
    let roles = ["system", "user", "assistant"];
    let messages: Vec<Message> =
        parts.zip(roles.into_iter().cycle()).map(|(text, role)| message(role, text)).collect();

    let guarded = prompt(source, &CONTROL, &messages);
    let plain = prompt(source, &[], &messages);
    if let (Some(guarded), Some(plain)) = (guarded, plain) {
        assert_eq!(guarded, plain);
    }
});

fn message(role: &str, text: &str) -> Message {
    let content = match serde_json::from_str(text) {
        Ok(parts) => Content::Parts(parts),
        Err(_) => Content::Text(text.to_string()),
    };
    Message { content, ..Message::new(role, "") }
}

/// The prompt, if the template compiles and renders.
fn prompt(source: &str, control: &[&str], messages: &[Message]) -> Option<String> {
    let control = control.iter().map(|text| text.to_string());
    let template = ChatTemplate::new(source, "<s>", "</s>", control).ok()?;
    let options = RenderOptions::answer(jiff::civil::datetime(2025, 1, 2, 3, 4, 5, 0));
    let segments = template.render(messages, &options).ok()?;
    Some(segments.iter().map(|segment| segment.text()).collect())
}
