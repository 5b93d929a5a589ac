//! Whether bytes are the beginning of a JSON value (RFC 8259), one by one.

/// Values within values; what is deeper is malformed.
const MAX_DEPTH: usize = 64;

/// A byte that cannot follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before a value.
    Value,
    /// After `[`: a value or the end.
    FirstItem,
    /// After `{`: a key or the end.
    FirstKey,
    /// After a comma in an object.
    Key,
    Colon,
    /// After a value.
    After,
    Text {
        key: bool,
    },
    Escape {
        key: bool,
    },
    /// In `\u`, with so many digits to come.
    Unicode {
        key: bool,
        left: u8,
    },
    Number(Digits),
    /// In `true`, `false` or `null`: what is to come.
    Word(&'static [u8]),
}

/// Where a number stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digits {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// Checks a JSON value byte by byte.
#[derive(Debug, Clone)]
pub(super) struct JsonScan {
    /// The brackets that are open.
    open: Vec<u8>,
    place: Place,
}

impl JsonScan {
    pub(super) fn new() -> Self {
        JsonScan { open: Vec::new(), place: Place::Value }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Brackets that are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Takes the next byte. A value that began with a bracket is complete once
    /// [`Self::depth`] is 0 again.
    pub(super) fn push(&mut self, byte: u8) -> Result<(), Malformed> {
        self.place = match self.place {
            Place::Text { key } => match byte {
                b'"' if key => Place::Colon,
                b'"' => Place::After,
                b'\\' => Place::Escape { key },
                0..=0x1f => return Err(Malformed),
                _ => Place::Text { key },
            },
            Place::Escape { key } => match byte {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Place::Text { key },
                b'u' => Place::Unicode { key, left: 4 },
                _ => return Err(Malformed),
            },
            Place::Unicode { key, left } => match (byte.is_ascii_hexdigit(), left) {
                (true, 1) => Place::Text { key },
                (true, _) => Place::Unicode { key, left: left - 1 },
                (false, _) => return Err(Malformed),
            },
            Place::Word([next, rest @ ..]) if *next == byte => {
                if rest.is_empty() {
                    Place::After
                } else {
                    Place::Word(rest)
                }
            }
            Place::Word(_) => return Err(Malformed),
            Place::Number(digits) => return self.number(digits, byte),
            place => return self.structure(place, byte),
        };
        Ok(())
    }

    /// Brackets, commas and the beginnings of values.
    fn structure(&mut self, place: Place, byte: u8) -> Result<(), Malformed> {
        self.place = match (place, byte) {
            (place, b' ' | b'\t' | b'\n' | b'\r') => place,
            (Place::FirstKey, b'}') | (Place::FirstItem, b']') => self.close(byte)?,
            (Place::FirstKey | Place::Key, b'"') => Place::Text { key: true },
            (Place::Colon, b':') => Place::Value,
            (Place::After, b'}' | b']') => self.close(byte)?,
            (Place::After, b',') => match self.open.last() {
                Some(b'{') => Place::Key,
                Some(_) => Place::Value,
                None => return Err(Malformed),
            },
            (Place::Value | Place::FirstItem, _) => self.begin(byte)?,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn begin(&mut self, byte: u8) -> Result<Place, Malformed> {
        Ok(match byte {
            b'{' | b'[' if self.open.len() < MAX_DEPTH => {
                self.open.push(byte);
                if byte == b'{' { Place::FirstKey } else { Place::FirstItem }
            }
            b'"' => Place::Text { key: false },
            b'-' => Place::Number(Digits::Minus),
            b'0' => Place::Number(Digits::Zero),
            b'1'..=b'9' => Place::Number(Digits::Integer),
            b't' => Place::Word(b"rue"),
            b'f' => Place::Word(b"alse"),
            b'n' => Place::Word(b"ull"),
            _ => return Err(Malformed),
        })
    }

    fn close(&mut self, byte: u8) -> Result<Place, Malformed> {
        let opened = if byte == b'}' { b'{' } else { b'[' };
        if self.open.pop() == Some(opened) { Ok(Place::After) } else { Err(Malformed) }
    }

    fn number(&mut self, digits: Digits, byte: u8) -> Result<(), Malformed> {
        use Digits::{E, Exponent, Fraction, Integer, Minus, Point, Sign, Zero};
        let next = match (digits, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => E,
            (E, b'+' | b'-') => Sign,
            (E | Sign | Exponent, b'0'..=b'9') => Exponent,
            (Zero | Integer | Fraction | Exponent, _) => return self.structure(Place::After, byte),
            _ => return Err(Malformed),
        };
        self.place = Place::Number(next);
        Ok(())
    }
}
