//! Patterns of `tokenizer.json`, which are written for Oniguruma in Ruby's syntax
//! (<https://github.com/kkos/oniguruma/blob/master/doc/RE>), as patterns of our engine that match the
//! same. What the two would read in different ways is brought to what Oniguruma reads or refused.

use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use super::error::TokenizerError;

/// `\w` of Oniguruma in a set; ours has the joiners too.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";
/// What it has besides where it stands alone, as a table of Latin-1 decides then: `¹²³¼½¾`.
const WORD_ALONE: &str = r"\xB2\xB3\xB9\xBC-\xBE";

/// Properties that both engines have under one name with one meaning, but for what one version of
/// Unicode knows and another does not yet.
const PROPERTIES: &[&str] = &[
    "L",
    "Lu",
    "Ll",
    "Lt",
    "Lm",
    "Lo",
    "M",
    "Mn",
    "Mc",
    "Me",
    "N",
    "Nd",
    "Nl",
    "No",
    "P",
    "Pc",
    "Pd",
    "Ps",
    "Pe",
    "Pi",
    "Pf",
    "Po",
    "S",
    "Sm",
    "Sc",
    "Sk",
    "So",
    "Z",
    "Zs",
    "Zl",
    "Zp",
    "Cc",
    "Cf",
    "Letter",
    "Mark",
    "Number",
    "Punctuation",
    "Symbol",
    "Separator",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Bopomofo",
    "Latin",
    "Greek",
    "Cyrillic",
    "Arabic",
    "Hebrew",
    "Thai",
    "Devanagari",
];

/// Letters that match one character where case does not count, such as `ﬁ`.
const LIGATURES: &[&str] = &["ss", "st", "ff", "fi", "fl"];

/// Compiles patterns; with several, the first of them that matches at a place counts.
pub(super) fn compile(patterns: &[&str]) -> Result<Regex, TokenizerError> {
    let translated = patterns.iter().map(|p| translate(p)).collect::<Result<Vec<_>, _>>()?;
    Regex::builder()
        // Ruby's `^` and `$` stand at every line.
        .syntax(syntax::Config::new().multi_line(true))
        .build_many(&translated)
        .map_err(|e| refused(&patterns.join("|"), &e.to_string()))
}

fn refused(pattern: &str, reason: &str) -> TokenizerError {
    TokenizerError::Pattern { pattern: pattern.to_string(), reason: reason.to_string() }
}

/// The pattern in our engine's words.
fn translate(pattern: &str) -> Result<String, TokenizerError> {
    let reader = Reader {
        rest: pattern,
        at_start: true,
        out: String::with_capacity(pattern.len()),
        groups: vec![false],
        classes: 0,
        last: Last::Nothing,
    };
    reader.read().map_err(|reason| refused(pattern, &reason))
}

/// What stands before the place that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    /// A letter as it is.
    Letter(char),
    /// `?`, `*` or `+`.
    Repetition,
    /// `}`.
    Count,
}

struct Reader<'a> {
    rest: &'a str,
    at_start: bool,
    out: String,
    /// For every open group, whether case does not count in it.
    groups: Vec<bool>,
    /// Open `[`.
    classes: usize,
    last: Last,
}

