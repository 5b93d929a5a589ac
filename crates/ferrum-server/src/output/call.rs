//! One call as it comes: its name, its arguments.

use super::json::{JsonScan, Malformed, Place};

/// What the JSON of a call is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object with `name` and `arguments` (or `parameters`).
    Whole,
    /// The arguments of the tool of this name.
    Arguments(String),
}

/// Reads the JSON of a call byte by byte.
#[derive(Debug, Clone)]
pub(super) struct CallScanner {
    scan: JsonScan,
    /// Whether the whole object is arguments.
    bare: bool,
    name: Option<String>,
    /// JSON of the arguments so far.
    arguments: Vec<u8>,
    has_arguments: bool,
    /// The key of the call's object that is read or was read last, as JSON.
    key: Vec<u8>,
    /// The value of `key`, as JSON; unused while arguments come.
    value: Option<Vec<u8>>,
}

impl CallScanner {
    pub(super) fn new(shape: Shape) -> Self {
        let (bare, name) = match shape {
            Shape::Whole => (false, None),
            Shape::Arguments(name) => (true, Some(name)),
        };
        CallScanner {
            scan: JsonScan::new(),
            bare,
            name,
            arguments: Vec::new(),
            has_arguments: false,
            key: Vec::new(),
            value: None,
        }
    }

    /// Takes the next byte; says whether it is the last.
    pub(super) fn push(&mut self, byte: u8) -> Result<bool, Malformed> {
        let (depth, before) = (self.scan.depth(), self.scan.place());
        self.scan.push(byte)?;
        if depth == 0 && byte != b'{' {
            // Only an object is a call.
            return Err(Malformed);
        }
        let complete = self.scan.depth() == 0;
        if self.bare {
            self.arguments.push(byte);
            self.has_arguments = true;
            return Ok(complete);
        }
        self.field(byte, depth, before)?;
        if complete && self.name.is_none() {
            return Err(Malformed);
        }
        if complete && !self.has_arguments {
            // A tool without parameters is sometimes called without arguments.
            self.has_arguments = true;
            self.arguments = b"{}".to_vec();
        }
        Ok(complete)
    }

    /// What `byte` is to the fields of the call's object.
    fn field(&mut self, byte: u8, depth: usize, before: Place) -> Result<(), Malformed> {
        let now = self.scan.place();
        if let Some(value) = &mut self.value {
            let number_ended =
                matches!(before, Place::Number(_)) && !matches!(now, Place::Number(_));
            let at_top = self.scan.depth() == 1;
            if depth == 1 && number_ended {
                return self.end_value();
            }
            value.push(byte);
            if self.is_arguments() && self.value.as_ref().is_some_and(|v| v[0] == b'{') {
                self.arguments.push(byte);
            }
            if at_top && now == Place::After {
                return self.end_value();
            }
        } else if depth == 1 {
            match before {
                Place::FirstKey | Place::Key if byte == b'"' => self.key = vec![byte],
                Place::Text { key: true } | Place::Escape { key: true } => self.key.push(byte),
                Place::Unicode { key: true, .. } => self.key.push(byte),
                Place::Value if now != Place::Value => self.begin_value(byte)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.is_arguments() {
            if self.has_arguments || !matches!(byte, b'{' | b'"' | b'n') {
                return Err(Malformed);
            }
            if byte == b'{' {
                self.has_arguments = true;
                self.arguments.push(byte);
            }
        }
        self.value = Some(vec![byte]);
        Ok(())
    }

    fn end_value(&mut self) -> Result<(), Malformed> {
        let value = self.value.take().unwrap_or_default();
        let text = || serde_json::from_slice::<String>(&value).map_err(|_| Malformed);
        if self.key == br#""name""# {
            let name = text()?;
            if name.is_empty() || self.name.replace(name).is_some() {
                return Err(Malformed);
            }
        } else if self.is_arguments() && !self.has_arguments {
            self.has_arguments = true;
            self.arguments = if value == b"null" {
                b"{}".to_vec()
            } else {
                // JSON within a string.
                let inner = text()?;
                let object = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(&inner);
                object.map_err(|_| Malformed)?;
                inner.into_bytes()
            };
        }
        Ok(())
    }

    fn is_arguments(&self) -> bool {
        self.key == br#""arguments""# || self.key == br#""parameters""#
    }

    /// The name, once it is known.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether there is something of the arguments.
    pub(super) fn has_arguments(&self) -> bool {
        self.has_arguments
    }

    /// Takes the arguments that have come, whole characters only.
    pub(super) fn take_arguments(&mut self) -> String {
        let whole = match std::str::from_utf8(&self.arguments) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.arguments.split_off(whole);
        let taken = std::mem::replace(&mut self.arguments, rest);
        String::from_utf8(taken).unwrap_or_default()
    }
}
