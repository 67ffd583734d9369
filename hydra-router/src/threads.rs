//! Threads that serve connections, each connection on one of them from its beginning to its end.
//!
//! In a runtime of many threads whatever goes on may wake another thread, to have its share of the work. For requests as
//! short as ours that costs more than it brings, so a connection that carries one request after the other stays where it is.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads with a runtime each. They end when this is dropped, with everything that runs on them.
#[derive(Debug)]
pub(crate) struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// A copy goes with each connection.
    connections: Seat,
    stop: Option<oneshot::Sender<()>>,
    ends: Option<JoinHandle<()>>,
}

/// Held by a connection, so that it is counted.
pub(crate) type Seat = Arc<()>;

impl Threads {
    /// # Errors
    /// When the system has no threads or files left for them.
    pub(crate) fn start(count: usize) -> io::Result<Threads> {
        (0..count).map(Thread::start).collect::<io::Result<_>>().map(Threads)
    }

    /// The runtime of the thread with the fewest connections; `None` if there are no threads.
    pub(crate) fn least_busy(&self) -> Option<(&Handle, Seat)> {
        let thread = self.0.iter().min_by_key(|thread| Arc::strong_count(&thread.connections))?;
        Some((&thread.runtime, Arc::clone(&thread.connections)))
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Thread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel::<()>());
        let work = move || {
            // Told to stop, or nobody is left who could.
            let _ = runtime.block_on(stopped);
            // Somebody may still be asking for the address of a server.
            runtime.shutdown_background();
        };
        let ends = std::thread::Builder::new().name(format!("connections-{number}")).spawn(work)?;
        Ok(Thread { runtime: handle, connections: Seat::default(), stop: Some(stop), ends: Some(ends) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It has told what went wrong when it panicked.
        self.ends.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_evenly_and_end_with_their_threads() {
        let threads = Threads::start(3).expect("threads");
        let mut seats: Vec<_> = (0..6).filter_map(|_| threads.least_busy()).collect();
        let of = |wanted: &Handle| seats.iter().filter(|(runtime, _)| runtime.id() == wanted.id()).count();
        assert!(seats.iter().all(|(runtime, _)| of(runtime) == 2));
        let (left, _) = seats.swap_remove(4);
        let (next, _) = threads.least_busy().expect("one of three");
        assert_eq!(next.id(), left.id());
        let running = next.spawn(std::future::pending::<()>());
        drop(seats);
        drop(threads);
        assert!(running.await.is_err_and(|ended| ended.is_cancelled()));
    }
}
