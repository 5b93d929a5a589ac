//! Hashes of files: SHA-256, and git's for files that a hub keeps in git itself.

use std::fmt;

use sha2::Digest as _;

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// From 64 hexadecimal digits; `None` for anything else. Usable in constants.
    pub const fn from_hex(text: &str) -> Option<Self> {
        match bytes_of(text) {
            Some(bytes) => Some(Sha256(bytes)),
            None => None,
        }
    }

    /// The value of all bytes given to `hasher`.
    pub(crate) fn finish(hasher: sha2::Sha256) -> Self {
        Sha256(hasher.finalize().into())
    }

    /// The value of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256(sha2::Sha256::digest(bytes).into())
    }
}

/// The bytes that twice as many hexadecimal digits stand for.
const fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        let (Some(high), Some(low)) = (nibble(text[2 * i]), nibble(text[2 * i + 1])) else {
            return None;
        };
        bytes[i] = high << 4 | low;
        i += 1;
    }
    Some(bytes)
}

/// Lower-case hexadecimal digits.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash by which a hub knows a file, and by which its cache names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// Of large files, which are kept beside git (Git LFS).
    Sha256(Sha256),
    /// Of the others: git's name of a blob, the SHA-1 of `blob`, its size, a zero byte and the bytes.
    GitBlob([u8; 20]),
}

impl Digest {
    /// From 64 hexadecimal digits (SHA-256) or 40 (git).
    pub fn from_hex(text: &str) -> Option<Self> {
        let large = Sha256::from_hex(text).map(Digest::Sha256);
        large.or_else(|| bytes_of(text).map(Digest::GitBlob))
    }

    /// Git's name of a blob of these bytes.
    pub fn git_blob(bytes: &[u8]) -> Self {
        let mut hasher = Digest::GitBlob([0; 20]).hasher(bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }

    /// A hasher of the same kind for a file of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Digest::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Digest::GitBlob(_) => {
                Hasher::GitBlob(sha1::Sha1::new_with_prefix(format!("blob {size}\0")))
            }
        }
    }
}

/// Lower-case hexadecimal digits, as in the names of a cache's files.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Digest::Sha256(value) => value.fmt(f),
            Digest::GitBlob(bytes) => write_hex(f, bytes),
        }
    }
}

impl From<Sha256> for Digest {
    fn from(value: Sha256) -> Self {
        Digest::Sha256(value)
    }
}

/// A [`Digest`] in the making.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    GitBlob(sha1::Sha1),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::Sha256(Sha256::finish(hasher)),
            Hasher::GitBlob(hasher) => Digest::GitBlob(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_the_standard_vector() {
        // FIPS 180-4 example: SHA-256("abc").
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), text);
        assert_eq!(Sha256::from_hex(&text.to_uppercase()), Some(Sha256::of(b"abc")));
        assert_eq!(Sha256::from_hex(&text[1..]), None);
        assert_eq!(Sha256::from_hex(&text.replace('b', "g")), None);
        assert_eq!(Sha256::from_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn digests_are_told_apart_by_their_length() {
        // `printf 'hello\n' | git hash-object --stdin`
        let text = "ce013625030ba8dba906f756967f9e9ca394464a";
        let digest = Digest::from_hex(text).unwrap();
        let mut hasher = digest.hasher(6);
        hasher.update(b"hel");
        hasher.update(b"lo\n");
        assert_eq!(hasher.finish(), digest);
        assert_eq!(digest.to_string(), text);
        assert!(matches!(Digest::from_hex(&"0".repeat(64)), Some(Digest::Sha256(_))));
        for bad in ["", "00", &"0".repeat(41), &"g".repeat(40)] {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
    }
}
