//! One contract, held against every way to reach a data set: in this process, one server, several by a map, a router.
//!
//! What is to be done and what must come of it stands in `cases/*.json`, as data: see `case`. What takes more than one
//! caller, or a machine, is in `workers` and `model`.

/// A case: steps, and what each must answer.
mod case;
/// Random operations against a model of ten lines of state, with evictions and restarts in between.
mod model;
/// Carrying out a step with the client.
mod step;
/// The ways to reach a data set.
mod transport;
/// Twenty workers, pages under writes, feeds over restarts, locks in turn.
mod workers;

use case::Case;
use transport::{Kind, Transport};

/// Every case, in order; all that fail are told.
async fn hold(kind: Kind) {
    let mut transport = Transport::open(kind).await;
    let (cases, mut wrong) = (Case::all(), Vec::new());
    assert!(cases.len() >= 100, "{} cases were found", cases.len());
    for case in &cases {
        if let Err(why) = case.hold(&mut transport).await {
            wrong.push(format!("{}: {why}", case.place()));
        }
    }
    assert!(wrong.is_empty(), "{kind:?}: {} of {} cases\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// One test for each way.
macro_rules! everywhere {
    ($($name:ident: $kind:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            hold($kind).await;
        }
    )*};
}

everywhere! {
    every_case_holds_in_memory: Kind::Memory;
    every_case_holds_in_a_directory: Kind::Directory;
    every_case_holds_on_a_server: Kind::Server;
    every_case_holds_over_a_map: Kind::Map;
    every_case_holds_through_a_router: Kind::Router;
}
