//! What a list is asked for: the same members as parameters of a URL and in the body of a query. Pure.

use hydra_core::wire::{QueryBody, read_object};
use hydra_core::{Error, Expired, Filter, ListQuery, check_key};

use crate::config::{DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT};
use crate::query::{Query, invalid};
use crate::render::Include;

/// The parameters of a list.
const KNOWN: [&str; 11] =
    ["order", "dir", "prefix", "from", "to", "where", "expired", "include", "limit", "cursor", "key"];
/// Those that say which treasures are counted.
const CONDITIONS: [&str; 5] = ["prefix", "from", "to", "where", "expired"];
/// Those that may stand more than once.
const LISTS: [&str; 2] = ["where", "key"];

/// A list that can be carried out.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) query: ListQuery,
    pub(crate) include: Include,
    /// Whether the limit was asked for.
    pub(crate) is_limited: bool,
    /// Just these keys, whatever else there is.
    pub(crate) keys: Vec<String>,
}

impl Wanted {
    /// Reads the parameters of a list.
    ///
    /// # Errors
    /// `unknown-parameter`, `invalid-parameter`, `invalid-filter` and `invalid-key`.
    pub(crate) fn of_parameters(text: Option<&str>) -> Result<Wanted, Error> {
        let query = Query::parse_lists(text, &KNOWN, &LISTS)?;
        let owned = |name: &str| query.text(name).map(str::to_owned);
        let body = QueryBody {
            order: owned("order"),
            dir: owned("dir"),
            prefix: owned("prefix"),
            from: owned("from"),
            to: owned("to"),
            filter: None,
            expired: owned("expired"),
            include: owned("include"),
            limit: query.value("limit", &limits())?,
            cursor: owned("cursor"),
            keys: query.text("key").map(|_| query.texts("key").map(str::to_owned).collect()),
        };
        Wanted::new(body, filter_of(&query)?)
    }

    /// Reads what is to be counted.
    ///
    /// # Errors
    /// Those of [`Wanted::of_parameters`].
    pub(crate) fn of_count(text: Option<&str>) -> Result<ListQuery, Error> {
        Query::parse_lists(text, &CONDITIONS, &LISTS)?;
        Ok(Wanted::of_parameters(text)?.query)
    }

    /// Reads the body of a query; no body asks for everything.
    ///
    /// # Errors
    /// `invalid-body` for what is no query, otherwise those of [`Wanted::of_parameters`].
    pub(crate) fn of_body(bytes: &[u8]) -> Result<Wanted, Error> {
        if bytes.trim_ascii().is_empty() {
            return Wanted::new(QueryBody::default(), None);
        }
        let form = r#"{"where":{"path":"/n","op":">=","value":3},"order":"updated","limit":20}"#;
        let mut body: QueryBody = read_object(bytes, "the query", form)?;
        let filter = body.filter.take().map(|filter| Filter::from_json(filter.get(), "where")).transpose()?;
        Wanted::new(body, filter)
    }

    fn new(body: QueryBody, filter: Option<Filter>) -> Result<Wanted, Error> {
        let descending = match body.dir.as_deref() {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(other) => return Err(invalid("dir", &format!("is {other:?}; allowed are asc and desc"))),
        };
        let expired = match body.expired.as_deref() {
            None => Expired::Hidden,
            Some("include") => Expired::Included,
            Some("only") => Expired::Only,
            Some(other) => return Err(invalid("expired", &format!("is {other:?}; allowed are include and only"))),
        };
        let include = match body.include.as_deref() {
            None => Include::Full,
            Some(text) => Include::from_text(text)
                .ok_or_else(|| invalid("include", &format!("is {text:?}; allowed are full, values, meta and keys")))?,
        };
        let most = MAX_LIST_LIMIT as i64;
        let limit = body.limit.unwrap_or(DEFAULT_LIST_LIMIT as i64);
        if !(1..=most).contains(&limit) {
            return Err(invalid("limit", &format!("is {limit}; allowed is {}", limits())));
        }
        let order = match body.order.as_deref() {
            None => hydra_core::Order::Key,
            Some(text) => text.parse().map_err(|error: Error| {
                let hint = error.hint().unwrap_or("write key, created, updated, expires or value:/pointer").to_owned();
                Error::new(error.code(), format!("the parameter order: {}", error.detail())).with_hint(hint)
            })?,
        };
        let query = ListQuery {
            order,
            descending,
            prefix: body.prefix,
            from: body.from,
            to: body.to,
            filter,
            expired,
            cursor: body.cursor,
            limit: limit as usize,
        };
        let keys = match body.keys {
            None => Vec::new(),
            Some(keys) => just_these(keys, &query, body.limit.is_some())?,
        };
        Ok(Wanted { query, include, is_limited: body.limit.is_some(), keys })
    }
}