impl Reader<'_> {
    fn read(mut self) -> Result<String, String> {
        while let Some(c) = self.rest.chars().next() {
            self.rest = &self.rest[c.len_utf8()..];
            let last = std::mem::replace(&mut self.last, Last::Nothing);
            match c {
                '\\' => self.escape()?,
                _ if self.classes > 0 => self.in_class(c)?,
                '[' => self.open_class()?,
                '(' => self.open_group()?,
                ')' => {
                    self.groups.pop();
                    self.out.push(c);
                }
                '?' | '*' | '+' => self.repetition(c, last)?,
                '{' if self.rest.starts_with(',') => return Err("{,n} is not supported".into()),
                '}' => {
                    self.last = Last::Count;
                    self.out.push(c);
                }
                _ => self.literal(c, last)?,
            }
            self.at_start = false;
        }
        Ok(self.out)
    }

    fn ignores_case(&self) -> bool {
        self.groups.last().is_some_and(|ignores| *ignores)
    }

    /// A character that stands for itself, or `^`, `$`, `.`, `|`.
    fn literal(&mut self, c: char, last: Last) -> Result<(), String> {
        self.check_case(c)?;
        if let (true, Last::Letter(first)) = (self.ignores_case(), last) {
            let pair: String = [first, c].iter().flat_map(|c| c.to_lowercase()).collect();
            if LIGATURES.contains(&pair.as_str()) {
                return Err(format!("{pair:?} where case does not count is not supported"));
            }
        }
        self.last = if c.is_alphabetic() { Last::Letter(c) } else { Last::Nothing };
        self.out.push(c);
        Ok(())
    }

    /// Other letters than ASCII's have cases of several characters.
    fn check_case(&self, c: char) -> Result<(), String> {
        match self.ignores_case() && !c.is_ascii() {
            true => Err(format!("{c:?} where case does not count is not supported")),
            false => Ok(()),
        }
    }

    fn repetition(&mut self, c: char, last: Last) -> Result<(), String> {
        match (last, c) {
            (Last::Repetition, '+') => return Err("possessive repetition is not supported".into()),
            // In Ruby `{n}?` is no lazy repetition.
            (Last::Count, '?') => return Err("? after a count is not supported".into()),
            _ => self.last = Last::Repetition,
        }
        self.out.push(c);
        Ok(())
    }

    fn open_group(&mut self) -> Result<(), String> {
        let mut ignores = self.ignores_case();
        let head = match self.rest.strip_prefix('?') {
            None => "",
            Some(_) if self.rest.starts_with("?:") => "?:",
            Some(_) if self.rest.starts_with("?i:") => "?i:",
            Some(_) if self.rest.starts_with("?-i:") => "?-i:",
            // Elsewhere its reach depends on the engine.
            Some(_) if self.rest.starts_with("?i)") && self.at_start => {
                self.out.push_str("(?i)");
                self.rest = &self.rest["?i)".len()..];
                self.groups = vec![true];
                return Ok(());
            }
            Some(_) => {
                let head: String = self.rest.chars().take(3).collect();
                return Err(format!("({head}… is not supported"));
            }
        };
        match head {
            "?i:" => ignores = true,
            "?-i:" => ignores = false,
            _ => {}
        }
        self.rest = &self.rest[head.len()..];
        self.out.push('(');
        self.out.push_str(head);
        self.groups.push(ignores);
        Ok(())
    }

    fn open_class(&mut self) -> Result<(), String> {
        self.classes += 1;
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = rest;
        }
        match self.rest.chars().next() {
            Some(']') => Err("] as the first of a set is not supported".into()),
            Some(':') => Err("sets like [:alpha:] are not supported".into()),
            _ => Ok(()),
        }
    }

    fn in_class(&mut self, c: char) -> Result<(), String> {
        match c {
            '[' => return self.open_class(),
            ']' => self.classes -= 1,
            '&' | '-' | '~' if self.rest.starts_with(c) => {
                return Err("operations on sets of characters are not supported".into());
            }
            _ => self.check_case(c)?,
        }
        self.out.push(c);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(c) = self.rest.chars().next() else { return Err("it ends in \\".into()) };
        self.rest = &self.rest[c.len_utf8()..];
        let outside = self.classes == 0;
        match c {
            'w' | 'W' => {
                let not = if c == 'W' { "^" } else { "" };
                let more = if outside { WORD_ALONE } else { "" };
                self.out.push_str(&format!("[{not}{WORD}{more}]"));
            }
            's' | 'S' | 'd' | 'D' | 'n' | 'r' | 't' | 'f' | 'v' | 'a' => {
                self.out.extend(['\\', c]);
            }
            'A' | 'z' if outside => self.out.extend(['\\', c]),
            'p' | 'P' => self.property(c)?,
            'x' | 'u' => self.number(c)?,
            // In our engine some of these mean something behind a backslash.
            _ if c.is_ascii_punctuation() || c == ' ' => {
                self.out.push_str(&format!(r"\x{:02X}", u32::from(c)));
            }
            _ if !c.is_ascii() => self.literal(c, Last::Nothing)?,
            _ => return Err(format!("\\{} is not supported", c.escape_default())),
        }
        Ok(())
    }

    /// `\p{NAME}`
    fn property(&mut self, c: char) -> Result<(), String> {
        let name = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let Some((name, rest)) = name else { return Err(format!("\\{c} without a name")) };
        let cased = matches!(name, "Lu" | "Ll" | "Lt") && self.ignores_case();
        if cased || !PROPERTIES.contains(&name) {
            let name = name.escape_default();
            return Err(format!("the property {name} is not supported here"));
        }
        self.out.push_str(&format!("\\{c}{{{name}}}"));
        self.rest = rest;
        Ok(())
    }

    /// `\xHH`, `\x{H…}`, `\uHHHH`
    fn number(&mut self, c: char) -> Result<(), String> {
        let bad = || format!("\\{c} without a number");
        let (digits, rest) = match (c, self.rest.strip_prefix('{')) {
            ('x', Some(rest)) => rest.split_once('}').ok_or_else(bad)?,
            (_, Some(_)) => return Err(bad()),
            _ => self.rest.split_at_checked(if c == 'x' { 2 } else { 4 }).ok_or_else(bad)?,
        };
        let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex).ok_or_else(bad)?;
        let braced = self.rest.starts_with('{');
        let found = char::from_u32(code).ok_or_else(bad)?;
        // Of two digits it is a byte.
        if c == 'x' && !braced && code > 0x7F {
            return Err("bytes that are no characters are not supported".into());
        }
        self.check_case(found)?;
        self.out.push_str(&format!(r"\x{{{code:X}}}"));
        self.rest = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> Vec<String> {
        let regex = compile(&[pattern]).unwrap();
        regex.find_iter(text).map(|m| text[m.range()].to_string()).collect()
    }

    #[test]
    fn what_differs_is_read_as_oniguruma_reads_it() {
        assert_eq!(matches("^a|b$", "ab\nab\n"), ["a", "b", "a", "b"]);
        let word = "a\u{24B6}b\u{200D}c_\u{BD}\u{2153}";
        assert_eq!(matches(r"\w+", word), ["a\u{24B6}b", "c_\u{BD}"]);
        assert_eq!(matches(r"[\w]+", word), ["a\u{24B6}b", "c_"]);
        assert_eq!(matches(r"[^\W_]+", "a_b"), ["a", "b"]);
        assert_eq!(matches(r"\<\/\>", "a</>"), ["</>"]);
        assert_eq!(matches(r"[\-\]\^]+", "a-]^"), ["-]^"]);
        assert_eq!(matches(r"(?i:'S|'d)|\p{Lu}", "'s'D a"), ["'s", "'D"]);
    }

    #[test]
    fn what_cannot_be_brought_over_is_refused() {
        for pattern in [
            "a?+",
            "a*+",
            "a++",
            "a{2}?",
            "a{,2}",
            "(?<=a)b",
            "a(?!b)",
            "(?>a)",
            "(?m:a)",
            "(?s)a",
            "a(?i)b|c",
            "[a--b]",
            "[a&&b]",
            "[a~~b]",
            "[[:alpha:]]",
            "[]a]",
            r"\bx",
            r"\h",
            r"\R",
            r"\K",
            r"\1",
            r"\pL",
            r"\p{Alpha}",
            r"\p{^L}",
            r"\xE9",
            r"\u{41}",
            "(?i:ss)",
            "(?i:é)",
            r"(?i:\p{Lu})",
            "\\",
            "(",
        ] {
            assert!(compile(&[pattern]).is_err(), "{pattern}");
        }
    }
}
