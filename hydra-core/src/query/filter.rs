//! Filters: which treasures a list has, by what is in their values.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorCode};
use crate::json;

use super::collation::collate;
use super::scan::Json;
use crate::pointer::Pointer;

/// How deep `and`, `or` and `not` may be nested.
pub const MAX_FILTER_DEPTH: usize = 16;
/// How many tests a filter may have.
pub const MAX_FILTER_TESTS: usize = 256;
/// How many values the list of an `in` may have.
pub const MAX_FILTER_VALUES: usize = 1_000;

const OPS: &str = "== != < <= > >= in contains starts exists";

/// A condition on the value of a treasure, read from a text by [`FromStr`].
///
/// A test is `pointer op value`: a [`Pointer`] (in quotes as a JSON string where it is empty or has spaces), one
/// of `== != < <= > >= in contains starts exists`, and a JSON value. The same as JSON is
/// `{"path": pointer, "op": op, "value": value}`, and `{"and": [..]}`, `{"or": [..]}` and `{"not": ..}` join filters.
///
/// * Comparisons go by type first, null < false < true < numbers < strings < arrays < objects, and numbers compare
///   exactly, however long they are.
/// * `in` takes an array, `contains` finds an element of an array or a part of a string, `starts` the beginning
///   of a string, `exists` takes `true` (the default) or `false`.
/// * Where nothing stands at the pointer no test but `exists false` holds, not even `!=`. Values that are no JSON
///   have nothing anywhere.
///
/// ```
/// use hydra_core::Filter;
///
/// let open: Filter = r#"/status == "open""#.parse()?;
/// let either: Filter = r#"{"or":[{"path":"/n","op":">=","value":3},{"path":"/tags","op":"contains","value":"x"}]}"#.parse()?;
/// assert_ne!(open, either);
/// # Ok::<(), hydra_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

#[derive(Debug, Clone, PartialEq)]
struct Test {
    path: Pointer,
    op: Op,
    /// The value as it was written.
    value: Box<str>,
    operand: Operand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    Contains,
    Starts,
    Exists,
}

/// What a test compares with, ready for comparing.
#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// A collated value, and its text where it is a string.
    Value(Vec<u8>, Option<String>),
    /// Collated values in order.
    Among(Vec<Vec<u8>>),
    Flag(bool),
}

impl Filter {
    /// Reads a filter from its JSON form; `place` is what errors call it.
    ///
    /// # Errors
    /// `invalid-filter` names the place inside the filter, what stands there and what is allowed.
    pub fn from_json(text: &str, place: &str) -> Result<Filter, Error> {
        json::check(text.as_bytes()).map_err(|error| refuse(place, error.detail()))?;
        Reader::default().node(Json::new(text.as_bytes()), place, 0).map(Filter)
    }

    /// Reads a filter from its text form, or from JSON where it begins with `{`; `place` is what errors call it.
    ///
    /// # Errors
    /// Those of [`Filter::from_json`].
    pub fn from_text(text: &str, place: &str) -> Result<Filter, Error> {
        let text = text.trim();
        if text.starts_with('{') { Filter::from_json(text, place) } else { written_test(text, place).map(Filter) }
    }

    /// A filter that holds where all of these do; `None` for none.
    #[must_use]
    pub fn all(filters: Vec<Filter>) -> Option<Filter> {
        let mut nodes: Vec<Node> = filters.into_iter().map(|filter| filter.0).collect();
        match nodes.len() {
            0 => None,
            1 => nodes.pop().map(Filter),
            _ => Some(Filter(Node::And(nodes))),
        }
    }

    /// Whether a value passes; `None` stands for bytes that are no JSON.
    pub(crate) fn passes(&self, json: Option<&[u8]>) -> bool {
        self.0.passes(json.map(Json::new))
    }
}

impl Node {
    fn passes(&self, value: Option<Json<'_>>) -> bool {
        match self {
            Node::And(nodes) => nodes.iter().all(|node| node.passes(value)),
            Node::Or(nodes) => nodes.iter().any(|node| node.passes(value)),
            Node::Not(node) => !node.passes(value),
            Node::Test(test) => test.passes(value.and_then(|value| value.at(&test.path))),
        }
    }
}

