//! The turns of a conversation, for requests that allow the oldest ones to be left out.
//!
//! A turn is what a user says with all that follows until the user speaks again. The system's
//! messages belong to none and stay, and so does the last turn.

use std::collections::HashMap;

use ferrum_models::chat::Message;
use serde_json::Value;

use super::conversation::Prompt;
use crate::error::ApiResult;

/// Turns of a conversation.
pub fn count(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.role == "user").count().max(1)
}

/// The conversation without its oldest `dropped` turns.
pub fn without_oldest(messages: &[Message], dropped: usize) -> Vec<Message> {
    let kept = messages.iter().zip(numbers(messages)).filter(|(message, turn)| {
        // What comes before the first turn belongs to it.
        message.role == "system" || (*turn).max(1) > dropped
    });
    kept.map(|(message, _)| message.clone()).collect()
}

/// The turn that each message is part of, from 1. The result of a call belongs to the call's, also
/// where the user has spoken in between: it means nothing without the call.
fn numbers(messages: &[Message]) -> Vec<usize> {
    let (mut turn, mut calls) = (0, HashMap::new());
    let mut number = |message| {
        let Message { role, extra, .. }: &Message = message;
        turn += usize::from(role == "user");
        let made = extra.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        calls.extend(made.filter_map(|call| Some((call.get("id")?.as_str()?, turn))));
        let answered = extra.get("tool_call_id").and_then(Value::as_str);
        answered.and_then(|id| calls.get(id)).copied().unwrap_or(turn)
    };
    messages.iter().map(&mut number).collect()
}

/// The prompt with as few of `turns` turns dropped as it takes to have at most `room` tokens. If
/// that cannot be, the shortest that there is, which is refused for its length later.
pub fn fewest_dropped(
    turns: usize,
    room: usize,
    prompt: impl Fn(usize) -> ApiResult<Prompt>,
) -> ApiResult<Prompt> {
    // Fewer do not fit, this many do, if any.
    let (mut too_few, mut enough) = (0, turns.saturating_sub(1));
    let mut best = prompt(enough)?;
    while too_few + 1 < enough && best.tokens.len() <= room {
        let middle = too_few.midpoint(enough);
        let shorter = prompt(middle)?;
        if shorter.tokens.len() <= room {
            (enough, best) = (middle, shorter);
        } else {
            too_few = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn roles(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| message.role.as_str()).collect()
    }

    #[test]
    fn the_oldest_turns_go_first() {
        let all =
            ["system", "assistant", "user", "assistant", "tool", "assistant", "system", "user"];
        let messages: Vec<Message> = all.iter().map(|role| Message::new(*role, "x")).collect();
        assert_eq!(count(&messages), 2);
        assert_eq!(roles(&without_oldest(&messages, 0)), all);
        assert_eq!(roles(&without_oldest(&messages, 1)), ["system", "system", "user"]);
        assert_eq!(count(&messages[..2]), 1);
    }

    #[test]
    fn a_result_goes_with_its_call() {
        let with = |role: &str, key: &str, value: Value| {
            let mut message = Message::new(role, "x");
            message.extra.insert(key.into(), value);
            message
        };
        let call = |id: &str| json!([{"id": id, "type": "function", "function": {"name": "f"}}]);
        let messages = [
            Message::new("user", "x"),
            with("assistant", "tool_calls", call("a")),
            Message::new("user", "wait"),
            with("tool", "tool_call_id", "a".into()),
            with("assistant", "tool_calls", call("b")),
            with("tool", "tool_call_id", "b".into()),
        ];
        assert_eq!(without_oldest(&messages, 0), messages);
        let second = [&messages[2], &messages[4], &messages[5]].map(Clone::clone);
        assert_eq!(without_oldest(&messages, 1), second);
    }

    #[test]
    fn no_more_are_dropped_than_it_takes() {
        // Each turn has ten tokens, and the system's message has five.
        let prompt = |turns: usize| {
            move |dropped: usize| {
                assert!(dropped > 0 && dropped < turns.max(2));
                let tokens = vec![0; 5 + 10 * (turns - dropped)];
                Ok(Prompt { tokens, opened: false })
            }
        };
        for turns in 2..20 {
            for room in 0..10 * turns + 5 {
                let got = fewest_dropped(turns, room, prompt(turns)).unwrap().tokens.len();
                let fitting = (room.max(5) - 5) / 10 * 10 + 5;
                assert_eq!(got, fitting.max(15), "{turns} turns, {room} tokens");
            }
        }
    }
}
