//! Names: `sanctuary/realm/swamp`, and the keys of treasures. The only place that says what is allowed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorCode};
use crate::folder::{FolderCount, FolderSet, folder_of};

/// The longest part of a name, in bytes of UTF-8.
pub const MAX_PART_BYTES: usize = 255;
/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

const PARTS: [&str; 3] = ["sanctuary", "realm", "swamp"];

/// The name of a swamp: three parts, compared as bytes.
///
/// A part has 1 to 255 bytes of UTF-8, is not `.` or `..`, has no `/`, `\`, `*` or control
/// character and neither starts nor ends with a space. Unicode is not normalised.
///
/// ```
/// use hydra_core::SwampName;
///
/// let name: SwampName = "users/profiles/alice".parse()?;
/// assert_eq!(name.realm(), "profiles");
/// assert_eq!(SwampName::new("users", "profiles", "alice")?, name);
/// assert!("users/profiles".parse::<SwampName>().is_err());
/// # Ok::<(), hydra_core::Error>(())
/// ```
#[derive(Clone)]
pub struct SwampName {
    text: Arc<str>,
    realm_at: u16,
    swamp_at: u16,
    hash: u64,
}

impl SwampName {
    /// A name of three parts.
    ///
    /// # Errors
    /// `invalid-name` says which part breaks which rule.
    pub fn new(sanctuary: &str, realm: &str, swamp: &str) -> Result<SwampName, Error> {
        for (part, text) in PARTS.into_iter().zip([sanctuary, realm, swamp]) {
            check_part(part, text)?;
        }
        let text: Arc<str> = [sanctuary, "/", realm, "/", swamp].concat().into();
        let realm_at = (sanctuary.len() + 1) as u16;
        let swamp_at = realm_at + (realm.len() + 1) as u16;
        let hash = xxhash_rust::xxh64::xxh64(text.as_bytes(), 0);
        Ok(SwampName { text, realm_at, swamp_at, hash })
    }

    /// The first part.
    #[must_use]
    pub fn sanctuary(&self) -> &str {
        &self.text[..usize::from(self.realm_at) - 1]
    }

    /// The second part.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.text[usize::from(self.realm_at)..usize::from(self.swamp_at) - 1]
    }

    /// The third part.
    #[must_use]
    pub fn swamp(&self) -> &str {
        &self.text[usize::from(self.swamp_at)..]
    }

    /// The three parts in order.
    #[must_use]
    pub fn parts(&self) -> [&str; 3] {
        [self.sanctuary(), self.realm(), self.swamp()]
    }

    /// `sanctuary/realm/swamp`, the text that is hashed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// XXH64 with seed 0 over [`SwampName::as_str`]: what the folder is made of.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Names that land in `folders`: `base` itself if it does, then `base-1`, `base-2`, … filtered.
    ///
    /// Helps to choose names for a range of folders; about `count / folders.len()` names are tried
    /// for each one found. The iterator ends when the last part grows beyond its limit, and at once
    /// for an empty set.
    ///
    /// ```
    /// use hydra_core::{FolderCount, SwampName};
    ///
    /// let count = FolderCount::new(100)?;
    /// let base: SwampName = "jobs/queue/mail".parse()?;
    /// let name = base.in_folders(&"50-74".parse()?, count).next().expect("a quarter of all names");
    /// assert!((50..75).contains(&hydra_core::folder_of(&name, count).get()));
    /// # Ok::<(), hydra_core::Error>(())
    /// ```
    pub fn in_folders<'a>(
        &'a self,
        folders: &'a FolderSet,
        count: FolderCount,
    ) -> impl Iterator<Item = SwampName> + 'a {
        let numbered = (1u64..)
            .map_while(|n| SwampName::new(self.sanctuary(), self.realm(), &format!("{}-{n}", self.swamp())).ok());
        let reachable = folders.iter().any(|folder| folder.get() < count.get());
        std::iter::once(self.clone())
            .chain(numbered)
            .take_while(move |_| reachable)
            .filter(move |name| folders.contains(folder_of(name, count)))
    }
}

fn check_part(part: &str, text: &str) -> Result<(), Error> {
    let refuse = |rule: &str| {
        Err(Error::new(ErrorCode::InvalidName, format!("the {part} {} {rule}", shown(text)))
            .with_hint("each part of sanctuary/realm/swamp has 1 to 255 bytes, without / \\ * and control characters"))
    };
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.len() > MAX_PART_BYTES {
        return refuse(&format!("has {} bytes, {MAX_PART_BYTES} are allowed", text.len()));
    }
    if text == "." || text == ".." {
        return refuse("is a path step");
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return refuse("starts or ends with a space");
    }
    if is_plain(text, b"/\\*") {
        return Ok(());
    }
    match text.chars().find(|&c| matches!(c, '/' | '\\' | '*') || is_control(c)) {
        Some(c) => refuse(&format!("contains {c:?} (U+{:04X})", u32::from(c))),
        None => Ok(()),
    }
}

