//! Lists through the real client: the same through a server as in its own process.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use hydra_sdk::{ClientMap, Error, ErrorCode, ErrorKind, Expired, Filter, Hydra, ListedSwamp, Swamp, SwampName};
use hydra_server::Config;
use serde_json::{Value as Json, json};

use crate::support::{Hydra as Server, block_on};

async fn keys(list: hydra_sdk::List<Json>) -> Result<String, Error> {
    let all: Vec<_> = list.stream().try_collect().await?;
    Ok(all.into_iter().map(|treasure| treasure.key).collect::<Vec<_>>().join(" "))
}

/// Tries every kind of list and notes what came of it.
async fn story(hydra: &Hydra) -> Result<Vec<String>, Error> {
    let swamp: Swamp<Json> = hydra.swamp("shop/orders/eu")?;
    let mut told = vec![format!("{} {:?}", swamp.list().count().await?, swamp.list().page().await?)];
    for n in 0..12u64 {
        let status = if n % 3 == 0 { "open" } else { "done" };
        let value = json!({"status": status, "total": 9_007_199_254_740_990 + n, "tags": [format!("t{}", n % 2)]});
        swamp.put(format!("o{n:02}"), &value).await?;
    }
    swamp.put("late", &json!({"status": "late"})).expires_at(std::time::UNIX_EPOCH).await?;
    swamp.put_value("png", hydra_sdk::Value::binary("image/png", [1, 2]).expect("binary")).await?;
    let by = |order: &str| swamp.list().order_by(order.parse().expect("an order"));
    told.push(keys(by("value:/total").descending().limit(3)).await?);
    told.push(keys(by("created").range("o03".."o06")).await?);
    told.push(keys(swamp.list().range::<&str>(..="o01").expired(Expired::Included)).await?);
    told.push(keys(swamp.list().expired(Expired::Only)).await?);
    let filters = [
        Filter::eq("/status", "open"),
        Filter::gt("/total", 9_007_199_254_740_992u64).and(Filter::lt("/total", 9_007_199_254_740_994u64)),
        Filter::contains("/tags", "t1").and(!Filter::is_in("/status", ["open", "late"])),
        Filter::starts("/status", "op").or(Filter::absent("/status")),
        Filter::all([Filter::ne("/status", "done"), Filter::exists("/tags/0"), Filter::ge("/total", 0)]),
        Filter::le("/total", 9_007_199_254_740_991u64).or("/status == \"late\"".parse()?),
    ];
    for filter in filters {
        let list = || swamp.list().filter(filter.clone());
        told.push(format!("{} {}", keys(list()).await?, list().count().await?));
        told.push(keys(list().prefix("o0").order_by("value:/status".parse()?)).await?);
    }
    let metas: Vec<_> = swamp.list().without_values().limit(2).stream().try_collect().await?;
    let versions =
        [swamp.treasure("o00").await?, swamp.treasure("o01").await?].map(|found| found.expect("there").version);
    told.push(format!("{}", metas.iter().map(|meta| meta.version).eq(versions)));
    told.push(swamp.list().keys().try_collect::<Vec<_>>().await?.join(" "));
    // Pages: the cursor of one list is none of another.
    let first = by("updated").limit(5).page().await?;
    let cursor = first.next.expect("more");
    told.push(by("updated").limit(50).after(&cursor).page().await?.treasures.len().to_string());
    let failure = |error: Error| format!("{:?} {:?}", error.kind(), error.code());
    told.push(failure(by("created").after(&cursor).page().await.expect_err("of another list")));
    told.push(failure(swamp.list().filter(Filter::eq("status", 1)).page().await.expect_err("no pointer")));
    told.push(failure(swamp.list().filter(Filter::any([])).count().await.expect_err("nothing to hold")));
    // The swamps.
    for name in ["users/a/1", "users/a/2", "users/b/é x", "other/a/1"] {
        hydra.swamp::<Json>(name)?.put("k", &json!(1)).await?;
    }
    let listed = |swamps: hydra_sdk::Swamps| async move {
        let found: Vec<ListedSwamp> = swamps.stream().try_collect().await?;
        Ok::<_, Error>(found.iter().map(|one| format!("{} {:?}", one.name, one.count)).collect::<Vec<_>>().join(", "))
    };
    told.push(listed(hydra.swamps()).await?);
    told.push(listed(hydra.swamps().sanctuary("users").info()).await?);
    told.push(listed(hydra.swamps().sanctuary("users").realm("b").prefix("é")).await?);
    told.push(listed(hydra.swamps().limit(2)).await?);
    told.push(failure(listed(hydra.swamps().sanctuary("a*")).await.expect_err("no name")));
    Ok(told)
}

#[test]
fn lists_are_the_same_through_a_server_and_in_the_own_process() {
    let server = Server::start();
    let url = server.server().url().to_owned();
    let (remote, embedded) = block_on(async {
        let remote = Hydra::connect(&url).await.expect("connects");
        let embedded = Hydra::connect("mem://").await.expect("opens");
        (story(&remote).await.expect("told"), story(&embedded).await.expect("told"))
    });
    assert_eq!(remote, embedded);
    assert!(remote.contains(&"o11 o10 o09".to_owned()), "{remote:#?}");
    assert!(remote.contains(&"o03 1".to_owned()), "numbers beyond 2^53 stay apart: {remote:#?}");
    assert!(remote.contains(&format!("{:?} {:?}", ErrorKind::Invalid, Some(ErrorCode::InvalidFilter))), "{remote:#?}");
}

#[test]
fn the_swamps_of_all_servers_come_each_once() {
    let start = |id: &str, owned: &str, copies: &str| {
        let (owned, copies) = (owned.parse().expect("folders"), copies.parse().expect("folders"));
        let id = Some(id.to_owned());
        Server::start_with(
            |options| (options.server_id, options.owned, options.standby) = (id, Some(owned), copies),
            Config::default(),
        )
    };
    let (one, two) = (start("one", "0-49", "50-99"), start("two", "50-99", "0-49"));
    let map = ClientMap::builder()
        .folders(100)
        .server("one", one.server().url())
        .server("two", two.server().url())
        .route("0-49", "one", ["two"])
        .route("50-99", "two", ["one"])
        .build()
        .expect("a map");
    block_on(async {
        let hydra = Hydra::with_map(map).expect("a client");
        let names: BTreeSet<String> = (0..60).map(|n| format!("users/p/u{n}")).collect();
        for name in &names {
            hydra.swamp::<Json>(name.as_str()).expect("a name").put("k", &json!(1)).await.expect("written");
        }
        let found: Vec<ListedSwamp> = hydra.swamps().stream().try_collect().await.expect("listed");
        let listed: Vec<&SwampName> = found.iter().map(|one| &one.name).collect();
        assert!(found.is_sorted_by_key(|one| one.folder));
        assert_eq!(listed.len(), names.len());
        assert_eq!(listed.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), names);
    });
}
