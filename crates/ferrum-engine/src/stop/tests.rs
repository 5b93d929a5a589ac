//! Stop strings against their plain definition, whatever the pieces.

use super::StopMatcher;

fn matcher(strings: &[&str]) -> StopMatcher {
    StopMatcher::new(strings.iter().map(|&string| string.to_owned()).collect())
}

/// What passes in all, and the stop string, when `pieces` are pushed.
fn run<'a>(strings: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, Option<usize>) {
    let mut matcher = matcher(strings);
    let (mut text, mut stop) = (String::new(), None);
    for piece in pieces {
        let passed = matcher.push(piece);
        text.push_str(&passed.text);
        stop = stop.or(passed.stop);
    }
    text.push_str(&matcher.finish());
    (text, stop)
}

/// The definition: read character by character; stop where the first string is complete.
fn plain(strings: &[&str], text: &str) -> (String, Option<usize>) {
    for (at, char) in text.char_indices() {
        let read = &text[..at + char.len_utf8()];
        let complete = (0..strings.len()).filter(|&i| read.ends_with(strings[i]));
        // The longest; of equal ones the first.
        if let Some(i) = complete.rev().max_by_key(|&i| strings[i].len()) {
            return (read[..read.len() - strings[i].len()].to_owned(), Some(i));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn holds_back_only_what_may_become_a_stop_string() {
    let mut matcher = matcher(&["STOP", "TOO"]);
    let mut push = |text: &str| matcher.push(text).text;
    assert_eq!(push("one S"), "one ");
    assert_eq!(push("T"), "");
    assert_eq!(push("OO"), "S");
    assert_eq!(push("more"), "");
    assert_eq!(matcher.finish(), "");
}

#[test]
fn releases_what_turned_out_to_be_text() {
    let mut matcher = matcher(&["aab"]);
    let mut push = |text: &str| matcher.push(text).text;
    assert_eq!(push("a"), "");
    assert_eq!(push("a"), "");
    assert_eq!(push("a"), "a");
    assert_eq!(push("c"), "aac");
    assert_eq!(push("xa"), "x");
    assert_eq!(matcher.finish(), "a");
}

#[test]
fn nothing_passes_after_the_stop() {
    let mut matcher = matcher(&["\n\n"]);
    let passed = matcher.push("first\n\nsecond");
    assert_eq!((passed.text.as_str(), passed.stop), ("first", Some(0)));
    let passed = matcher.push("third\n\n");
    assert_eq!((passed.text.as_str(), passed.stop), ("", None));
    assert_eq!(matcher.finish(), "");
}

#[test]
fn without_strings_all_passes_at_once() {
    let mut matcher = matcher(&[]);
    assert_eq!(matcher.push("text").text, "text");
    assert_eq!(matcher.finish(), "");
}

#[test]
fn known_answers() {
    for (strings, text, expected) in [
        (&["bc", "abcd"][..], "xabcdy", ("xa", Some(0))),
        (&["c", "abc"], "xabcd", ("x", Some(1))),
        (&["abc", "abc"], "xabcd", ("x", Some(0))),
        (&["a"], "aaa", ("", Some(0))),
        (&["aaa"], "aab aa", ("aab aa", None)),
        (&["日本"], "本日日本語", ("本日", Some(0))),
        (&["é"], "e\u{301}è", ("e\u{301}è", None)),
        (&["</s>", "<|im_end|>"], "a </s <|im_end|", ("a </s <|im_end|", None)),
    ] {
        let expected = (expected.0.to_owned(), expected.1);
        assert_eq!(plain(strings, text), expected);
        assert_eq!(run(strings, [text]), expected);
    }
}

/// Every text over a small alphabet (with characters of one, two and three bytes), every way to
/// cut it in two, and character by character.
#[test]
fn pieces_do_not_matter() {
    let sets: &[&[&str]] = &[
        &["aa", "aé"],
        &["aéa→", "éa"],
        &["→", "a→→a"],
        &["aéaé→", "aéaaé"],
        &["éé", "ééé", "aéé"],
        &["→a→a→", "a→a"],
    ];
    let alphabet = ['a', 'é', '→'];
    for length in 0..=8u32 {
        for number in 0..3usize.pow(length) {
            let char = |at| alphabet[number / 3usize.pow(at) % 3];
            let text: String = (0..length).map(char).collect();
            for strings in sets {
                let expected = plain(strings, &text);
                let chars: Vec<String> = text.chars().map(String::from).collect();
                assert_eq!(run(strings, chars.iter().map(String::as_str)), expected, "{text}");
                for (at, _) in text.char_indices() {
                    let (left, right) = text.split_at(at);
                    assert_eq!(run(strings, [left, right]), expected, "{left}|{right}");
                }
            }
        }
    }
}