/// Checks one part of a pattern that stands for itself or is a prefix, by the rules of names.
pub(crate) fn check_pattern_part(position: usize, text: &str) -> Result<(), Error> {
    check_part(PARTS[position], text)
}

/// Checks a key: 1 to 1024 bytes of UTF-8, not `.` or `..`, no control characters.
///
/// # Errors
/// `invalid-key` names the rule.
pub fn check_key(key: &str) -> Result<(), Error> {
    let refuse = |rule: String| {
        Err(Error::new(ErrorCode::InvalidKey, format!("the key {} {rule}", shown(key)))
            .with_hint("a key has 1 to 1024 bytes without control characters and is not . or .."))
    };
    if key.is_empty() {
        return refuse("is empty".into());
    }
    if key.len() > MAX_KEY_BYTES {
        return refuse(format!("has {} bytes, {MAX_KEY_BYTES} are allowed", key.len()));
    }
    if key == "." || key == ".." {
        return refuse("is a path step".into());
    }
    if is_plain(key, b"") {
        return Ok(());
    }
    match key.chars().find(|&c| is_control(c)) {
        Some(c) => refuse(format!("contains the control character U+{:04X}", u32::from(c))),
        None => Ok(()),
    }
}

/// Whether it is printable ASCII without some, as nearly all names and keys are: seen in a quarter of the time that a
/// look at each character takes.
fn is_plain(text: &str, without: &[u8]) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !without.contains(&byte))
}

fn is_control(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
}

/// A piece of input in quotes, escaped and cut so that it can stand in a message.
fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

impl FromStr for SwampName {
    type Err = Error;

    fn from_str(text: &str) -> Result<SwampName, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [sanctuary, realm, swamp] => SwampName::new(sanctuary, realm, swamp),
            _ => Err(Error::new(
                ErrorCode::InvalidName,
                format!("{} has {} parts; a swamp name is sanctuary/realm/swamp", shown(text), parts.len()),
            )),
        }
    }
}

impl TryFrom<&str> for SwampName {
    type Error = Error;

    fn try_from(text: &str) -> Result<SwampName, Error> {
        text.parse()
    }
}

impl TryFrom<&String> for SwampName {
    type Error = Error;

    fn try_from(text: &String) -> Result<SwampName, Error> {
        text.parse()
    }
}

impl TryFrom<String> for SwampName {
    type Error = Error;

    fn try_from(text: String) -> Result<SwampName, Error> {
        text.parse()
    }
}

impl TryFrom<(&str, &str, &str)> for SwampName {
    type Error = Error;

    fn try_from((sanctuary, realm, swamp): (&str, &str, &str)) -> Result<SwampName, Error> {
        SwampName::new(sanctuary, realm, swamp)
    }
}

impl From<&SwampName> for SwampName {
    fn from(name: &SwampName) -> SwampName {
        name.clone()
    }
}

impl PartialEq for SwampName {
    fn eq(&self, other: &SwampName) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for SwampName {}

impl std::hash::Hash for SwampName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialOrd for SwampName {
    fn partial_cmp(&self, other: &SwampName) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SwampName {
    fn cmp(&self, other: &SwampName) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for SwampName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SwampName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_of_a_part_is_held_from_both_sides() {
        let ok = ["a", "A", " a b ".trim(), "ä", "%41", "a.b", "..a", "~", "-", "con", &"x".repeat(255)];
        for part in ok {
            assert!(SwampName::new("s", part, "w").is_ok(), "{part:?}");
        }
        let bad = [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "*",
            "a*",
            " a",
            "a ",
            "a\0",
            "a\u{1f}",
            "a\u{7f}",
            "a\u{9f}",
            "a\n",
            &"x".repeat(256),
        ];
        for part in bad {
            let error = SwampName::new("s", part, "w").expect_err(part);
            assert_eq!(error.code(), ErrorCode::InvalidName);
            assert!(error.detail().contains("realm"), "{error}");
        }
    }

    #[test]
    fn each_rule_of_a_key_is_held_from_both_sides() {
        for key in ["a", "a/b", " ", "a\\b", "*", "...", &"x".repeat(1024)] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
        for key in ["", ".", "..", "a\0", "\r\n", "\u{85}", &"x".repeat(1025)] {
            assert_eq!(check_key(key).expect_err(key).code(), ErrorCode::InvalidKey);
        }
    }

    #[test]
    fn parts_are_never_confused() {
        assert_ne!("ab/c/d".parse::<SwampName>().expect("name"), "a/bc/d".parse().expect("name"));
        let name: SwampName = "ä/b/c d".parse().expect("name");
        assert_eq!(name.parts(), ["ä", "b", "c d"]);
    }
}
