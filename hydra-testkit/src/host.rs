//! Something that serves, in threads of its own, until it is told to end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use hydra_core::Error;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// What serves. When this is dropped it ends at once, and nothing of it is left.
#[derive(Debug)]
pub(crate) struct Host {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<Result<(), Error>>>,
    thread: Option<JoinHandle<()>>,
}

/// What is to serve: made of what it needs, run on a listener until it is told to stop, and closed at the end.
pub(crate) trait Service: Sized + Send + 'static {
    /// What it is made of.
    type Needs: Send + 'static;

    /// Makes it.
    fn open(needs: Self::Needs) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Serves until `stop` is done and what has begun is finished. Dropping the future ends at once.
    fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = io::Result<()>>;

    /// Gives back what it holds.
    fn close(self) -> Result<(), Error>;
}

impl Host {
    /// Makes a service and serves it at an address, a free one where its port is 0.
    pub(crate) async fn start<S: Service>(address: SocketAddr, needs: S::Needs) -> Result<Host, Error> {
        let (started, starting) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let body = move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    return drop(started.send(Err(Error::io("start threads for", "a server".as_ref(), error))));
                }
            };
            let opened = runtime.block_on(open::<S>(address, needs));
            let (service, listener, address) = match opened {
                Ok(opened) => opened,
                Err(error) => return drop(started.send(Err(error))),
            };
            let _ = started.send(Ok(address));
            let served = runtime.block_on(async {
                tokio::select! {
                    served = service.serve(listener, async { drop(stopped.await) }) => served,
                    _ = killed => Ok(()),
                }
            });
            // Connections that were cut off hold what they served until they are gone.
            drop(runtime);
            let closed = service.close();
            let served = served.map_err(|error| Error::io("serve", address.to_string().as_ref(), error));
            let _ = end.send(served.and(closed));
        };
        let thread = std::thread::Builder::new().name("hydra-testkit".into()).spawn(body);
        let thread = thread.map_err(|error| Error::io("start a thread for", "a server".as_ref(), error))?;
        let address = starting.await.map_err(|_| ended_early())??;
        let (stop, kill, ended, thread) = (Some(stop), Some(kill), Some(ended), Some(thread));
        Ok(Host { address, stop, kill, ended, thread })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets it finish what has begun, and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        drop(self.stop.take());
        match self.ended.take() {
            Some(ended) => ended.await.map_err(|_| ended_early())?,
            None => Ok(()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            // It told what went wrong when it began, or tells in stop().
            let _ = thread.join();
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).thread_name("hydra-testkit").enable_all().build()
}

async fn open<S: Service>(address: SocketAddr, needs: S::Needs) -> Result<(S, TcpListener, SocketAddr), Error> {
    let no_port = |error| Error::io("listen on", address.to_string().as_ref(), error);
    let listener = TcpListener::bind(address).await.map_err(no_port)?;
    let bound = listener.local_addr().map_err(no_port)?;
    Ok((S::open(needs).await?, listener, bound))
}

fn ended_early() -> Error {
    let why = io::Error::other("it ended early");
    Error::io("start", "a server".as_ref(), why)
}
