//! Programs without async: every kind of call, on a server and in this process, from several threads.

use std::time::Duration;

use hydra_sdk::blocking::{Iterate, Run};
use hydra_sdk::{ErrorKind, EventKind, Hydra, Result, Swamp};
use hydra_testkit::TestServer;

fn story(hydra: &Hydra) -> Result<()> {
    let swamp: Swamp<u64> = hydra.swamp("plain/program/one")?;
    let first = swamp.put("a", &1).create_only().run()?;
    swamp.put("a", &2).if_version(&first.version).run()?;
    let stale = swamp.put("a", &3).if_version(&first.version).run().expect_err("an old version");
    assert_eq!(stale.kind(), ErrorKind::VersionMismatch);

    let threads: Vec<_> = (0..4)
        .map(|_| {
            let swamp = swamp.clone();
            std::thread::spawn(move || (0..25).try_for_each(|_| swamp.increment("sum", 1).run().map(drop)))
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic")?;
    }
    assert_eq!(swamp.get("sum").run()?, Some(100));

    let mut all = swamp.list().stream().iterate();
    assert_eq!(all.next().transpose()?.map(|treasure| treasure.key).as_deref(), Some("a"));
    assert_eq!(all.by_ref().count(), 1);
    assert!(all.next().is_none());

    let mut events = swamp.subscribe().snapshot().stream().iterate();
    let mut told = 0;
    while !matches!(events.next().expect("a feed has no end")?.kind, EventKind::Live) {
        told += 1;
    }
    swamp.put("b", &7).run()?;
    assert!(matches!(events.next().expect("a feed has no end")?.kind, EventKind::Put { .. }));
    assert!(told >= 2, "{told}");

    // Given back when it is dropped, also without async around it.
    drop(swamp.lock("l", Duration::from_secs(60)).run()?.expect("granted"));
    assert!(swamp.lock("l", Duration::from_secs(1)).wait(Duration::from_secs(20)).run()?.is_some());

    let bad = swamp.list().limit(0).page().run().expect_err("no such page");
    assert_eq!(bad.kind(), ErrorKind::Invalid);
    let mut none = hydra.swamp::<String>("plain/program/one")?.list().stream().iterate();
    assert_eq!(none.next().expect("an item").expect_err("no text").kind(), ErrorKind::Decode);
    assert!(none.next().is_none(), "an error ends it");
    assert!(swamp.destroy().run()?);
    Ok(())
}

#[test]
fn a_program_without_async_does_everything() -> Result<()> {
    let server = TestServer::start().run()?;
    story(&server.connect().run()?)?;
    let embedded = Hydra::connect("mem://").run()?;
    story(&embedded)?;
    embedded.close().run()
}
