//! The turns of a conversation, for requests that allow the oldest ones to be left out.
//!
//! A turn is what a user says with all that follows until the user speaks again. The system's
//! messages belong to none and stay, and so does the last turn.

use ferrum_models::chat::Message;

use super::conversation::Prompt;
use crate::error::ApiResult;

/// Turns of a conversation.
pub fn count(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.role == "user").count().max(1)
}

/// The conversation without its oldest `dropped` turns.
pub fn without_oldest(messages: &[Message], dropped: usize) -> Vec<Message> {
    let mut users = 0;
    let kept = messages.iter().filter(|message| {
        users += usize::from(message.role == "user");
        // What comes before the first turn belongs to it.
        message.role == "system" || users.max(1) > dropped
    });
    kept.cloned().collect()
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