fn limits() -> String {
    format!("a number from 1 to {MAX_LIST_LIMIT}")
}

/// Every `where` of a URL, all of which have to hold.
fn filter_of(query: &Query<'_>) -> Result<Option<Filter>, Error> {
    let count = query.texts("where").count();
    let place = |at: usize| if count > 1 { format!("where[{at}]") } else { "where".to_owned() };
    let filters = query.texts("where").enumerate().map(|(at, text)| Filter::from_text(text, &place(at)));
    filters.collect::<Result<_, _>>().map(Filter::all)
}

/// Keys that are asked for one by one: nothing else can be asked for with them.
fn just_these(keys: Vec<String>, query: &ListQuery, is_limited: bool) -> Result<Vec<String>, Error> {
    let plain = ListQuery { expired: query.expired, ..ListQuery::default() };
    if *query != plain || is_limited {
        return Err(invalid("key", "goes with include and expired only, not with conditions, an order or pages"));
    }
    if keys.is_empty() || keys.len() > MAX_LIST_LIMIT {
        return Err(invalid("key", &format!("stands {} times; allowed is 1 to {MAX_LIST_LIMIT}", keys.len())));
    }
    keys.iter().try_for_each(|key| check_key(key))?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use hydra_core::ErrorCode;

    use super::*;

    #[test]
    fn what_is_not_allowed_is_refused_not_clamped() {
        let refused = [
            "limit=0",
            "limit=10001",
            "limit=-1",
            "limit=x",
            "limit=99999999999999999999",
            "order=size",
            "order=value",
            "order=value:x",
            "dir=up",
            "include=all",
            "expired=no",
            "key=a&limit=3",
            "key=a&prefix=b",
            "key=a&order=created",
        ];
        for query in refused {
            let error = Wanted::of_parameters(Some(query)).expect_err(query);
            assert_eq!(error.code(), ErrorCode::InvalidParameter, "{query}");
            let name = query.split('=').next().expect("a name");
            assert!(error.detail().contains(name), "{query}: {error}");
        }
        assert_eq!(Wanted::of_parameters(Some("limit=10000")).expect("the most").query.limit, 10_000);
        assert_eq!(Wanted::of_parameters(None).expect("the default").query.limit, DEFAULT_LIST_LIMIT);
        assert_eq!(Wanted::of_parameters(Some("key=")).expect_err("no key").code(), ErrorCode::InvalidKey);
        assert_eq!(Wanted::of_count(Some("limit=3")).expect_err("no page").code(), ErrorCode::UnknownParameter);
        let second = Wanted::of_parameters(Some("where=/a+exists&where=/b")).expect_err("the second");
        assert!(second.detail().starts_with("where[1]"), "{second}");
    }

    #[test]
    fn parameters_and_bodies_say_the_same() {
        let parameters = "order=value:/n&dir=desc&prefix=a&from=b&to=c&expired=only&include=keys&limit=7&cursor=x\
                          &where=/a+%3D%3D+1&where={\"not\":{\"path\":\"/b\",\"op\":\"exists\"}}";
        let body = r#"{"order":"value:/n","dir":"desc","prefix":"a","from":"b","to":"c","expired":"only",
            "include":"keys","limit":7,"cursor":"x","where":{"and":[{"path":"/a","op":"==","value":1},
            {"not":{"path":"/b","op":"exists","value":true}}]}}"#;
        let wanted = Wanted::of_parameters(Some(parameters)).expect("parameters");
        assert_eq!(wanted, Wanted::of_body(body.as_bytes()).expect("a body"));
        let keys = Wanted::of_parameters(Some("key=b&key=a&include=meta")).expect("keys");
        assert_eq!(keys, Wanted::of_body(br#"{"keys":["b","a"],"include":"meta"}"#).expect("a body"));
        assert_eq!(Wanted::of_body(b" ").expect("nothing"), Wanted::of_parameters(None).expect("nothing"));
        for bad in ["[]", "{\"order\":1}", "{\"were\":1}", "{", "{\"limit\":1.5}", "{\"limit\":1}{}"] {
            assert_eq!(Wanted::of_body(bad.as_bytes()).expect_err(bad).code(), ErrorCode::InvalidBody);
        }
    }
}
