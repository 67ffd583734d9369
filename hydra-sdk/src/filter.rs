//! [`Filter`]: which treasures a list has, by what is in their values.

use std::ops::Not;
use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};

/// A condition on values, made of tests. A path is a JSON Pointer: `""` for the whole value, `"/address/city"` or
/// `"/tags/0"` for a place in it.
///
/// Values compare by their type first, null < false < true < numbers < strings < arrays < objects, and numbers
/// exactly. Where nothing stands at the path no test holds but [`Filter::absent`], not even [`Filter::ne`].
/// What is wrong with a filter is the error of the list it is given to.
///
/// ```
/// use hydra_sdk::Filter;
///
/// # async fn example(orders: hydra_sdk::Swamp) -> hydra_sdk::Result<()> {
/// let urgent = Filter::eq("/status", "open").and(Filter::gt("/total", 100).or(Filter::contains("/tags", "vip")));
/// let page = orders.list().filter(urgent).order_by("updated".parse()?).descending().limit(20).page().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Filter(Result<hydra_core::Filter, hydra_core::Error>);

impl Filter {
    /// What stands at the path is this value.
    pub fn eq(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), "==", &value)
    }

    /// Something else stands at the path.
    pub fn ne(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), "!=", &value)
    }

    /// What stands at the path is less.
    pub fn lt(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), "<", &value)
    }

    /// What stands at the path is less, or this value.
    pub fn le(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), "<=", &value)
    }

    /// What stands at the path is greater.
    pub fn gt(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), ">", &value)
    }

    /// What stands at the path is greater, or this value.
    pub fn ge(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), ">=", &value)
    }

    /// What stands at the path is one of these values, at most 1 000.
    pub fn is_in<T: Serialize>(path: impl AsRef<str>, values: impl IntoIterator<Item = T>) -> Filter {
        test(path.as_ref(), "in", &values.into_iter().collect::<Vec<T>>())
    }

    /// An array with this element stands at the path, or a string with this part.
    pub fn contains(path: impl AsRef<str>, value: impl Serialize) -> Filter {
        test(path.as_ref(), "contains", &value)
    }

    /// A string that begins like this stands at the path.
    pub fn starts(path: impl AsRef<str>, beginning: impl AsRef<str>) -> Filter {
        test(path.as_ref(), "starts", &beginning.as_ref())
    }

    /// Something stands at the path, be it null.
    pub fn exists(path: impl AsRef<str>) -> Filter {
        test(path.as_ref(), "exists", &true)
    }

    /// Nothing stands at the path.
    pub fn absent(path: impl AsRef<str>) -> Filter {
        test(path.as_ref(), "exists", &false)
    }

    /// Both hold.
    pub fn and(self, other: Filter) -> Filter {
        Filter::all([self, other])
    }

    /// At least one of them holds.
    pub fn or(self, other: Filter) -> Filter {
        Filter::any([self, other])
    }

    /// All of them hold; at least one is needed.
    pub fn all(filters: impl IntoIterator<Item = Filter>) -> Filter {
        join("and", filters)
    }

    /// At least one of them holds; at least one is needed.
    pub fn any(filters: impl IntoIterator<Item = Filter>) -> Filter {
        join("or", filters)
    }

    pub(crate) fn checked(self) -> Result<hydra_core::Filter> {
        Ok(self.0?)
    }
}

/// The filter does not hold.
impl Not for Filter {
    type Output = Filter;

    fn not(self) -> Filter {
        Filter(self.0.and_then(|filter| read(&format!("{{\"not\":{filter}}}"))))
    }
}

/// A filter as it is written for HTTP: `/status == "open"`, or its JSON form.
impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Filter> {
        Ok(Filter(Ok(text.parse()?)))
    }
}

fn read(json: &str) -> Result<hydra_core::Filter, hydra_core::Error> {
    hydra_core::Filter::from_json(json, "the filter")
}

fn test(path: &str, op: &str, value: &impl Serialize) -> Filter {
    let written = serde_json::to_string(value).map_err(|error| {
        let detail = format!("the filter on {path:?}: the value cannot be written as JSON: {error}");
        hydra_core::Error::new(hydra_core::ErrorCode::InvalidFilter, detail)
    });
    let path = serde_json::Value::from(path);
    Filter(written.and_then(|value| read(&format!("{{\"path\":{path},\"op\":\"{op}\",\"value\":{value}}}"))))
}

fn join(how: &str, filters: impl IntoIterator<Item = Filter>) -> Filter {
    let parts: Result<Vec<String>, _> =
        filters.into_iter().map(|filter| filter.0.map(|filter| filter.to_string())).collect();
    Filter(parts.and_then(|parts| read(&format!("{{\"{how}\":[{}]}}", parts.join(",")))))
}