impl Test {
    fn passes(&self, found: Option<Json<'_>>) -> bool {
        let found = match (&self.operand, found) {
            (Operand::Flag(wanted), found) => return *wanted == found.is_some(),
            (_, None) => return false,
            (_, Some(found)) => found,
        };
        match (&self.operand, self.op) {
            (Operand::Among(values), _) => values.binary_search(&collate(found)).is_ok(),
            (Operand::Value(_, text), Op::Starts) => starts(found, text.as_deref()),
            (Operand::Value(value, text), Op::Contains) => contains(found, value, text.as_deref()),
            (Operand::Value(value, _), op) => op.holds(collate(found).cmp(value)),
            (Operand::Flag(_), _) => false,
        }
    }
}

fn starts(found: Json<'_>, text: Option<&str>) -> bool {
    found.string().zip(text).is_some_and(|(found, text)| found.starts_with(text))
}

fn contains(found: Json<'_>, value: &[u8], text: Option<&str>) -> bool {
    match found.string() {
        Some(found) => text.is_some_and(|text| found.contains(text)),
        None => found.elements().any(|element| collate(element) == value),
    }
}

impl Op {
    fn from_text(text: &str) -> Option<Op> {
        Some(match text {
            "==" => Op::Eq,
            "!=" => Op::Ne,
            "<" => Op::Lt,
            "<=" => Op::Le,
            ">" => Op::Gt,
            ">=" => Op::Ge,
            "in" => Op::In,
            "contains" => Op::Contains,
            "starts" => Op::Starts,
            "exists" => Op::Exists,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        OPS.split(' ').nth(self as usize).unwrap_or_default()
    }

    /// Whether what is found compares as the operator wants.
    fn holds(self, found: std::cmp::Ordering) -> bool {
        match self {
            Op::Eq => found.is_eq(),
            Op::Ne => found.is_ne(),
            Op::Lt => found.is_lt(),
            Op::Le => found.is_le(),
            Op::Gt => found.is_gt(),
            Op::Ge => found.is_ge(),
            Op::In | Op::Contains | Op::Starts | Op::Exists => false,
        }
    }
}

fn refuse(place: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidFilter, format!("{place}: {why}")).with_hint(
        "a filter is like /status == \"open\", or {\"path\":\"/status\",\"op\":\"==\",\"value\":\"open\"}, \
         {\"and\":[..]}, {\"or\":[..]}, {\"not\":..}",
    )
}

/// Reads the JSON form and counts its tests.
#[derive(Default)]
struct Reader {
    tests: usize,
}

impl Reader {
    fn node(&mut self, json: Json<'_>, place: &str, depth: usize) -> Result<Node, Error> {
        if depth > MAX_FILTER_DEPTH {
            return Err(refuse(place, format!("the filter is nested deeper than {MAX_FILTER_DEPTH} levels")));
        }
        if json.first() != b'{' {
            return Err(refuse(place, format!("{} is no filter; an object is needed", shown(json))));
        }
        let members: Vec<_> = json.members().collect();
        match &members[..] {
            [(name, inner)] if name == "not" => {
                self.node(*inner, &format!("{place}.not"), depth + 1).map(|node| Node::Not(Box::new(node)))
            }
            [(name, inner)] if name == "and" || name == "or" => {
                let nodes = self.nodes(*inner, &format!("{place}.{name}"), depth + 1)?;
                Ok(if name == "and" { Node::And(nodes) } else { Node::Or(nodes) })
            }
            _ => self.test(&members, place),
        }
    }

    fn nodes(&mut self, json: Json<'_>, place: &str, depth: usize) -> Result<Vec<Node>, Error> {
        let read = |(at, element)| self.node(element, &format!("{place}[{at}]"), depth);
        let nodes: Vec<Node> = json.elements().enumerate().map(read).collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            return Err(refuse(place, format!("{} is no list of filters with at least one", shown(json))));
        }
        Ok(nodes)
    }

