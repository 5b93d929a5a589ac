//! Sizes and texts of unknown origin, fit for a terminal.

/// Bytes with a decimal prefix and three digits: `98.4 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// A count with a decimal prefix: `134.5 M`.
pub fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

/// A text from a file with what would act on a terminal escaped, cut to `max` characters.
pub fn escaped(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == max {
            out.push('…');
            break;
        }
        match c {
            c if is_inert(c) => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    out
}

/// Whether printing a character changes nothing but its cell: no controls, no marks that turn the
/// direction of writing or that are invisible (Unicode TR 36, section 3).
fn is_inert(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (98_362_432, "98.4 MB"),
            (253_113_024, "253 MB"),
            (999_900, "1.00 MB"),
            (9_999_999, "10.0 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(count(134_515_008), "134.5 M");
    }

    #[test]
    fn terminal_sequences_are_inert() {
        assert_eq!(escaped("a\x1b[2Jb\n", 99), "a\\u{1b}[2Jb\\n");
        assert_eq!(escaped("x\u{202e}y", 99), "x\\u{202e}y");
        assert_eq!(escaped("süß 東京", 99), "süß 東京");
        assert_eq!(escaped("abcdef", 3), "abc…");
    }
}
