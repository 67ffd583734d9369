//! What a comment behind a command claims, and whether that is so.

use serde_json::Value;

/// What a command did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    /// The statuses that were answered, in order.
    pub(crate) statuses: Vec<u16>,
}

/// What a comment says that can be looked at.
#[derive(Debug, PartialEq)]
enum Claim<'c> {
    /// `412: it exists already`.
    Status(u16),
    /// `{"key":"visits","version":"…"}`: a line of the output, with `…` for anything.
    Output(&'c str),
    /// `token, fence, expiresAt`: members of the answer.
    Members(Vec<&'c str>),
    /// `ETag, Hydra-Folder: 62`, behind `curl -i`: headers.
    Headers(Vec<&'c str>),
    /// Words for the reader.
    Prose,
}

/// Whether a command did what is said about it; every request is to succeed unless something else is said.
///
/// # Errors
/// What does not hold.
pub(crate) fn check(command: &str, comments: &[String], outcome: &Outcome) -> Result<(), String> {
    let claims: Vec<Claim<'_>> = comments.iter().map(|comment| claim(command, comment)).collect();
    if outcome.code != Some(0) {
        return Err(format!("it ended with {:?}", outcome.code));
    }
    let stated = claims.iter().find_map(|claim| match claim {
        Claim::Status(status) => Some(*status),
        _ => None,
    });
    match (stated, outcome.statuses.as_slice()) {
        (Some(stated), [.., last]) if *last != stated => return Err(format!("it was answered {last}")),
        (Some(_), []) => return Err("nothing was answered".to_owned()),
        (Some(_), _) => {}
        (None, statuses) => {
            if let Some(refused) = statuses.iter().find(|status| !(200..400).contains(*status)) {
                return Err(format!("it was answered {refused}"));
            }
        }
    }
    claims.iter().try_for_each(|claim| holds(claim, &outcome.out))
}

fn claim<'c>(command: &str, comment: &'c str) -> Claim<'c> {
    let is_header = |piece: &&str| piece.split(": ").next().is_some_and(|name| name.bytes().all(is_of_a_name));
    let pieces: Vec<&str> = comment.split(", ").collect();
    if let Some(status) = comment.get(..3).and_then(|digits| digits.parse().ok())
        && comment[3..].chars().next().is_none_or(|next| !next.is_alphanumeric())
    {
        Claim::Status(status)
    } else if comment.starts_with(['{', '[', '"']) {
        Claim::Output(comment)
    } else if command.contains("curl -i ") && pieces.iter().all(is_header) {
        Claim::Headers(pieces)
    } else if command.contains("curl ") && pieces.len() > 1 && pieces.iter().all(|piece| is_member(piece)) {
        Claim::Members(pieces)
    } else {
        Claim::Prose
    }
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn is_member(piece: &str) -> bool {
    !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn holds(claim: &Claim<'_>, out: &str) -> Result<(), String> {
    match claim {
        Claim::Status(_) | Claim::Prose => Ok(()),
        Claim::Output(pattern) if out.lines().any(|line| fits(pattern, line.trim())) => Ok(()),
        Claim::Output(pattern) => Err(format!("no line of the output is {pattern}")),
        Claim::Headers(headers) => match headers.iter().find(|header| !has_header(out, header)) {
            None => Ok(()),
            Some(header) => Err(format!("there is no header {header}")),
        },
        Claim::Members(members) => {
            let answer: Value = serde_json::from_str(out).map_err(|error| format!("the answer is no JSON: {error}"))?;
            match members.iter().find(|member| answer.get(member).is_none()) {
                None => Ok(()),
                Some(member) => Err(format!("the answer has no member {member}")),
            }
        }
    }
}

fn has_header(out: &str, header: &str) -> bool {
    let (name, value) = header.split_once(": ").unwrap_or((header, "…"));
    let sent = out.lines().filter_map(|line| line.trim_end().split_once(": "));
    sent.into_iter().any(|(sent, given)| sent.eq_ignore_ascii_case(name) && fits(value, given))
}

/// Whether a text is what a pattern says, in which `…` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.is_empty()
}

#[test]
fn what_a_comment_claims_is_looked_at() {
    let outcome = |out: &str, status| Outcome { code: Some(0), out: out.to_owned(), statuses: vec![status] };
    let holds = |command: &str, comment: &str, out: &str, status| {
        check(command, &[comment.to_owned()], &outcome(out, status)).is_ok()
    };
    assert!(holds("curl a", "412: it exists", "", 412) && !holds("curl a", "412: it exists", "", 200));
    assert!(holds("curl a", "gone in two hours", "", 200) && !holds("curl a", "gone in two hours", "", 404));
    assert!(holds("curl a", "\"Alice\"", "\"Alice\"", 200) && !holds("curl a", "\"Alice\"", "\"Bob\"", 200));
    let version = "{\"key\":\"k\",\"version\":\"…\"}";
    assert!(holds("curl a", version, "{\"key\":\"k\",\"version\":\"7\"}", 200));
    assert!(!holds("curl a", version, "{\"key\":\"j\",\"version\":\"7\"}", 200));
    assert!(!holds("curl a", version, "{\"key\":\"k\",\"version\":\"7\"", 200));
    assert!(holds("curl a", "token, fence", "{\"token\":1,\"fence\":2}", 201));
    assert!(!holds("curl a", "token, fence", "{\"token\":1}", 201));
    assert!(holds("curl -i a", "ETag, Hydra-Folder: 62", "etag: \"1\"\r\nhydra-folder: 62\r\n", 200));
    assert!(!holds("curl -i a", "ETag, Hydra-Folder: 62", "etag: \"1\"\r\nhydra-folder: 6\r\n", 200));
    assert!(check("curl a", &[], &Outcome { code: Some(22), ..Outcome::default() }).is_err());
}
