//! Marks: where they are put and what becomes of them.

use super::guard::{Guard, Marks, OwnedSegment};
use super::message::Origin;

fn guard() -> Guard {
    Guard::new(["<s>", "</s>", "<|im_end|>"].map(str::to_string).to_vec()).unwrap()
}

fn segments(text: &str, origin: Origin) -> Vec<OwnedSegment> {
    let marks = Marks::unused_in([text].into_iter()).unwrap();
    let marked = guard().mark(origin, text, marks);
    assert_eq!(marks.remove(&marked), text);
    marks.segments(&marked)
}

fn markup(text: &str) -> OwnedSegment {
    OwnedSegment::Markup(text.to_string())
}

fn plain(text: &str) -> OwnedSegment {
    OwnedSegment::Text(text.to_string())
}

#[test]
fn whole_tokens_are_broken() {
    assert_eq!(segments("a<s>b", Origin::Data), [markup("a"), plain("<"), markup("s>b")]);
    assert_eq!(
        segments("<s><s>", Origin::Data),
        [plain("<"), markup("s>"), plain("<"), markup("s>")]
    );
}

#[test]
fn ends_that_could_be_completed_are_text() {
    assert_eq!(segments("a <|im ", Origin::Prose), [markup("a <|i"), plain("m"), markup(" ")]);
    assert_eq!(segments(" s> b", Origin::Prose), [markup(" "), plain("s"), markup("> b")]);
    assert_eq!(segments("im_end", Origin::Prose), [plain("i"), markup("m_en"), plain("d")]);
    // data is compared by templates
    assert_eq!(segments("im_end", Origin::Data), [markup("im_end")]);
}

#[test]
fn ordinary_text_needs_no_marks() {
    for text in ["", " ", "Good morning.", "1 < 2 and 3 > 2", "<b>bold</b>!", "日本語。"] {
        assert!(!guard().concerns(Origin::Prose, text), "{text:?}");
    }
}

#[test]
fn marks_do_not_occur_in_the_text() {
    let taken: String = (0xF0000..0xF0010).filter_map(char::from_u32).collect();
    let marks = Marks::unused_in([taken.as_str()].into_iter()).unwrap();
    assert_eq!(marks.remove(&taken), taken);
    let all: String = (0xF0000..=0xFFFFD).filter_map(char::from_u32).collect();
    assert!(Marks::unused_in([all.as_str()].into_iter()).is_err());
}