    fn test(&mut self, members: &[(std::borrow::Cow<'_, str>, Json<'_>)], place: &str) -> Result<Node, Error> {
        self.tests += 1;
        if self.tests > MAX_FILTER_TESTS {
            return Err(refuse(place, format!("the filter has more than {MAX_FILTER_TESTS} tests")));
        }
        let member = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
        if let Some((name, _)) = members.iter().find(|(name, _)| !matches!(&**name, "path" | "op" | "value")) {
            let detail = format!("the member {name:?} is not known; a test has path, op and value");
            return Err(refuse(place, detail));
        }
        let text = |name: &str| {
            let value = member(name).ok_or_else(|| refuse(place, format!("the test has no {name}")))?;
            let string = value.string();
            string.ok_or_else(|| refuse(&format!("{place}.{name}"), format!("{} is no string", shown(value))))
        };
        let (path, op) = (text("path")?, text("op")?);
        let path = path.parse().map_err(|error: Error| refuse(&format!("{place}.path"), error.detail()))?;
        let op = Op::from_text(&op)
            .ok_or_else(|| refuse(&format!("{place}.op"), format!("{op:?} is not known; known are {OPS}")))?;
        test(path, op, member("value"), place).map(Node::Test)
    }
}

/// A test of the text form: pointer, operator, value.
fn written_test(text: &str, place: &str) -> Result<Node, Error> {
    let (path, rest) = match text.strip_prefix('"') {
        Some(_) => {
            let quoted = Json::new(text.as_bytes());
            let path = quoted.string().ok_or_else(|| refuse(place, "the quotes around the pointer do not end"))?;
            (path.into_owned(), &text[quoted.text().len()..])
        }
        None => {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    if path.is_empty() && !text.starts_with('"') {
        return Err(refuse(place, "the filter is empty"));
    }
    let path = path.parse().map_err(|error: Error| refuse(place, error.detail()))?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
    let (op, value) = (&rest[..end], rest[end..].trim());
    let op = Op::from_text(op).ok_or_else(|| {
        let shown: String = op.chars().take(40).collect();
        refuse(place, format!("{shown:?} is no operator; after the pointer comes a space and one of {OPS}"))
    })?;
    if !value.is_empty() {
        let why = |error: Error| refuse(place, format!("behind {}: {}", op.as_str(), error.detail()));
        json::check(value.as_bytes()).map_err(why)?;
    }
    let value = Some(value).filter(|value| !value.is_empty()).map(|value| Json::new(value.as_bytes()));
    test(path, op, value, place).map(Node::Test)
}

fn test(path: Pointer, op: Op, value: Option<Json<'_>>, place: &str) -> Result<Test, Error> {
    let refuse_value = |value: Json<'_>, needed: &str| {
        Err(refuse(&format!("{place}.value"), format!("{} is given; {} needs {needed}", shown(value), op.as_str())))
    };
    let value = match (op, value) {
        (Op::Exists, None) => Json::new(b"true"),
        (_, None) => return Err(refuse(place, format!("{} has no value to compare with", op.as_str()))),
        (_, Some(value)) => value,
    };
    let operand = match op {
        Op::Exists => match value.text() {
            b"true" => Operand::Flag(true),
            b"false" => Operand::Flag(false),
            _ => return refuse_value(value, "true or false"),
        },
        Op::In => {
            let mut values: Vec<Vec<u8>> = value.elements().take(MAX_FILTER_VALUES + 1).map(collate).collect();
            if value.first() != b'[' || values.len() > MAX_FILTER_VALUES {
                return refuse_value(value, &format!("an array of at most {MAX_FILTER_VALUES} values"));
            }
            values.sort();
            Operand::Among(values)
        }
        Op::Starts if value.first() != b'"' => return refuse_value(value, "a string"),
        _ => Operand::Value(collate(value), value.string().map(std::borrow::Cow::into_owned)),
    };
    Ok(Test { path, op, value: String::from_utf8_lossy(value.text()).into(), operand })
}

/// A piece of JSON for a message, cut where it is long.
fn shown(json: Json<'_>) -> String {
    let text = String::from_utf8_lossy(json.text());
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.into_owned(),
    }
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Filter, Error> {
        Filter::from_text(text, "where")
    }
}

/// The JSON form.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |name: &str, nodes: &[Node]| {
            write!(f, "{{\"{name}\":[")?;
            for (at, node) in nodes.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                write!(f, "{comma}{node}")?;
            }
            f.write_str("]}")
        };
        match self {
            Node::And(nodes) => list("and", nodes),
            Node::Or(nodes) => list("or", nodes),
            Node::Not(node) => write!(f, "{{\"not\":{node}}}"),
            Node::Test(Test { path, op, value, .. }) => {
                let path = serde_json::Value::from(path.to_string());
                write!(f, "{{\"path\":{path},\"op\":\"{}\",\"value\":{value}}}", op.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filter: &str, value: &str) -> bool {
        let filter: Filter = filter.parse().expect(filter);
        let again: Filter = filter.to_string().parse().expect("its own form");
        assert_eq!(again, filter, "the JSON form says the same");
        filter.passes(Some(value.as_bytes()))
    }

    #[test]
    fn each_operator_holds_where_it_should_and_nowhere_else() {
        let value = r#"{"n":3,"s":"open","t":["a",1,{"x":null}],"z":null,"big":9007199254740993,"a b":true}"#;
        let holding = [
            "/n == 3",
            "/n == 3.0",
            "/n != 4",
            "/n != \"3\"",
            "/n < 3.5",
            "/n <= 3",
            "/n > -1",
            "/n >= 3e0",
            "/n in [1,2,3]",
            "/s in [\"open\"]",
            "/s contains \"pe\"",
            "/s starts \"op\"",
            "/s > 99999",
            "/t contains \"a\"",
            "/t contains {\"x\":null}",
            "/t/1 == 1",
            "/z == null",
            "/z < false",
            "/z exists",
            "/y exists false",
            "/big > 9007199254740992",
            "\"/a b\" == true",
            "\"\" >= {}",
            r#"{"not":{"path":"/y","op":"==","value":1}}"#,
            r#"{"and":[{"path":"/n","op":">","value":1},{"or":[{"path":"/n","op":"==","value":9},{"path":"/s","op":"exists"}]}]}"#,
        ];
        for filter in holding {
            assert!(passes(filter, value), "{filter}");
        }
        let failing = [
            "/n == 4",
            "/y == 1",
            "/y != 1",
            "/y < 1",
            "/y in [1]",
            "/n contains 3",
            "/n starts \"3\"",
            "/t contains 2",
            "/s contains 1",
            "/y exists",
            "/z exists false",
            "/big == 9007199254740992",
            r#"{"not":{"path":"/n","op":"==","value":3}}"#,
        ];
        for filter in failing {
            assert!(!passes(filter, value), "{filter}");
        }
        let binary: Filter = "/n exists false".parse().expect("a filter");
        assert!(binary.passes(None));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_place() {
        let deep = format!("{}{}{}", "{\"not\":".repeat(17), r#"{"path":"/a","op":"exists"}"#, "}".repeat(17));
        let many = format!("{{\"or\":[{}]}}", vec![r#"{"path":"/a","op":"exists"}"#; 257].join(","));
        let values = format!("/a in [{}]", vec!["1"; 1_001].join(","));
        let cases = [
            ("", "empty"),
            ("status == 1", "does not begin with /"),
            ("/a", "operator"),
            ("/a = 1", "operator"),
            ("/a == open", "behind =="),
            ("/a == 1 2", "behind =="),
            ("/a ==", "no value"),
            ("/a in 3", "where.value"),
            ("/a starts 3", "where.value"),
            ("/a exists 3", "where.value"),
            ("\"/a", "quotes"),
            ("{", "where: "),
            ("{}", "no path"),
            (r#"{"path":1,"op":"=="}"#, "where.path"),
            (r#"{"path":"/a","op":"~","value":1}"#, "where.op"),
            (r#"{"path":"/a","op":"==","val":1}"#, "\"val\""),
            (r#"{"and":[]}"#, "where.and"),
            (r#"{"and":{}}"#, "where.and"),
            (r#"{"or":[{"path":"/a","op":"exists"},{"not":3}]}"#, "where.or[1].not"),
            (r#"{"or":[],"and":[]}"#, "is not known"),
            (deep.as_str(), "deeper than 16"),
            (many.as_str(), "more than 256"),
            (values.as_str(), "at most 1000"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Filter>().expect_err(text);
            assert_eq!(error.code(), ErrorCode::InvalidFilter, "{text}");
            assert!(error.detail().contains(expected), "{text}: {}", error.detail());
        }
    }
}
